"""Schedule of updates: fixed steps, and earlier ones after suspicious losses."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from lightning_scaling.schedule.plan import Plan

Array = NDArray[np.float64]

MIN_GAP = 4
"""Fewest steps between two updates of a planned run."""
LOOKS_PER_UPDATE = 4
"""Looks at the losses pending for an update, while they are suspicious."""

_UPDATES_PER_RUN = 100
_OPEN_GROWTH = 1.05
_ROUNDING = 1e-9


def next_update_after(plan: Plan, step: int) -> int:
    """The next step at which an update is due: every 1 % of the plan, without an end every 5 % of the progress."""
    total = plan.total_steps
    if total is None or step >= total:
        return max(math.ceil(step * _OPEN_GROWTH), step + 5 * MIN_GAP)
    gap = max(total / _UPDATES_PER_RUN, MIN_GAP)
    return min(math.ceil((math.floor(step / gap + _ROUNDING) + 1) * gap), max(total, step + 1))


def count_until_update(
    steps: Array, losses: Array, due: float, limit: float, nonfinite_tail: int, nonfinite_limit: int
) -> int:
    """How many of the next losses belong before the next update.

    Args:
        steps: Their steps, shape ``(n,)``.
        losses: The losses, shape ``(n,)``.
        due: The step at which the update, or a look at what is pending, is due.
        limit: A finite loss above this makes an update due at once.
        nonfinite_tail: How many losses before them, in a row, were not finite.
        nonfinite_limit: So many in a row make an update due at once.

    Returns:
        Their number, at least 1.
    """
    end = min(int(np.searchsorted(steps, due, side="left")) + 1, steps.size)
    finite = np.isfinite(losses[:end])
    blown = np.flatnonzero(finite & (losses[:end] > limit))
    if blown.size:
        end = int(blown[0]) + 1
    tail = nonfinite_tail
    for offset in range(0 if finite[:end].all() else end):
        tail = 0 if finite[offset] else tail + 1
        if tail == nonfinite_limit:
            return offset + 1
    return end
