"""A piece of advice."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

Action = Literal["continue", "investigate", "stop", "resize"]


@dataclass(frozen=True)
class Advice:
    """What to do, why, and what it costs and saves.

    Attributes:
        action: ``"continue"``, ``"investigate"``, ``"stop"`` or ``"resize"``.
        reason: One plain sentence with numbers.
        evidence: The numbers behind it, as builtins.
        saving: Fraction of the planned compute that following the advice saves; 0 unless it is to stop.
        cost: Loss given up by following the advice, in the unit of the loss; ``None`` where it cannot be known.
        confidence: Probability, between 0 and 1, that the reason holds.
        step: Step at which the advice was given.
    """

    action: Action
    reason: str
    evidence: dict[str, Any] = field(default_factory=dict)
    saving: float = 0.0
    cost: float | None = 0.0
    confidence: float = 0.0
    step: int = 0

    @property
    def topic(self) -> tuple[str, str | None]:
        """Action and first suspect, or remark: what has to change for the advice to be told anew."""
        return self.action, self.evidence.get("suspect") or self.evidence.get("remark")

    def to_dict(self) -> dict[str, Any]:
        """The advice as builtins."""
        return {
            "action": self.action,
            "reason": self.reason,
            "evidence": dict(self.evidence),
            "saving": self.saving,
            "cost": self.cost,
            "confidence": self.confidence,
            "step": self.step,
        }
