"""The definition of a finished run and of its final loss."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

FINISHED_SHARE = 0.98
"""Share of the planned steps from which on a run is finished, so that a last epoch cut short is an end. Engineering
choice: over 207 recorded runs the mean loss at 97 to 98 % of the plan is .04 % above that of the last 1 % (median)."""

FINAL_SHARE = 0.01
"""Last share of the plan whose mean loss is the final loss: the outcome of ``benchmarks/deviation.py``."""

WIDER_FINAL_SHARE = 0.02
"""The share taken instead where the usual one holds fewer than :data:`FEWEST_FINAL_LOSSES` losses; the two means differ
by .05 % (median of the same runs)."""

FEWEST_FINAL_LOSSES = 3
"""Fewest losses in the usual window. Engineering choice: the mean of three has .6 of the noise of one."""

# a bin that straddles the end belongs to it; bins are at most 1/256 of the plan wide
_PAST_THE_END = 1.01


def is_finished(reached: float, total_steps: float | None) -> bool:
    """Whether a run that has come to a step is at the end of its plan, to within :data:`FINISHED_SHARE`.

    Args:
        reached: Last step with a loss.
        total_steps: Steps planned; a run without a planned end is never finished.

    Example:
        >>> is_finished(980, 1000), is_finished(979, 1000), is_finished(10**9, None)
        (True, False, False)
    """
    return total_steps is not None and reached >= FINISHED_SHARE * total_steps


def final_loss(
    step: ArrayLike,
    loss: ArrayLike,
    total_steps: float | None,
    *,
    count: ArrayLike | None = None,
    reached: float | None = None,
) -> float | None:
    """Mean loss over the last 1 % of a plan, or the last 2 % where fewer than three losses lie in that.

    Where both windows are empty, as for a run that ended at 98 %, it is the last loss before them.

    Args:
        step: Steps, shape ``(n,)``, increasing; of bins of losses the last step of each.
        loss: Losses, shape ``(n,)``, in the unit of the metric; those that are not finite are left out.
        total_steps: Steps planned, or any other step at which the loss is asked for.
        count: Losses that each value is the mean of, shape ``(n,)``; left out, one each.
        reached: Last step of the run; left out, the last step with a finite loss.

    Returns:
        The mean, ``None`` unless the run is finished (:func:`is_finished`).

    Example:
        >>> final_loss([250, 500, 750, 1000], [4.0, 3.0, 2.5, 2.25], 1000)
        2.25
        >>> final_loss([250, 500, 750], [4.0, 3.0, 2.5], 1000) is None
        True
    """
    steps, losses = np.asarray(step, dtype=np.float64), np.asarray(loss, dtype=np.float64)
    counts = np.ones_like(losses) if count is None else np.asarray(count, dtype=np.float64)
    finite = np.isfinite(losses)
    steps, losses, counts = steps[finite], losses[finite], counts[finite]
    if total_steps is None or not steps.size or not is_finished(steps[-1] if reached is None else reached, total_steps):
        return None
    until = steps <= max(_PAST_THE_END * total_steps, total_steps + 1)
    window = until & (steps > (1 - FINAL_SHARE) * total_steps)
    if counts[window].sum() < FEWEST_FINAL_LOSSES:
        window = until & (steps > (1 - WIDER_FINAL_SHARE) * total_steps)
    if not window.any():
        window = steps == steps[until][-1] if until.any() else window
    return float(np.average(losses[window], weights=counts[window])) if window.any() else None
