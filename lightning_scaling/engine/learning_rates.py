"""Comparison of the learning rates used with the planned ones."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from lightning_scaling.advice.config import LEARNING_RATE_TOLERANCE
from lightning_scaling.runs.curve import Points
from lightning_scaling.schedule.plan import Plan

_MIN_SHARE_OF_PEAK = 0.01
"""Planned rates below this fraction of the peak are not compared: near zero any ratio is possible."""


class RateComparison:
    """Ratios of used to planned learning rates since the last update.

    Attributes:
        follows: Whether the plan follows the rates used since a change was announced.
    """

    def __init__(self) -> None:
        self.follows = False
        self._ratios: list[float] = []

    def add(self, plan: Plan, steps: NDArray[np.float64], rates: NDArray[np.float64]) -> None:
        """Compare rates used at some steps, shape ``(n,)`` each."""
        planned = plan.at(steps)
        usable = np.isfinite(rates) & (planned > _MIN_SHARE_OF_PEAK * plan.peak)
        if usable.any():
            self._ratios.append(float(np.median(rates[usable] / planned[usable])))

    def clear(self) -> None:
        """Forget the ratios."""
        self._ratios = []

    @property
    def ratio(self) -> float:
        """Median ratio since the last update; ``nan`` if unknown."""
        return float(np.median(self._ratios)) if self._ratios else math.nan

    def is_binding(self, plan: Plan) -> bool:
        """Whether a plan says what the rates will be, so that other rates are worth reporting."""
        return plan.known and plan.source != "constant" and not self.follows


def differs(ratio: float) -> bool:
    """Whether a ratio of used to planned rates is known and not 1."""
    return math.isfinite(ratio) and abs(ratio - 1) > LEARNING_RATE_TOLERANCE


def plan_of_used_rates(plan: Plan, points: Points) -> Plan | None:
    """The plan that follows the rates used: what they were, and constant from here; ``None`` if none is known."""
    known = np.isfinite(points.lr)
    if not known.any():
        return None
    reason = "the learning rate is set by hand or by what happens, so its future is not known"
    return Plan(points.last[known], points.lr[known], total_steps=plan.total_steps, known=False, why=reason)
