"""Rules that stop a run: it is lost, it misses what it is to reach, or the rest of it does not pay."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from lightning_scaling._utils.enums import StrEnum
from lightning_scaling._utils.validation import is_number
from lightning_scaling.advice.config import DEFAULT, FindingsConfig
from lightning_scaling.advice.findings import diverged, misses, weights_lost
from lightning_scaling.advice.state import RunState

_MAX_PERCENT = 0.999
_EVEN_ODDS = 0.5


class StopKind(StrEnum):
    """Why a run is stopped."""

    DIVERGED = "diverged"
    TARGET = "target"
    BEST = "best"
    VALUE = "value"


@dataclass(frozen=True, repr=False)
class Decision:
    """The decision to stop a run.

    Attributes:
        kind: ``"diverged"``, ``"target"`` (it misses the target), ``"best"`` (it will not beat the best run) or
            ``"value"`` (the rest does not pay).
        reason: One plain sentence with numbers.
        step: Step at which it was taken.
        saving: Share of the planned compute that stopping saves.
        cost: Loss given up by not going on, in the unit of the loss; ``None`` where it cannot be known.
        probability: Probability that the reason holds.
        evidence: The numbers behind it, as builtins.
    """

    kind: StopKind
    reason: str
    step: int
    saving: float
    cost: float | None
    probability: float
    evidence: dict[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Every attribute by its name, as builtins."""
        return {**asdict(self), "kind": self.kind.value}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Decision:
        """The decision that :meth:`to_dict` described."""
        return cls(**{**data, "kind": StopKind(data["kind"])})

    def __repr__(self) -> str:
        return (
            f"Decision(stop at step {self.step:,}, kind={self.kind}, saving={self.saving:.0%}, "
            f"probability={_percent(self.probability)})"
        )


@dataclass(kw_only=True, eq=False)
class StopRule:
    """Decides whether to stop.

    Only a run that has diverged for good is stopped without regard to the forecast; every other decision needs a
    verdict on the run and a forecast to be trusted, and all but the comparison with other runs, whose errors cancel,
    the same finding at three updates in a row: a forecast looked at a hundred times errs now and then.

    Args:
        target: Value that the run is to reach: at most, at least for a metric that is to be high.
        best: Value that the run is to beat.
        probability: Least probability of missing either, or of not being the best, at which to stop.
        value: Economic value of one unit of loss, in any currency.
        price_per_hour: Price of an hour of training, in the same currency.
        price_per_flop: Price of a training FLOP, in the same currency.
        holds: Updates in a row at which a finding that rests on the forecast must be made.
        config: Tuned numbers of the findings.

    Attributes:
        held: How many in a row there have been so far, by kind.

    Raises:
        TypeError: If an argument is no number.
        ValueError: If it has a value that it cannot have.
    """

    target: float | None = None
    best: float | None = None
    probability: float = DEFAULT.stopping.probability
    value: float | None = None
    price_per_hour: float | None = None
    price_per_flop: float | None = None
    holds: int = DEFAULT.stopping.updates_to_hold
    config: FindingsConfig = DEFAULT.findings
    held: dict[str, int] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        for name in ("target", "best"):
            number = getattr(self, name)
            if number is not None and not is_number(number):
                raise TypeError(f"`{name}` must be a finite number or None, but got {number!r}.")
        if not is_number(self.probability) or not _EVEN_ODDS <= self.probability < 1:
            raise ValueError(f"`probability` must be at least 0.5 and below 1, but got {self.probability!r}.")
        for name in ("value", "price_per_hour", "price_per_flop"):
            number = getattr(self, name)
            if number is not None and not (is_number(number) and number > 0):
                raise ValueError(f"`{name}` must be a positive number or None, but got {number!r}.")
        priced = self.price_per_hour is not None or self.price_per_flop is not None
        if priced and self.value is None:
            raise ValueError("A price needs `value`, too: the value of one unit of loss in the same currency.")
        if self.value is not None and not priced:
            raise ValueError("`value` needs a price, too: give `price_per_hour` or `price_per_flop`.")

    def decide(self, state: RunState) -> Decision | None:
        """The decision at an update; ``None`` to go on."""
        lost = weights_lost(state, self.config) or diverged(state, self.config)
        now = lost and _decision(state, StopKind.DIVERGED, lost.reason, lost.confidence, lost.evidence, lost.cost)
        found = [
            self._misses(state, StopKind.TARGET, self.target, "misses the target {:.4g}"),
            self._misses(state, StopKind.BEST, self.best, "does not beat the best so far, {:.4g},"),
            self._value(state),
        ]
        self.held = {one.kind.value: self.held.get(one.kind.value, 0) + 1 for one in found if one}
        held = (one for one in found if one and self.held[one.kind.value] >= self.holds)
        return now or self._dominated(state) or next(held, None)

    def _misses(self, s: RunState, kind: StopKind, wanted: float | None, what: str) -> Decision | None:
        if wanted is None or not s.decidable or not s.forecast.at_plan_end:
            return None
        miss = misses(s, wanted, what.format(wanted), self.probability)
        if miss is None:
            return None
        clause, evidence = f"{miss.reason} {_percent(miss.confidence)}", {"wanted": float(wanted), **miss.evidence}
        return _decision(s, kind, clause, miss.confidence, evidence, miss.cost)

    def _dominated(self, s: RunState) -> Decision | None:
        ranking = s.ranking
        if ranking is None or not s.decidable or 0 not in ranking.dominated(self.probability):
            return None
        own, best, count = ranking.of(0), ranking.likely_best, len(ranking.runs) - 1
        assert own is not None
        others = f"{count:,} other runs" if count > 1 else "the other run"
        schedule = "" if ranking.same_schedule else ", allowing for their different schedules,"
        behind, sure = own.behind - best.behind, 1 - own.chance
        name = f"{best.name!r}" if best.name else "the likely best of them"
        gap = f" and is expected to end {behind:.3g} behind {name}" if s.metric == "loss" and behind > 0 else ""
        clause = (
            f"Compared with {others} at {ranking.fraction:.0%} of the plan{schedule} the run will not be the best with "
            f"probability {_percent(sure)}{gap}"
        )
        evidence = {"behind": behind, "best": own.chance, "runs": count, "same_schedule": ranking.same_schedule}
        return _decision(s, StopKind.BEST, clause, sure, {**evidence, "likely_best": best.name}, s.forecast_gain)

    def _value(self, s: RunState) -> Decision | None:
        if self.value is None or not s.decidable or not s.forecast.at_plan_end or not math.isfinite(s.loss):
            return None
        price = 0.0
        for rate, left in ((self.price_per_hour, s.hours_left), (self.price_per_flop, s.flops_left)):
            if rate is not None:
                if left is None:
                    return None
                price += rate * left
        tail = 1 - self.probability
        gain = max(s.gain_to(s.forecast.quantile(tail if s.mode == "min" else 1 - tail)), 0.0)
        value = gain * self.value
        if value >= price:
            return None
        clause = (
            f"The rest of the run costs {price:.4g}, but even a gain of {gain:.3g}, with a probability of only "
            f"{_percent(tail)} of more, is worth no more than {value:.4g}"
        )
        evidence = {"price": price, "value": value, "gain": gain, "final": s.forecast.final}
        return _decision(s, StopKind.VALUE, clause, self.probability, evidence, s.forecast_gain)


def _decision(
    s: RunState, kind: StopKind, clause: str, probability: float, evidence: dict[str, Any], cost: float | None
) -> Decision:
    saves = f"the run is stopped at step {s.step:,}"
    if s.fraction is not None:
        saves = f"stopping at step {s.step:,} saves {s.saving:.0%} of the planned compute"
    return Decision(kind, f"{clause}; {saves}.", s.step, s.saving, cost, probability, evidence)


def _percent(share: float) -> str:
    return "over 99.9%" if share > _MAX_PERCENT else f"{share:.1%}"
