"""What advice rests on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from lightning_scaling.advice.matched_runs import BestRate, LagReport
from lightning_scaling.advice.repeats import Repeats
from lightning_scaling.detection import Deviation, Divergence
from lightning_scaling.forecast import Forecast


@dataclass(frozen=True)
class Situation:
    """Everything the adviser looks at.

    Attributes:
        step: The present step.
        fraction: Share of the plan that is done, ``None`` without a planned end.
        loss: Mean of the losses since the last update; ``nan`` if none was finite.
        forecast: The present forecast.
        deviation: The verdict against earlier forecasts.
        divergence: A blow-up under way.
        nonfinite_tail: How many losses in a row, up to now, were not finite.
        nonfinite: How many losses were not finite since the last update.
        rate_ratio: Learning rate used over the planned one, ``nan`` if unknown.
        target: Value the user wants to reach.
        metric: What to call that which is followed.
        mode: Whether it is to be low or high.
        nonfinite_before: How many losses were not finite in the whole run.
        last_nonfinite: Step of the last of them.
        sudden: Whether the losses left their path from one step to the next; ``None`` where that cannot be told.
        marked: Step and reason of the last announced change or resume.
        facts: What the callback saw of the module and its optimizer; see :meth:`Monitor.note`.
        behind: How the run compares with earlier ones of its size and plan, where it is clearly worse.
        best_rate: The best learning rate by the family, where the run is clearly off it.
        hint: A remark for the start of the run.
        held_out: Whether the metric is, by its name, measured on data held out of training.
        repeats: Where the run is in its data; ``None`` where that cannot be told.
        remark: A remark for later on, on the batch.
        best: Step and value of the best point of the curve, where a metric of held-out data is in trouble.
    """

    step: int
    fraction: float | None
    loss: float
    forecast: Forecast
    deviation: Deviation
    divergence: Divergence | None
    nonfinite_tail: int
    nonfinite: int
    rate_ratio: float
    target: float | None
    metric: str = "loss"
    mode: Literal["min", "max"] = "min"
    nonfinite_before: int = 0
    last_nonfinite: int | None = None
    sudden: bool | None = None
    marked: tuple[int, str] | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)
    behind: LagReport | None = None
    best_rate: BestRate | None = None
    hint: str = ""
    held_out: bool = False
    repeats: Repeats | None = None
    remark: str = ""
    best: tuple[int, float] | None = None

    @property
    def followed(self) -> str:
        """The metric as the subject of a sentence."""
        return "loss" if self.metric == "loss" else f"`{self.metric}`"

    @property
    def values(self) -> str:
        """Several values of the metric."""
        return "losses" if self.metric == "loss" else f"values of {self.followed}"

    @property
    def the(self) -> str:
        """The metric at the beginning of a sentence."""
        return "The loss" if self.metric == "loss" else f"`{self.metric}`"

    @property
    def left(self) -> float:
        """Share of the planned compute that is still to be spent; 0 without a planned end."""
        return 0.0 if self.fraction is None else max(1.0 - self.fraction, 0.0)

    @property
    def total(self) -> float:
        """Planned steps; the present one without a planned end."""
        return self.step / self.fraction if self.fraction else float(self.step)

    @property
    def worse(self) -> bool:
        """Whether the run has left its path in the direction nobody wants."""
        return (self.deviation.direction != "below") == (self.mode == "min")

    @property
    def again(self) -> Repeats | None:
        """Where the run is in its data, if they come a second time or more."""
        return self.repeats if self.repeats is not None and self.repeats.again else None
