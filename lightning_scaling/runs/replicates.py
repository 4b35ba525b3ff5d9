"""Replicates: runs of one configuration that differ in their seed alone."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from lightning_scaling.schedule.plan import Plan

SAME_SIZE_MAX_RATIO = 1.05
"""Largest ratio of two sizes, lengths or peak rates that are the same. Engineering choice: parameter counts of one
model differ by a few percent with what is counted, lengths with the rounding of epochs; sweeps step by a quarter."""

SAME_SCHEDULE_MAX_DISTANCE = 0.02
"""Largest root mean square difference of two rates over their peaks under one schedule. Engineering choice: a cosine to
1 % in place of 0 % differs by .006, to 5 % by .03, to 10 % by .06, a linear decay from a cosine by .07."""


def same_size(one: float | None, other: float | None) -> bool:
    """Whether two sizes, lengths or rates are known and the same to within :data:`SAME_SIZE_MAX_RATIO`.

    Example:
        >>> same_size(100, 104), same_size(100, 106), same_size(None, None)
        (True, False, False)
    """
    if not one or not other:
        return False
    return 1 / SAME_SIZE_MAX_RATIO <= one / other <= SAME_SIZE_MAX_RATIO


def same_schedule(one: Plan, other: Plan) -> bool:
    """Whether two plans are known and their rates, relative to their peaks, take one course over the run."""
    return one.profile_distance(other) <= SAME_SCHEDULE_MAX_DISTANCE


def replicate_matrix(plans: Sequence[Plan], params: Sequence[float | None]) -> NDArray[np.bool_]:
    """Which of several runs share size, length and schedule, and are left out of evidence about one another.

    The peak rate may differ: losses of runs of one sweep of the rate are much alike. Two runs that both lack a size, an
    end or a schedule are the same in it.

    Args:
        plans: Their plans, which hold lengths and schedules.
        params: Their parameters, ``None`` where not known.

    Returns:
        Shape ``(n, n)``, symmetric.
    """
    number = len(plans)
    alike = np.ones((number, number), dtype=bool)
    if not number:
        return alike
    for column in (params, [plan.total_steps for plan in plans]):
        logs = np.log(np.array([size or np.nan for size in column], dtype=np.float64))
        alike &= _within(np.abs(logs[:, None] - logs), np.log(SAME_SIZE_MAX_RATIO))
    profiles = np.stack([plan.profile for plan in plans])
    distance = np.stack([np.sqrt(np.mean((profiles - row) ** 2, axis=-1)) for row in profiles])
    return alike & _within(distance, SAME_SCHEDULE_MAX_DISTANCE)


def _within(difference: NDArray[np.float64], most: float) -> NDArray[np.bool_]:
    """Whether differences are small, or both sides are unknown."""
    unknown = np.isnan(np.diagonal(difference))
    within: NDArray[np.bool_] = (difference <= most + 1e-12) | (unknown[:, None] & unknown)
    return within
