"""Replicates: runs of one configuration that differ in their seed alone."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lightning_scaling.runs.run import Run
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


def is_replicate(run: Run, other: Run) -> bool:
    """Whether two runs share all that is known of their configuration: size, length, schedule and peak rate.

    What is not known is not shared; see :func:`replicate_matrix`.
    """
    return bool(replicate_matrix([run.plan, other.plan], [run.params, other.params])[0, 1])


def replicate_matrix(
    plans: Sequence[Plan], params: Sequence[float | None], *, unknown_matches: bool = False, same_peak: bool = True
) -> NDArray[np.bool_]:
    """Which of several runs are replicates of which.

    Args:
        plans: Their plans, which hold lengths, schedules and peak rates.
        params: Their parameters, ``None`` where not known.
        unknown_matches: Whether two runs that both lack a size, an end or a schedule are the same in it. ``False``
            where a replicate is evidence; ``True`` where replicates are left out of it.
        same_peak: Whether they must share the peak rate. ``False`` where runs of one sweep of the rate, whose losses
            are much alike, are left out together.

    Returns:
        Shape ``(n, n)``, symmetric. The diagonal holds whether enough is known of the run itself.
    """
    number = len(plans)
    if not number:
        return np.zeros((0, 0), dtype=bool)
    known = [plan.known and plan.peak > 0 for plan in plans]
    alike = np.ones((number, number), dtype=bool)
    columns: list[list[float]] = [[size or np.nan for size in params], [plan.total_steps or np.nan for plan in plans]]
    if same_peak:
        columns.append([plan.peak if yes else np.nan for plan, yes in zip(plans, known, strict=True)])
    for column in columns:
        logs = np.log(np.array(column, dtype=np.float64))
        alike &= _within(np.abs(logs[:, None] - logs), np.log(SAME_SIZE_MAX_RATIO), unknown_matches)
    profiles = np.stack([plan.profile for plan in plans])
    distance = np.stack([np.sqrt(np.mean((profiles - row) ** 2, axis=-1)) for row in profiles])
    alike &= _within(distance, SAME_SCHEDULE_MAX_DISTANCE, unknown_matches)
    return alike


def _within(difference: NDArray[np.float64], most: ArrayLike, unknown_matches: bool) -> NDArray[np.bool_]:
    unknown = np.isnan(np.diagonal(difference))
    same: NDArray[np.bool_] = difference <= np.asarray(most) + 1e-12
    return same | (unknown[:, None] & unknown) if unknown_matches else same
