"""A piece of advice."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from lightning_scaling._utils.enums import StrEnum

Action = Literal["continue", "investigate", "stop", "resize"]


_REPR_WIDTH = 100  # characters of the reason: a `repr` stays on one line


class FindingCode(StrEnum):
    """Stable names of everything that advice can find, for muting and documentation."""

    ON_TRACK = "on_track"
    NO_FORECAST = "no_forecast"
    EASED = "eased"
    NONFINITE_LOSSES = "nonfinite_losses"
    WEIGHTS_LOST = "weights_lost"
    DIVERGENCE = "divergence"
    DIVERGED = "diverged"
    LEARNING_RATE_OFF_PLAN = "learning_rate_off_plan"
    LEARNING_RATE_OFF_OPTIMUM = "learning_rate_off_optimum"
    OPTIMIZER_STATE_LOST = "optimizer_state_lost"
    GRADIENTS_MISSING = "gradients_missing"
    DEVIATION = "deviation"
    VARIANCE_INCREASE = "variance_increase"
    BEHIND_MATCHED_RUNS = "behind_matched_runs"
    TARGET_MISSED = "target_missed"
    SIZE_OFF_OPTIMUM = "size_off_optimum"
    SIZE_NEAR_OPTIMUM = "size_near_optimum"
    SIZE_UNCERTAIN = "size_uncertain"
    SIZE_UNKNOWN = "size_unknown"
    NOT_A_LOSS = "not_a_loss"
    ESTIMATES_CONTRADICT = "estimates_contradict"
    RUNS_SCATTERED = "runs_scattered"
    DATA_GROWTH = "data_growth"
    REPEATED_DATA = "repeated_data"
    LEARNING_RATE_OFF_PAST_RUNS = "learning_rate_off_past_runs"
    BATCH_OFF_PAST_RUNS = "batch_off_past_runs"


@dataclass(frozen=True, repr=False)
class Advice:
    """What to do, why, and what it costs and saves.

    Attributes:
        action: ``"continue"``, ``"investigate"``, ``"stop"`` or ``"resize"``.
        reason: One plain sentence with numbers.
        evidence: The numbers behind it, as builtins; ``"cause"`` is the likely cause where one is named.
        saving: Fraction of the planned compute that following the advice saves; 0 unless it is to stop.
        cost: Loss given up by following the advice, in the unit of the loss; ``None`` where it cannot be known.
        confidence: Probability, between 0 and 1, that the reason holds.
        step: Step at which the advice was given.
        code: What was found.
    """

    action: Action
    reason: str
    evidence: dict[str, Any] = field(default_factory=dict)
    saving: float = 0.0
    cost: float | None = 0.0
    confidence: float = 0.0
    step: int = 0
    code: FindingCode = FindingCode.ON_TRACK

    @property
    def topic(self) -> tuple[str, str | None]:
        """Action, and likely cause or hint: what has to change for the advice to be announced again."""
        return self.action, self.evidence.get("cause") or self.evidence.get("hint")

    def to_dict(self) -> dict[str, Any]:
        """Every attribute by its name, as builtins."""
        return {**asdict(self), "code": self.code.value}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Advice:
        """The advice that :meth:`to_dict` described."""
        return cls(**{**data, "evidence": dict(data["evidence"]), "code": FindingCode(data["code"])})

    def __repr__(self) -> str:
        share = f", saving={self.saving:.0%}" if self.saving else ""
        reason = textwrap.shorten(self.reason, _REPR_WIDTH, placeholder=" ...")
        return f"Advice({self.action}, step={self.step:,}, code={self.code}{share}, {reason!r})"
