"""Settings of the engine for one followed metric."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from lightning_scaling._utils.validation import is_number
from lightning_scaling.advice.config import AdviceConfig
from lightning_scaling.detection.config import DetectionConfig
from lightning_scaling.forecast.config import ForecastConfig
from lightning_scaling.forecast.metric_scale import scales_for
from lightning_scaling.runs.history import RunHistory


@dataclass(frozen=True, kw_only=True)
class MonitorConfig:
    """Checked settings of a :class:`~lightning_scaling.engine.monitor.Monitor`, under the names of its arguments.

    Attributes:
        alpha: Probability of a false alarm over the whole run, in ``(0, 1)``.
        target: Value the user wants to reach, or ``None``.
        history: Finished runs of the same family; their shapes replace the published prior, and their calibration
            corrects the intervals.
        params: Number of parameters, for the record.
        monitor: Name of the metric followed; ``None`` is the training loss.
        mode: Whether it is to be low (``"min"``) or high (``"max"``); ``"auto"`` goes by its name.
        bounds: Its lowest and highest value, ``None`` for none; left out, see
            :func:`~lightning_scaling.forecast.metric_scale.scales_for`.
        unique_tokens: Distinct tokens (or samples) there are to train on; ``None`` works them out from the diagnostic
            ``epoch_steps`` and the tokens of a step.
        forecast: Tuned numbers of the forecasts.
        detection: Tuned numbers of the detectors.
        advice: Tuned numbers of the advice.

    Raises:
        ValueError: If a setting is out of its range.
    """

    alpha: float = 0.01
    target: float | None = None
    history: RunHistory | None = field(default=None, repr=False, compare=False)
    params: int | None = None
    monitor: str | None = None
    mode: str = "auto"
    bounds: Sequence[float | None] | None = None
    unique_tokens: float | None = None
    forecast: ForecastConfig = field(default_factory=ForecastConfig, repr=False)
    detection: DetectionConfig = field(default_factory=DetectionConfig, repr=False)
    advice: AdviceConfig = field(default_factory=AdviceConfig, repr=False)

    def __post_init__(self) -> None:
        if not (is_number(self.alpha) and 0 < self.alpha < 1):
            raise ValueError(f"`alpha` is a probability and must lie strictly between 0 and 1, but got {self.alpha!r}.")
        if self.target is not None and not math.isfinite(self.target):
            raise ValueError(f"`target` must be a finite loss or None, but got {self.target!r}.")
        scales_for(self.monitor, self.mode, self.bounds)

    def to_dict(self) -> dict[str, Any]:
        """The settings that a journal keeps, as builtins: a replay with the same ones gives the same numbers.

        Keys: ``alpha``, ``target``, ``params``, ``monitor``, ``mode``, ``bounds``, ``unique_tokens``.
        """
        names = ("alpha", "target", "params", "monitor", "mode", "unique_tokens")
        bounds = None if self.bounds is None else list(self.bounds)
        return {**{name: getattr(self, name) for name in names}, "bounds": bounds}
