"""Advice on a run from its state at every update, without flapping."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from lightning_scaling.advice.causes import Cause, likely_cause
from lightning_scaling.advice.config import DEFAULT, AdviceConfig
from lightning_scaling.advice.findings import findings
from lightning_scaling.advice.hints import BATCH_FACTS
from lightning_scaling.advice.result import Action, Advice, FindingCode
from lightning_scaling.advice.state import RunState

_SEVERITY: dict[Action, int] = {"continue": 0, "resize": 1, "investigate": 2, "stop": 3}


class Adviser:
    """Turns run states into advice that does not flap.

    The gravest finding is advised. A graver action is taken up at once, a milder one once it has held for two updates,
    and another likely cause once it has been the likelier one for three; the sentence then names the cause before.

    Args:
        config: Tuned numbers.
    """

    def __init__(self, config: AdviceConfig = DEFAULT) -> None:
        self._config = config
        self._action: Action = "continue"
        self._since = 0
        self._milder_updates = 0
        self._advised_cause: str | None = None
        self._cause: str | None = None
        self._other_cause: str | None = None
        self._other_updates = 0
        self._abrupt: bool | None = None
        self._in_trouble = False
        self._hint_given = False
        self._batch_hint_given = False

    def advise(self, state: RunState) -> Advice:
        """The advice at an update; to be called once for each, in order."""
        advice = self._advise(state)
        self._batch_hint_given = self._batch_hint_given or bool(state.batch_hint and state.batch_hint in advice.reason)
        if not self._batch_hint_given or advice.action != "continue" or advice.evidence.get("cause"):
            return advice
        known = {key: state.facts[key] for key in BATCH_FACTS if key in state.facts}
        return replace(advice, evidence={**advice.evidence, "hint": "batch", **known})

    def _advise(self, state: RunState) -> Advice:
        s = self._remembered(state)
        before, cause = self._cause, self._stable_cause(s)
        advice = findings(s, cause, self._config.findings)
        advised, note = advice.evidence.get("cause"), ""
        if _SEVERITY[advice.action] >= _SEVERITY[self._action]:
            if advice.action != self._action:
                self._since = s.step
            elif before is not None and advised == cause != before and self._in_trouble:
                note = f" Until now the likely cause was the {Cause(before).label}."
        else:
            self._milder_updates += 1
            if self._milder_updates < self._config.causes.updates_to_relax:
                return self._eased(s, advice)
            note = f" What led to the advice of step {self._since:,} to {self._action} is over."
            self._since = s.step
        self._action, self._milder_updates, self._advised_cause = advice.action, 0, advised
        self._hint_given = self._hint_given or (bool(s.hint) and s.hint in advice.reason)
        return replace(advice, reason=advice.reason + note)

    def _remembered(self, s: RunState) -> RunState:
        """Give hints once, and keep the shape of the change as it was first seen."""
        worse = s.divergence is not None or (s.deviation.alarm and s.worse)
        self._in_trouble = worse or s.deviation.alarm
        if not worse:
            self._abrupt = None
        elif self._abrupt is None:
            self._abrupt = s.abrupt
        if not self._in_trouble:
            self._cause = self._other_cause = None
        hint = "" if self._hint_given else s.hint
        return replace(s, hint=hint, batch_hint="" if self._batch_hint_given else s.batch_hint, abrupt=self._abrupt)

    def _stable_cause(self, s: RunState) -> Cause:
        found = likely_cause(s, self._config.causes)
        if not self._in_trouble:
            return found
        if self._cause is None or found == self._cause:
            self._other_updates = 0
        else:
            self._other_updates = self._other_updates + 1 if found == self._other_cause else 1
            self._other_cause = found.value
            if self._other_updates < self._config.causes.updates_to_switch:
                return Cause(self._cause)
        self._cause, self._other_cause, self._other_updates = found.value, None, 0
        return found

    def _eased(self, s: RunState, advice: Advice) -> Advice:
        saving, cost = (s.saving, None) if self._action == "stop" else (0.0, 0.0)
        reason = (
            f"At step {s.step:,} the signs that led to the advice to {self._action} have eased; waiting to see that "
            "this lasts."
        )
        evidence = {**advice.evidence, "cause": self._advised_cause} if self._advised_cause else advice.evidence
        confidence = self._config.findings.undecided
        return Advice(self._action, reason, evidence, saving, cost, confidence, s.step, FindingCode.EASED)

    def state_dict(self) -> dict[str, Any]:
        """The adviser's memory as builtins."""
        return {name[1:]: value for name, value in vars(self).items() if name != "_config"}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from what :meth:`state_dict` returned."""
        vars(self).update({f"_{name}": value for name, value in state.items()})
