"""When to stop a run: it is lost, it will miss what it is to reach, or the rest of it is not worth its cost."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from lightning_scaling.advice.ranking import Ranking
from lightning_scaling.detection import Deviation, Divergence
from lightning_scaling.forecast import Forecast

Kind = Literal["diverged", "target", "best", "value"]
_NONFINITE = 20
_HOLDS = 3


@dataclass(frozen=True)
class Decision:
    """The decision to stop a run.

    Attributes:
        kind: ``"diverged"``, ``"target"`` (it misses the target), ``"best"`` (it will not beat the best run) or
            ``"value"`` (the rest is not worth its cost).
        reason: One plain sentence with numbers.
        step: Step at which it was taken.
        saving: Share of the planned compute that stopping saves.
        cost: Loss given up by not going on, in the unit of the loss; ``None`` where it cannot be known.
        probability: Probability that the reason holds.
        evidence: The numbers behind it, as builtins.
    """

    kind: Kind
    reason: str
    step: int
    saving: float
    cost: float | None
    probability: float
    evidence: dict[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """The decision as builtins."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Decision:
        """The decision that :meth:`to_dict` described."""
        return cls(**data)


@dataclass(frozen=True)
class Moment:
    """What a decision rests on.

    Attributes:
        step: The present step.
        fraction: Share of the plan that is done; ``None`` without a planned end.
        loss: Mean of the losses since the last update but one.
        forecast: The present forecast.
        deviation: The verdict against earlier forecasts.
        divergence: A blow-up under way.
        nonfinite_tail: How many losses in a row, up to now, were not finite.
        flops_left: Training FLOPs still to be spent; ``None`` if unknown.
        hours_left: Hours still to be trained; ``None`` if unknown.
        standings: How the run, number 0, stands among its relatives at this progress; ``None`` without any.
        mode: Whether the metric followed is to be low or high.
        metric: What to call it.
    """

    step: int
    fraction: float | None
    loss: float
    forecast: Forecast
    deviation: Deviation
    divergence: Divergence | None = None
    nonfinite_tail: int = 0
    flops_left: float | None = None
    hours_left: float | None = None
    standings: Ranking | None = None
    mode: str = "min"
    metric: str = "loss"

    @property
    def saving(self) -> float:
        """Share of the planned compute that is left."""
        return 0.0 if self.fraction is None else min(max(1 - self.fraction, 0.0), 1.0)

    @property
    def cost(self) -> float | None:
        """What the forecast still promises to gain."""
        if not math.isfinite(self.loss) or not math.isfinite(self.forecast.final):
            return None
        return max(self.gain_to(self.forecast.final), 0.0)

    def gain_to(self, value: float) -> float:
        """How much better than now a value is."""
        return self.loss - value if self.mode == "min" else value - self.loss

    @property
    def settled(self) -> bool:
        """Whether there is a verdict on the run."""
        return self.deviation.verdict != "undecidable"

    @property
    def sure(self) -> bool:
        """Whether the forecast may be acted upon."""
        return self.settled and self.forecast.trust == "ok"


class StopRule:
    """Decides whether to stop.

    Only a run that has diverged for good is stopped without regard to the forecast; every other decision needs a
    verdict on the run and a forecast to be trusted, and all but the comparison with other runs, whose errors cancel,
    the same finding at three moments on end: a forecast looked at a hundred times errs now and then.

    Args:
        target: Value that the run is to reach: at most, at least for a metric that is to be high.
        best: Value that the run is to beat.
        probability: Least probability of missing either, or of not being the best, at which to stop.
        value: What one unit of loss is worth, in any currency.
        price_per_hour: What an hour of training costs, in the same currency.
        price_per_flop: What a training FLOP costs, in the same currency.
        holds: Moments on end at which a finding that rests on the forecast must be made.

    Attributes:
        held: How many on end there have been so far, by kind.

    Raises:
        TypeError: If an argument is no number.
        ValueError: If it has a value that it cannot have.
    """

    def __init__(
        self,
        *,
        target: float | None = None,
        best: float | None = None,
        probability: float = 0.95,
        value: float | None = None,
        price_per_hour: float | None = None,
        price_per_flop: float | None = None,
        holds: int = _HOLDS,
    ) -> None:
        for name, number in (("target", target), ("best", best)):
            if number is not None and not _finite(number):
                raise TypeError(f"`{name}` must be a finite number or None, but got {number!r}.")
        if not _finite(probability) or not 0.5 <= probability < 1:
            raise ValueError(f"`probability` must be at least 0.5 and below 1, but got {probability!r}.")
        for name, number in (("value", value), ("price_per_hour", price_per_hour), ("price_per_flop", price_per_flop)):
            if number is not None and not (_finite(number) and number > 0):
                raise ValueError(f"`{name}` must be a positive number or None, but got {number!r}.")
        priced = price_per_hour is not None or price_per_flop is not None
        if priced and value is None:
            raise ValueError("A price needs `value` beside it: what one unit of loss is worth in the same currency.")
        if value is not None and not priced:
            raise ValueError("`value` needs a price beside it: give `price_per_hour` or `price_per_flop`.")
        self.target = target
        self.best = best
        self.probability = probability
        self.value = value
        self.price_per_hour = price_per_hour
        self.price_per_flop = price_per_flop
        self.holds = holds
        self.held: dict[str, int] = {}

    def decide(self, moment: Moment) -> Decision | None:
        """The decision at this moment; ``None`` to go on."""
        forecast = (self._misses_target(moment), self._misses_best(moment), self._worthless(moment))
        found = [one for one in forecast if one is not None]
        self.held = {one.kind: self.held.get(one.kind, 0) + 1 for one in found}
        held = [one for one in found if self.held[one.kind] >= self.holds]
        return next((one for one in (_lost(moment), self._outrun(moment), *held) if one is not None), None)

    def _misses_target(self, m: Moment) -> Decision | None:
        return None if self.target is None else self._misses(m, self.target, "target", f"the target {self.target:.4g}")

    def _misses_best(self, m: Moment) -> Decision | None:
        return None if self.best is None else self._misses(m, self.best, "best", f"the best so far, {self.best:.4g},")

    def _misses(self, m: Moment, wanted: float, kind: Kind, what: str) -> Decision | None:
        if not m.sure or not m.forecast.at_plan_end:
            return None
        prediction = m.forecast.final_distribution
        miss = 1 - prediction.reaches(wanted)
        if miss < self.probability:
            return None
        lower, upper = prediction.interval(0.9)
        verb = "misses" if kind == "target" else "does not beat"
        return Decision(
            kind,
            f"The final {_followed(m)} is forecast at {prediction:.4g} (90 % between {lower:.4g} and {upper:.4g}) and "
            f"{verb} {what} with probability {_percent(miss)}; {_saves(m)}.",
            m.step,
            m.saving,
            m.cost,
            miss,
            {"wanted": float(wanted), "final": float(prediction), "lower": lower, "upper": upper},
        )

    def _outrun(self, m: Moment) -> Decision | None:
        if m.standings is None or not m.sure or 0 not in m.standings.hopeless(self.probability):
            return None
        own, favourite = m.standings.of(0), m.standings.favourite
        assert own is not None
        count = len(m.standings.runs) - 1
        others = f"{count:,} other runs" if count > 1 else "the other run"
        schedule = "" if m.standings.same_schedule else ", their other schedules reckoned with,"
        behind = own.behind - favourite.behind
        whom = f"{favourite.name!r}" if favourite.name else "the likely best of them"
        gap = f" and is expected to end {behind:.3g} behind {whom}" if m.metric == "loss" and behind > 0 else ""
        return Decision(
            "best",
            f"Compared with {others} at {m.standings.fraction:.0%} of the plan{schedule} the run will not be the best "
            f"with probability {_percent(1 - own.chance)}{gap}; {_saves(m)}.",
            m.step,
            m.saving,
            m.cost,
            1 - own.chance,
            {
                "behind": behind,
                "best": own.chance,
                "runs": count,
                "same_schedule": m.standings.same_schedule,
                "favourite": favourite.name,
            },
        )

    def _worthless(self, m: Moment) -> Decision | None:
        if self.value is None or not m.sure or not m.forecast.at_plan_end or not math.isfinite(m.loss):
            return None
        price = 0.0
        for rate, left in ((self.price_per_hour, m.hours_left), (self.price_per_flop, m.flops_left)):
            if rate is not None:
                if left is None:
                    return None
                price += rate * left
        tail = 1 - self.probability
        hoped = m.forecast.quantile(tail if m.mode == "min" else 1 - tail)
        gain = max(m.gain_to(hoped), 0.0)
        if gain * self.value >= price:
            return None
        return Decision(
            "value",
            f"The rest of the run costs {price:.4g}, but even a gain of {gain:.3g}, with a probability of only "
            f"{_percent(tail)} of more, is worth no more than {gain * self.value:.4g}; {_saves(m)}.",
            m.step,
            m.saving,
            m.cost,
            self.probability,
            {"price": price, "worth": gain * self.value, "gain": gain, "final": m.forecast.final},
        )


def _lost(m: Moment) -> Decision | None:
    saves = _saves(m)
    if m.nonfinite_tail >= _NONFINITE:
        values = "losses" if m.metric == "loss" else f"values of `{m.metric}`"
        return Decision(
            "diverged",
            f"The last {m.nonfinite_tail:,} {values} are not finite, so the weights are very likely lost; {saves}.",
            m.step,
            m.saving,
            0.0,
            0.99,
            {"nonfinite_tail": m.nonfinite_tail},
        )
    d = m.divergence
    if d is None or not d.lasting:
        return None
    the = "The loss" if m.metric == "loss" else f"`{m.metric}`"
    return Decision(
        "diverged",
        f"{the} has gone from {d.best:.4g} back to {m.loss:.4g} since step {d.since_step:,} and stays there: "
        f"{d.lost:.0%} of what the run had gained is lost; {saves}.",
        m.step,
        m.saving,
        None,
        0.95,
        {"since_step": d.since_step, "lost": d.lost, "best": d.best, "loss": m.loss},
    )


def _saves(m: Moment) -> str:
    saved = "" if m.fraction is None else f" saves {m.saving:.0%} of the planned compute"
    return f"stopping at step {m.step:,}{saved}" if saved else f"the run is stopped at step {m.step:,}"


def _followed(m: Moment) -> str:
    return "loss" if m.metric == "loss" else f"`{m.metric}`"


def _percent(share: float) -> str:
    return "over 99.9%" if share > 0.999 else f"{share:.1%}"


def _finite(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
