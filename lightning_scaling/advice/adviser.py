"""From the state of a run to one sentence of advice, and no flapping."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from lightning_scaling.advice.batch_size import REMARKABLE
from lightning_scaling.advice.causes import Cause, likely_cause
from lightning_scaling.advice.findings import findings
from lightning_scaling.advice.result import Action, Advice
from lightning_scaling.advice.state import Situation

__all__ = ["Adviser", "Situation"]

_CALM = 2
_HELD = 3


class Adviser:
    """Turns situations into advice that does not flap.

    The gravest finding speaks. A graver action is taken up at once, a milder one once it has held for two updates, and
    another first suspect once it has been the likelier one for three; the sentence then says what was said before.
    """

    def __init__(self) -> None:
        self._current: Action = "continue"
        self._calm = 0
        self._since = 0
        self._named: str | None = None
        self._suspect: Cause | None = None
        self._rival: Cause | None = None
        self._rivalled = 0
        self._sudden: bool | None = None
        self._troubled = False
        self._hinted = False
        self._remarked = False

    def advise(self, situation: Situation) -> Advice:
        """The advice for this moment."""
        return self._with_remark(situation, self._advise(situation))

    def _with_remark(self, s: Situation, advice: Advice) -> Advice:
        """Once the remark has been made, what it rests on stays with all advice to go on as before."""
        self._remarked = self._remarked or bool(s.remark and s.remark in advice.reason)
        if not self._remarked or advice.action != "continue" or advice.evidence.get("suspect"):
            return advice
        known = {key: s.facts[key] for key in REMARKABLE if key in s.facts}
        return replace(advice, evidence={**advice.evidence, "remark": "batch", **known})

    def _advise(self, situation: Situation) -> Advice:
        s = self._remembered(situation)
        before = self._suspect
        suspect = self._first(s)
        advice = findings(s, suspect)
        hinted = bool(s.hint) and s.hint in advice.reason
        named = advice.evidence.get("suspect")
        if _gravity(advice.action) >= _gravity(self._current):
            if advice.action != self._current:
                self._since = s.step
            elif before is not None and named == suspect != before and self._troubled:
                advice = replace(advice, reason=f"{advice.reason} Until now the first suspect was the {before}.")
            self._current, self._calm, self._named = advice.action, 0, named
            self._hinted = self._hinted or hinted
            return advice
        self._calm += 1
        if self._calm < _CALM:
            return self._waiting(s, advice)
        self._hinted = self._hinted or hinted
        past, since = self._current, self._since
        self._current, self._calm, self._since, self._named = advice.action, 0, s.step, named
        why = f" What led to the advice of step {since:,} to {past} is over."
        return replace(advice, reason=advice.reason + why)

    def _remembered(self, s: Situation) -> Situation:
        """The hint once, and how the losses left their path as it was made out when they did."""
        hint = "" if self._hinted else s.hint
        troubled = s.divergence is not None or (s.deviation.alarm and s.worse)
        if not troubled:
            self._sudden = None
        elif self._sudden is None:
            self._sudden = s.sudden
        if not troubled and not s.deviation.alarm:
            self._suspect = self._rival = None
        self._troubled = troubled or s.deviation.alarm
        return replace(s, hint=hint, remark="" if self._remarked else s.remark, sudden=self._sudden)

    def _first(self, s: Situation) -> Cause:
        found = likely_cause(s)
        if not self._troubled:
            return found
        if self._suspect is None or found == self._suspect:
            self._suspect, self._rival, self._rivalled = found, None, 0
            return found
        self._rivalled = self._rivalled + 1 if found == self._rival else 1
        self._rival = found
        if self._rivalled >= _HELD:
            self._suspect, self._rival, self._rivalled = found, None, 0
        return self._suspect

    def _waiting(self, s: Situation, advice: Advice) -> Advice:
        return Advice(
            self._current,
            f"At step {s.step:,} the signs that led to the advice to {self._current} have eased; "
            "waiting to see that this lasts.",
            evidence={**advice.evidence, "suspect": self._named} if self._named else advice.evidence,
            saving=s.left if self._current == "stop" else 0.0,
            cost=None if self._current == "stop" else 0.0,
            confidence=0.5,
            step=s.step,
        )

    def state_dict(self) -> dict[str, Any]:
        """The adviser's memory as builtins."""
        return {
            "current": self._current,
            "calm": self._calm,
            "since": self._since,
            "named": self._named,
            "suspect": self._suspect,
            "rival": self._rival,
            "rivalled": self._rivalled,
            "sudden": self._sudden,
            "troubled": self._troubled,
            "hinted": self._hinted,
            "remarked": self._remarked,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from what :meth:`state_dict` returned; earlier versions kept less."""
        for name, value in self.state_dict().items():
            setattr(self, f"_{name}", state.get(name, value))


def _gravity(action: Action) -> int:
    return {"continue": 0, "resize": 1, "investigate": 2, "stop": 3}[action]
