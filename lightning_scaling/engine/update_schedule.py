"""When updates fall due: at fixed steps, and at once where the losses cannot wait."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from lightning_scaling.schedule.plan import Plan

MIN_GAP = 4
NONFINITE_ALARM = 20

_UPDATES = 100
_OPEN_GROWTH = 1.05


def next_update_after(plan: Plan, step: int) -> int:
    """The next step at which an update falls due: every 1 % of the plan, without an end every 5 % of the progress."""
    total = plan.total_steps
    if total is None or step >= total:
        return max(math.ceil(step * _OPEN_GROWTH), step + 5 * MIN_GAP)
    gap = max(total / _UPDATES, MIN_GAP)
    return min(math.ceil((math.floor(step / gap + 1e-9) + 1) * gap), max(total, step + 1))


def count_until_update(
    steps: NDArray[np.float64], losses: NDArray[np.float64], due: float, *, limit: float, nonfinite_tail: int
) -> int:
    """How many of the next losses belong before the next update.

    Args:
        steps: Their steps, shape ``(n,)``.
        losses: The losses, shape ``(n,)``.
        due: The step at which the update, or a look at what is pending, falls due.
        limit: A finite loss above this is worth an update at once.
        nonfinite_tail: How many losses before them, in a row, were not finite; a run of twenty is worth one at once.

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
        if tail == NONFINITE_ALARM:
            return offset + 1
    return end
