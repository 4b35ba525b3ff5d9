"""The verdict on a run against the forecasts made for it earlier."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
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
        verdict: ``"on track"``, ``"deviating"``, or ``"undecidable"`` while there is no forecast to test against.
        excess: Loss now minus the loss forecast for now; ``nan`` where there is no forecast.
        expected: The loss forecast for now; ``nan`` where there is no forecast.
        kind: Form of the deviation; ``None`` without an alarm.
        noise_ratio: Noise of the last losses over the usual noise; ``nan`` where it is not known.
        basis: Where the forecast came from that the run has left: its own losses, or the curves of past runs.
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

    def __repr__(self) -> str:
        if not self.alarm:
            return f"Deviation({self.verdict}, e={self.e_value:.3g})"
        place = "" if self.direction is None else f", {abs(self.excess):.3g} {self.direction} {self.expected:.4g}"
        return f"Deviation({self.verdict}, {self.kind}{place}, since step {self.since_step:,}, e={self.e_value:.3g})"

    def to_dict(self) -> dict[str, Any]:
        """The verdict as builtins, under the names of its attributes; ``kind`` and ``basis`` are plain strings."""
        return {**asdict(self), "kind": None if self.kind is None else str(self.kind), "basis": str(self.basis)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Deviation:
        """The verdict from what :meth:`to_dict` returned."""
        kind, basis = data["kind"] and DeviationKind(data["kind"]), DeviationBasis(data["basis"])
        return cls(**{**data, "kind": kind, "basis": basis})


UNDECIDABLE = Deviation(False, 1.0, None, None, "undecidable")
