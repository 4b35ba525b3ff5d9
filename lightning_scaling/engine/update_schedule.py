"""Schedule of updates: fixed steps, and earlier ones after suspicious losses."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from lightning_scaling.advice.config import NONFINITE_LOSSES
from lightning_scaling.schedule.plan import Plan

MIN_GAP = 4
"""Fewest steps between two updates of a planned run."""

_UPDATES_PER_RUN = 100
_OPEN_GROWTH = 1.05
_LOOKS_PER_UPDATE = 4
_ROUNDING = 1e-9


def next_update_after(plan: Plan, step: int) -> int:
    """The next step at which an update is due: every 1 % of the plan, without an end every 5 % of the progress."""
    total = plan.total_steps
    if total is None or step >= total:
        return max(math.ceil(step * _OPEN_GROWTH), step + 5 * MIN_GAP)
    gap = max(total / _UPDATES_PER_RUN, MIN_GAP)
    return min(math.ceil((math.floor(step / gap + _ROUNDING) + 1) * gap), max(total, step + 1))


def count_until_update(
    steps: NDArray[np.float64], losses: NDArray[np.float64], due: float, *, limit: float, nonfinite_tail: int
) -> int:
    """How many of the next losses belong before the next update.

    Args:
        steps: Their steps, shape ``(n,)``.
        losses: The losses, shape ``(n,)``.
        due: The step at which the update, or a look at what is pending, is due.
        limit: A finite loss above this makes an update due at once.
        nonfinite_tail: How many losses before them, in a row, were not finite; the twentieth makes one due at once.

    Returns:
        Their number, at least 1.
    """
    end = min(int(np.searchsorted(steps, due, side="left")) + 1, steps.size)
    finite = np.isfinite(losses[:end])
    blown = np.flatnonzero(finite & (losses[:end] > limit))
    if blown.size:
        end = int(blown[0]) + 1
        finite = finite[:end]
    if finite.all():
        return end
    tail = nonfinite_tail
    for offset, good in enumerate(finite):
        tail = 0 if good else tail + 1
        if tail == NONFINITE_LOSSES:
            return offset + 1
    return end


class UpdateSchedule:
    """The steps of the next update and of the next look at the losses pending for it.

    Looks are four times as frequent as updates while the losses are suspicious; a look makes an update only where that
    would raise an alarm.

    Args:
        plan: Plan of the run.

    Attributes:
        next_update: Step of the next update.
    """

    def __init__(self, plan: Plan) -> None:
        self.next_update = next_update_after(plan, 0)
        self._next_look = self._between_looks = math.inf

    @property
    def due(self) -> float:
        """Step of the next update or look."""
        return min(self.next_update, self._next_look)

    @property
    def next_look(self) -> int:
        """Step by which losses should come in: that of the next update, or earlier while they are suspicious."""
        return int(min(self.next_update, math.ceil(self.due)))

    def look_due(self, step: int) -> bool:
        """Whether only a look is due at a step; the next one is then a quarter of an update later."""
        if not self._next_look <= step < self.next_update:
            return False
        self._next_look = step + self._between_looks
        return True

    def replan(self, plan: Plan, step: int) -> None:
        """Take a new plan at a step."""
        self.next_update = next_update_after(plan, step)

    def look_until_next(self, step: int, *, suspicious: bool) -> None:
        """After an update at a step: look more often if the losses are suspicious."""
        self._between_looks = (self.next_update - step) / _LOOKS_PER_UPDATE if suspicious else math.inf
        self._next_look = step + self._between_looks
