"""The verdict on a run against the forecasts made for it earlier."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

from lightning_scaling._utils.enums import StrEnum

Direction = Literal["above", "below"]
Verdict = Literal["on track", "deviating", "undecidable"]


class DeviationBasis(StrEnum):
    """The forecast that the run has left."""

    OWN = "own"
    PAST_RUNS = "past_runs"


class DeviationKind(StrEnum):
    """The form of a deviation."""

    LEVEL_SHIFT = "level_shift"
    SLOW_DIVERGENCE = "slow_divergence"
    PLATEAU = "plateau"
    VARIANCE_INCREASE = "variance_increase"
    BETTER_THAN_FORECAST = "better_than_forecast"


@dataclass(frozen=True)
class Deviation:
    """How far the run is from the path forecast for it, and how strong the evidence.

    Attributes:
        alarm: Whether the evidence has reached ``1 / alpha`` and the run has not come back since.
        e_value: Evidence against "the run follows its forecast", by an e-process: under that hypothesis it exceeds
            ``1 / alpha`` at any time of the run with probability at most ``alpha``.
        direction: ``"above"`` or ``"below"`` the forecast; ``None`` without an alarm or where only the noise has grown.
        since_step: The forecast made at this step is the one the run has left; ``None`` without an alarm.
        verdict: ``"on track"``, ``"deviating"``, or ``"undecidable"`` while there is no forecast to hold the run to.
        excess: Loss now minus the loss forecast for now; ``nan`` where there is no forecast.
        expected: The loss forecast for now; ``nan`` where there is no forecast.
        kind: What the departure looks most like; ``None`` without an alarm.
        noise_ratio: Noise of the last losses over the usual noise; ``nan`` where it is not known.
        basis: What the run has left: its own forecast, or the path that the curves of its relatives tell.
    """

    alarm: bool
    e_value: float
    direction: Direction | None
    since_step: int | None
    verdict: Verdict
    excess: float = math.nan
    expected: float = math.nan
    kind: DeviationKind | None = None
    noise_ratio: float = math.nan
    basis: DeviationBasis = DeviationBasis.OWN

    def to_dict(self) -> dict[str, Any]:
        """The verdict as builtins."""
        return {
            "alarm": self.alarm,
            "e_value": self.e_value,
            "direction": self.direction,
            "since_step": self.since_step,
            "verdict": self.verdict,
            "excess": self.excess,
            "expected": self.expected,
            "kind": None if self.kind is None else str(self.kind),
            "noise_ratio": self.noise_ratio,
            "basis": str(self.basis),
        }
