"""The state of a run at an update, on which all advice rests."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from lightning_scaling.advice.matched_runs import LagReport, LearningRateOptimum
from lightning_scaling.advice.ranking import Ranking
from lightning_scaling.advice.repeats import Repeats
from lightning_scaling.detection import Deviation, Divergence
from lightning_scaling.forecast import Forecast


@dataclass(frozen=True, kw_only=True)
class RunState:
    """Everything that findings, causes and stopping rules look at.

    Attributes:
        step: The present step.
        fraction: Share of the plan that is done; ``None`` without a planned end.
        loss: Mean of the losses since the last update; ``nan`` if none was finite.
        forecast: The present forecast.
        deviation: The verdict against earlier forecasts.
        divergence: A divergence under way.
        nonfinite_tail: How many losses in a row, up to now, were not finite.
        nonfinite: How many losses were not finite since the last update.
        nonfinite_total: How many losses were not finite in the whole run.
        last_nonfinite: Step of the last of them.
        rate_ratio: Learning rate used over the planned one; ``nan`` if unknown.
        target: Value to be reached.
        metric: Name of the metric followed.
        mode: Whether it is to be low or high.
        abrupt: Whether the losses left their path from one step to the next; ``None`` where that is not known.
        marked: Step and reason of the last announced change or resume.
        facts: Diagnostics of the module and its optimizer; see :meth:`Monitor.note`.
        lag: Lag behind matched runs, where it is clear.
        learning_rate_optimum: The best learning rate of the past runs, where the run is clearly off it.
        hint: A hint for the start of the run.
        batch_hint: A hint on the batch size, for later on.
        held_out: Whether the metric is, by its name, measured on data held out of training.
        repeats: Where the run is in its data; ``None`` where that is not known.
        best: Step and value of the best point of the curve, where a metric of held-out data is in trouble.
        flops_left: Training FLOPs still to be spent; ``None`` if unknown.
        hours_left: Hours still to be trained; ``None`` if unknown.
        ranking: Comparison of the run, number 0, with other runs at this progress; ``None`` without any.
    """

    step: int
    fraction: float | None
    loss: float
    forecast: Forecast
    deviation: Deviation
    divergence: Divergence | None = None
    nonfinite_tail: int = 0
    nonfinite: int = 0
    nonfinite_total: int = 0
    last_nonfinite: int | None = None
    rate_ratio: float = math.nan
    target: float | None = None
    metric: str = "loss"
    mode: Literal["min", "max"] = "min"
    abrupt: bool | None = None
    marked: tuple[int, str] | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)
    lag: LagReport | None = None
    learning_rate_optimum: LearningRateOptimum | None = None
    hint: str = ""
    batch_hint: str = ""
    held_out: bool = False
    repeats: Repeats | None = None
    best: tuple[int, float] | None = None
    flops_left: float | None = None
    hours_left: float | None = None
    ranking: Ranking | None = None

    @property
    def noun(self) -> str:
        """The metric within a sentence."""
        return "loss" if self.metric == "loss" else f"`{self.metric}`"

    @property
    def nouns(self) -> str:
        """Several values of the metric."""
        return "losses" if self.metric == "loss" else f"values of {self.noun}"

    @property
    def subject(self) -> str:
        """The metric at the beginning of a sentence."""
        return "The loss" if self.metric == "loss" else self.noun

    @property
    def saving(self) -> float:
        """Share of the planned compute that is still to be spent; 0 without a planned end."""
        return 0.0 if self.fraction is None else min(max(1.0 - self.fraction, 0.0), 1.0)

    @property
    def planned_steps(self) -> float:
        """Planned steps; the present one without a planned end."""
        return self.step / self.fraction if self.fraction else float(self.step)

    @property
    def worse(self) -> bool:
        """Whether the run has left its path in the undesired direction."""
        return (self.deviation.direction != "below") == (self.mode == "min")

    @property
    def repeated(self) -> Repeats | None:
        """Where the run is in its data, if they come a second time or more."""
        return self.repeats if self.repeats is not None and self.repeats.repeated else None

    @property
    def decidable(self) -> bool:
        """Whether the forecast may be acted upon: there is a verdict on the run, and the trust is "ok"."""
        return self.deviation.verdict != "undecidable" and self.forecast.trust == "ok"

    @property
    def forecast_gain(self) -> float | None:
        """Improvement that the forecast still promises, in the unit of the metric; ``None`` where it is not known."""
        if not math.isfinite(self.loss) or not math.isfinite(self.forecast.final):
            return None
        return max(self.gain_to(self.forecast.final), 0.0)

    def gain_to(self, value: float) -> float:
        """How much better a value is than the present one."""
        return self.loss - value if self.mode == "min" else value - self.loss
