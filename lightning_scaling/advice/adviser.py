"""From the state of a run to one sentence of advice."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from lightning_scaling.advice.result import Action, Advice
from lightning_scaling.deviation import Deviation, Divergence
from lightning_scaling.forecast import Forecast

_NONFINITE_STOP = 20
_RATE_OFF = 0.05
_MISS = 0.95
_CALM = 2

_CHECK_WORSE = "check the learning rate, the batch and the data that arrived since then before anything else"
_CHECK_BETTER = "check for repeated data, a leak or a change of the {} before celebrating"


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


class Adviser:
    """Turns situations into advice that does not flap.

    The gravest finding speaks. A graver action is taken up at once, a milder one once it has held for two updates.
    """

    def __init__(self) -> None:
        self._current: Action = "continue"
        self._calm = 0

    def advise(self, situation: Situation) -> Advice:
        """The advice for this moment."""
        advice = _findings(situation)
        if _gravity(advice.action) >= _gravity(self._current):
            self._current, self._calm = advice.action, 0
            return advice
        self._calm += 1
        if self._calm >= _CALM:
            self._current, self._calm = advice.action, 0
            return advice
        return Advice(
            self._current,
            f"At step {situation.step:,} the signs that led to the advice to {self._current} have eased; "
            "waiting to see that this lasts.",
            evidence=advice.evidence,
            saving=_saving(situation) if self._current == "stop" else 0.0,
            cost=None if self._current == "stop" else 0.0,
            confidence=0.5,
            step=situation.step,
        )

    def state_dict(self) -> dict[str, Any]:
        """The adviser's memory as builtins."""
        return {"current": self._current, "calm": self._calm}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from what :meth:`state_dict` returned."""
        self._current, self._calm = state["current"], state["calm"]


def _gravity(action: Action) -> int:
    return {"continue": 0, "resize": 1, "investigate": 2, "stop": 3}[action]


def _saving(situation: Situation) -> float:
    return 0.0 if situation.fraction is None else max(1.0 - situation.fraction, 0.0)


def _left(situation: Situation) -> str:
    return "" if situation.fraction is None else f" Stopping now saves {_saving(situation):.0%} of the planned compute."


def _findings(situation: Situation) -> Advice:
    for finding in (_not_finite, _diverged, _rate, _deviates, _misses_target):
        advice = finding(situation)
        if advice is not None:
            return advice
    return _on_track(situation)


def _not_finite(s: Situation) -> Advice | None:
    if s.nonfinite_tail >= _NONFINITE_STOP:
        first = s.step - s.nonfinite_tail + 1
        return Advice(
            "stop",
            f"The last {s.nonfinite_tail:,} {s.values}, since about step {first:,}, are not finite: the weights are "
            f"very likely lost; go back to a checkpoint from before that step and lower the learning rate.{_left(s)}",
            {"nonfinite_tail": s.nonfinite_tail, "first_step": first},
            saving=_saving(s),
            cost=0.0,
            confidence=0.99,
            step=s.step,
        )
    if s.nonfinite:
        word = "loss" if s.nonfinite == 1 and s.metric == "loss" else s.values
        return Advice(
            "investigate",
            f"{s.nonfinite:,} {word} before step {s.step:,} came out not finite; look for an overflow or a bad batch "
            "there.",
            {"nonfinite": s.nonfinite},
            confidence=0.99,
            step=s.step,
        )
    return None


def _diverged(s: Situation) -> Advice | None:
    d = s.divergence
    if d is None:
        return None
    evidence = {"since_step": d.since_step, "lost": d.lost, "best": d.best, "loss": s.loss}
    back = "back up" if s.mode == "min" else "back down"
    since = f"{s.the} has gone from {d.best:.4g} {back} to {s.loss:.4g} since step {d.since_step:,}"
    if d.lasting:
        return Advice(
            "stop",
            f"{since} and stays there: {d.lost:.0%} of what the run had gained is lost; go back to a checkpoint from "
            f"before that step and lower the learning rate.{_left(s)}",
            evidence,
            saving=_saving(s),
            cost=None,
            confidence=0.95,
            step=s.step,
        )
    return Advice(
        "investigate",
        f"{since}, {d.lost:.0%} of what the run had gained; if it does not come back, the run has diverged.",
        evidence,
        confidence=0.9,
        step=s.step,
    )


def _rate(s: Situation) -> Advice | None:
    if not math.isfinite(s.rate_ratio) or abs(s.rate_ratio - 1) <= _RATE_OFF:
        return None
    return Advice(
        "investigate",
        f"At step {s.step:,} the learning rate used is {s.rate_ratio:.3g} times the planned one, so the forecast no "
        "longer applies; if the change was meant, announce it with `mark(reason, follow_rates=True)`, otherwise mend "
        "the schedule.",
        {"rate_ratio": s.rate_ratio},
        confidence=0.99,
        step=s.step,
    )


def _deviates(s: Situation) -> Advice | None:
    d = s.deviation
    if not d.alarm:
        return None
    above = d.direction != "below"
    worse = above == (s.mode == "min")
    evidence = {
        "e_value": d.e_value,
        "since_step": d.since_step,
        "excess": d.excess,
        "expected": d.expected,
        "loss": s.loss,
        "direction": d.direction,
    }
    share = abs(d.excess / d.expected) if d.expected else math.nan
    return Advice(
        "investigate",
        f"{s.the} is {s.loss:.4g} at step {s.step:,} where {d.expected:.4g} was forecast at step {d.since_step:,}: "
        f"{share:.1%} {'above' if above else 'below'} its path (odds {_odds(d.e_value)} against chance); "
        f"{_CHECK_WORSE if worse else _CHECK_BETTER.format('loss' if s.metric == 'loss' else 'metric')}.",
        evidence,
        confidence=1 - 1 / max(d.e_value, 1.0),
        step=s.step,
    )


def _odds(e_value: float) -> str:
    return "over a million to 1" if e_value > 1e6 else f"{e_value:,.0f} to 1"


def _misses_target(s: Situation) -> Advice | None:
    if s.target is None or s.forecast.trust != "ok":
        return None
    prediction = s.forecast.landing
    miss = 1 - prediction.reaches(s.target)
    if miss < _MISS:
        return None
    lower, upper = prediction.interval(0.9)
    return Advice(
        "stop",
        f"The final {s.followed} is forecast at {prediction:.4g} (90 % between {lower:.4g} and {upper:.4g}) and misses "
        f"the target {s.target:.4g} with probability {miss:.1%}.{_left(s)}",
        {"target": s.target, "miss": miss, "final": float(prediction), "lower": lower, "upper": upper},
        saving=_saving(s),
        cost=max((s.loss - float(prediction)) * (1 if s.mode == "min" else -1), 0.0) if math.isfinite(s.loss) else None,
        confidence=miss,
        step=s.step,
    )


def _on_track(s: Situation) -> Advice:
    f = s.forecast
    if f.trust == "none":
        return Advice("continue", f"At step {s.step:,} it is too early for a forecast: {f.why}.", step=s.step)
    prediction = f.landing
    lower, upper = prediction.interval(0.9)
    what = "the loss" if s.metric == "loss" else s.followed
    where = f"{what} at step {f.horizon:,} is forecast at {prediction:.4g} (90 % between {lower:.4g} and {upper:.4g})"
    caution = "" if f.trust == "ok" else f", with low trust: {f.why}"
    track = "on track" if s.deviation.verdict == "on track" else "nothing wrong seen"
    return Advice(
        "continue",
        f"At step {s.step:,}: {track}; {where}{caution}.",
        {"final": float(prediction), "lower": lower, "upper": upper, "trust": f.trust},
        confidence=0.9 if f.trust == "ok" else 0.5,
        step=s.step,
    )
