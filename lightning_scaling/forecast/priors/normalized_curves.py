"""Where the curves of runs under one schedule lead: once normalised, they coincide."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter1d

from lightning_scaling.forecast.law_grid import isolated_outliers
from lightning_scaling.forecast.priors.gaussian_process import RunFeatures
from lightning_scaling.forecast.priors.past_run import PastRun
from lightning_scaling.runs.curve import Points
from lightning_scaling.schedule.plan import Plan

Array = NDArray[np.float64]

_FEWEST, _MOST = 4, 8
_SAME_SCHEDULE = 0.07
_GIVEN_BACK = 0.1
_FROM = 0.05
_AT = np.linspace(0.01, 1.0, 200)
_FLOORS = (0.0, 0.5, 0.75)
_WINDOWS = (0.02, 0.04, 0.08, 0.16)
_AHEAD = 0.05
_NOISE_AIMED_AT = 2e-3
_WIDEST = 6.0
_OF_LEVEL = 3e-4
_OF_CHANGE = 0.05
_REACH = 0.25
_PROVED = 0.06
_PRESUMED = 2.0
_LEAST_STRAYED = 0.6
_FEWEST_POINTS = 4
_MEDIAN_BEND = 0.826  # of normal values of standard deviation 1
# How much a difference in the logarithms of parameters, steps, tokens per step and peak rate sets runs apart, beside
# that in tokens per parameter, on which the normalised curve depends most (Bergsma et al. 2025, arXiv 2509.25087).
_APART = np.array([0.2, 0.2, 0.2, 0.2])


@dataclass(frozen=True)
class PeerPath:
    """How a run goes on if its normalised curve is that of its relatives.

    Args:
        steps: Steps, shape ``(m,)``.
        medians: Medians of the loss there, shape ``(m,)``.
        scales: Scales, shape ``(m,)``.
        strayed: By how much the run has strayed from the relatives' mean so far, over what they strayed.
    """

    steps: Array
    medians: Array
    scales: Array
    divergence_ratio: float

    def __call__(self, steps: Array) -> tuple[Array, Array]:
        """Medians and scales at the given steps."""
        return np.interp(steps, self.steps, self.medians), np.interp(steps, self.steps, self.scales)


class NormalizedCurves:
    r"""Finished runs under the schedule of a new one, as the measure of its curve.

    The normalised curves ``l(x) = (L(x c) - L0) / (L(c) - L0)`` of a family coincide (Qiu et al. 2025, arXiv
    2507.02119, "supercollapse"; Bergsma et al. 2025, arXiv 2509.25087). So ``log(L - L0)`` of a run should differ from
    the mean of its relatives by a constant, the unknown logarithm of ``L(c) - L0``; what it differs by lately is that
    constant, and how far relatives have strayed from theirs over the same part of the run tells how sure the rest is.
    ``L0`` is the one of a few shares of the lowest loss under which the relatives coincide best.

    Args:
        relatives: The runs, at least four, each with positive losses.
    """

    def __init__(self, relatives: list[PastRun]) -> None:
        self.count = len(relatives)
        curves = np.stack([_curve(relative) for relative in relatives])
        self._begins = max(_FROM, *(_shown(relative) for relative in relatives))
        late = _AT >= 2 * _FROM
        self.floor, self._logs = min(
            ((share * float(curves.min()), np.log(curves - share * float(curves.min()))) for share in _FLOORS),
            key=lambda told: float(np.var(told[1] - told[1][:, late].mean(1, keepdims=True), axis=0)[late].mean()),
        )

    @classmethod
    def among(cls, relatives: Iterable[PastRun], plan: Plan, features: RunFeatures) -> NormalizedCurves | None:
        """Those of the relatives that are finished, never gave back a tenth of their gain and had the same schedule.

        Args:
            relatives: Past runs of the family.
            plan: Plan of the new run.
            features: Its features.

        Returns:
            The most alike, eight at most; ``None`` with fewer than four.
        """
        if not plan.known or plan.total_steps is None:
            return None
        alike = [(_apart(r.features, features), i, r) for i, r in enumerate(relatives) if _serves(r, features)]
        nearest_in_size = [relative for _, _, relative in sorted(alike)[:_MOST]]
        return cls(nearest_in_size) if len(nearest_in_size) >= _FEWEST else None

    def path(self, points: Points, step: int, total_steps: int) -> PeerPath | None:
        """How the run goes on, told by its latest losses and the relatives.

        Args:
            points: The curve up to now.
            step: The present step.
            total_steps: Length of its plan.

        Returns:
            ``None`` while there are too few losses or none lately, or with losses below where relatives count from.
        """
        now = step / total_steps
        used = (points.last > (self._begins - _FROM) * total_steps) & ~isolated_outliers(points.loss)
        at, loss, count = points.step[used] / total_steps, points.loss[used], points.count[used]
        if now < self._begins + _PROVED or at.size < 2 * _FEWEST_POINTS or float(loss.min()) <= self.floor:
            return None
        theirs = np.stack([np.interp(at, _AT, row) for row in self._logs])
        logs = np.log(loss - self.floor)
        off = logs - theirs.mean(0)
        noise = _roughness(off[at > now - _WINDOWS[-1]]) * math.sqrt(float(count.mean()))
        divergence_ratio = self._divergence_ratio(at, off, now, noise / math.sqrt(float(count.mean())))
        ahead = np.array([min(now + _AHEAD, 1.0)])
        level, error, apart, best = 0.0, 0.0, self._logs, math.inf
        for window in _WINDOWS:
            used = at > now - window
            if not used.any():
                continue
            weight = np.where(used, count, 0.0) / float(count[used].sum())
            doubt = noise / math.sqrt(float(count[used].sum()))
            rows = self._logs - (theirs @ weight)[:, None]
            unsure = math.hypot(float(_spread(np.stack([np.interp(ahead, _AT, row) for row in rows]))[0]), doubt)
            if unsure < best:
                level, error, apart, best = float(logs @ weight), doubt, rows, unsure
        if not math.isfinite(best):
            return None
        later = np.append(now, _AT[now + 1e-9 < _AT])
        rows = np.stack([np.interp(later, _AT, row) for row in apart])
        mean = rows.mean(0)
        above = np.exp(level + mean)
        own = divergence_ratio * _growing(rows, later)
        medians = self.floor + above
        scales = np.hypot(above * np.hypot(own, error), _OF_LEVEL * medians)
        return PeerPath(later * total_steps, medians, scales, divergence_ratio)

    def _divergence_ratio(self, at: Array, off: Array, now: float, noise: float) -> float:
        """How far the run has strayed from the relatives' mean over every twentieth of it, beside what they have.

        Runs of another kind are no measure of this one: where its curve has not been theirs so far, little is made of
        its leaving them.
        """
        late = np.arange(self._begins + _AHEAD, now, _AHEAD / 5)
        drift = np.interp(late, at, off) - np.interp(late - _AHEAD, at, off)
        rows = np.stack([np.interp(late, _AT, row) - np.interp(late - _AHEAD, _AT, row) for row in self._logs])
        usual = float(np.mean(_own_error(_spread(rows), rows.mean(0)) ** 2)) + _OF_LEVEL**2
        found = max(float(np.mean(drift**2)) - 2 * noise**2, 0.0) / usual
        independent = (now - self._begins) / _AHEAD
        return max(math.sqrt((_PRESUMED + independent * found) / (_PRESUMED + independent)), _LEAST_STRAYED)


def _spread(logs: Array) -> Array:
    """Scale of where another run lies: of the mean of a few and of one more, their own scatter being uncertain."""
    n = len(logs)
    factor = (1 + 1 / n) * (n - 1) / max(n - 3, 1)
    spread: Array = np.sqrt(factor * logs.var(axis=0, ddof=1))
    return spread


def _growing(rows: Array, later: Array) -> Array:
    """The scale of an error that grows all the time, at least at the rate at which relatives stray from each other.

    How far a few of them lie from where they were may happen to be the same at two times, though they have moved.
    """
    mean = rows.mean(0)
    error: Array = np.maximum.accumulate(_own_error(_spread(rows), mean) ** 2)
    ahead = np.minimum(later + _AHEAD, later[-1])
    near = (later <= later[0] + _REACH) & (ahead > later)
    if not near.any():
        return np.sqrt(error)
    moved = np.stack([np.interp(ahead[near], later, row) for row in rows]) - rows[:, near]
    rate = float(np.mean(_own_error(_spread(moved), moved.mean(0)) ** 2 / (ahead - later)[near]))
    grown: Array = np.sqrt(error + rate * (later - later[0]))
    return grown


def _own_error(spread: Array, change: Array) -> Array:
    """Scale of where a run lies, given the relatives' scatter and how much they change in the mean."""
    error: Array = np.hypot(spread, _OF_CHANGE * change)
    return error


def _serves(relative: PastRun, features: RunFeatures) -> bool:
    if not (relative.finished and relative.has_informative_shape and float(np.min(relative.points.loss)) > 0):
        return False
    if relative.points.step[0] > 2 * _FROM * relative.total_steps:
        return False
    curve = _curve(relative)
    best = np.minimum.accumulate(curve)
    if float((curve - best).max()) > _GIVEN_BACK * float(curve[0] - best[-1]):
        return False  # it had troubles of its own
    used = slice(int(_FROM * features.profile.size), None)
    return bool(np.abs(relative.features.profile[used] - features.profile[used]).max() < _SAME_SCHEDULE)


def _shown(relative: PastRun) -> float:
    """The part of a past run by which it had as many points as are asked of a new one."""
    steps = relative.points.step
    return float(steps[min(_FEWEST_POINTS, steps.size) - 1]) / relative.total_steps


def _apart(one: RunFeatures, other: RunFeatures) -> float:
    gap = np.nan_to_num(one.values - other.values)
    per_parameter = abs(float(gap[1] + gap[2] - gap[0]))
    return per_parameter + float(_APART @ np.abs(gap))


def _curve(relative: PastRun) -> Array:
    """Losses of a relative at even parts of its run; the noisier they are, the more of them are averaged."""
    points = relative.points
    at = np.log(np.maximum(points.step, 1.0) / relative.total_steps)
    logs = np.log(points.loss)
    aim = (_roughness(logs) / _NOISE_AIMED_AT) ** 2
    if aim > 0.5:
        logs = gaussian_filter1d(logs, min(aim, _WIDEST), mode="nearest")
    return np.exp(np.interp(np.log(_AT), at, logs))


def _roughness(values: Array) -> float:
    """Standard deviation of single values around what changes steadily, by the median of their second differences."""
    if values.size < 3:
        return 0.0
    bend = np.abs(values[1:-1] - (values[2:] + values[:-2]) / 2)
    return float(np.median(bend)) / _MEDIAN_BEND
