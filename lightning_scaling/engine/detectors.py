"""Detectors on the scale of the law, for a metric in its own units."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from lightning_scaling.detection import (
    Block,
    DetectionConfig,
    Divergence,
    References,
    RunDetectors,
    default_detectors,
)
from lightning_scaling.detection.result import UNDECIDABLE
from lightning_scaling.engine.buffer import LossBuffer
from lightning_scaling.engine.metric import FollowedMetric
from lightning_scaling.forecast import Forecast


class MetricDetectors:
    """Summarizes the losses between updates, tests them on the scale of the law, and reports in units of the metric.

    Args:
        alpha: Probability of a false alarm over the whole run.
        metric: The metric that is followed.
        config: Tuned numbers.

    Attributes:
        deviation: The latest verdict, in the units of the metric.
        divergence: A blow-up under way, in the units of the metric.
    """

    def __init__(self, alpha: float, metric: FollowedMetric, config: DetectionConfig) -> None:
        self._metric = metric
        self._config = config
        self._detectors = RunDetectors(alpha, default_detectors(config), config)
        self._noise: list[float] = []
        self.deviation = UNDECIDABLE
        self.divergence: Divergence | None = None

    @property
    def limit(self) -> float:
        """A loss so high that an update is made at once; infinite while a blow-up is under way already."""
        if not self._metric.plain or not self._noise:
            return math.inf
        return self._detectors.limit(float(np.median(self._noise)))

    def update(
        self, pending: LossBuffer, forecast: Forecast, *, settled: bool, blown: bool, rate: float = math.nan
    ) -> Block | None:
        """Judge the losses since the last update.

        Args:
            pending: Those losses.
            forecast: The forecast made after them, on the scale of the law.
            settled: Whether the run may be tested against that forecast from now on.
            blown: Whether the last of them was above :attr:`limit`.
            rate: Learning rate planned for the present step.

        Returns:
            Their summary in the units of the metric, ``None`` when none was finite.
        """
        block = self._block(pending, rate=rate, blown=blown)
        if "noise" in forecast.params and not self.deviation.alarm:
            # Kept per single loss; bins and blocks hold different numbers of them.
            per_loss = forecast.params["noise"] * math.sqrt(forecast.params["losses_per_point"])
            self._noise = [*self._noise, per_loss][-self._config.block.noise_memory :]
        own = forecast if forecast.own_path is None else replace(forecast, path=forecast.own_path)
        past_runs = None
        if forecast.peer_path is not None:
            past_runs = replace(forecast, path=forecast.peer_path, valid_until=math.inf)
        verdict = self._detectors.update(self._metric.block(block), References(own, past_runs, settled))
        self.deviation = self._metric.deviation(verdict, block)
        self.divergence = self._metric.divergence(self._detectors.divergence)
        return block

    def _block(self, pending: LossBuffer, *, rate: float = math.nan, blown: bool = False) -> Block | None:
        # The median noise of fits made before this block: a fault must not widen the interval it is judged by.
        noise = float(np.median(self._noise)) / math.sqrt(max(len(pending), 1)) if self._noise else 0.0
        steps, losses = pending.means
        if noise and not self._metric.plain and len(pending):
            noise = self._metric.noise(float(np.mean(losses)), noise)
        return Block.of(steps, losses, noise, rate=rate, blown=blown, config=self._config.block)

    @property
    def suspicious(self) -> bool:
        """Whether the next losses should be looked at before the next update is due."""
        return self._detectors.suspicious

    def peek(self, pending: LossBuffer) -> bool:
        """Whether an update made now would raise an alarm.

        Args:
            pending: The losses since the last update.
        """
        block = self._metric.block(self._block(pending))
        return block is not None and self._detectors.peek(block)

    def restart(self, *, keep_verdict: bool = False) -> None:
        """Forget all forecasts, as after an announced change; the alpha budget spent so far stays spent.

        Args:
            keep_verdict: Whether the present verdict stays until the next update, as after a change of the plan.
        """
        self._detectors.restart()
        if not keep_verdict:
            self.deviation = UNDECIDABLE

    def rescaled(self) -> None:
        """Forget everything: it was measured on another scale."""
        self._noise = []
        self._detectors.reset()
        self.deviation = UNDECIDABLE

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs, as builtins: frozen forecasts are not kept, the budget spent on them is."""
        return {"detectors": self._detectors.state_dict(), "noise": list(self._noise)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from what :meth:`state_dict` returned."""
        self._detectors.load_state_dict(state["detectors"])
        self._noise = list(state["noise"])
