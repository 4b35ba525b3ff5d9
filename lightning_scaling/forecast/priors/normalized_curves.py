"""Normalized curves of past runs under one schedule, and the paths they predict."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter1d

from lightning_scaling.forecast.config import DEFAULT
from lightning_scaling.forecast.law_grid import isolated_outliers
from lightning_scaling.forecast.priors.gaussian_process import RunFeatures
from lightning_scaling.forecast.priors.past_run import PastRun
from lightning_scaling.runs.curve import Points
from lightning_scaling.schedule.plan import Plan

Array = NDArray[np.float64]

_CONFIG = DEFAULT.peers
_AT = np.linspace(0.01, 1.0, _CONFIG.grid_points)
_MEDIAN_BEND = 0.826  # median of |x1 - (x0 + x2) / 2| of normal values of standard deviation 1
_DRIFTS_PER_LAG = 5  # overlapping drifts per lag
_MIN_SMOOTHING = 0.5  # points: less smoothing changes nothing


@dataclass(frozen=True)
class PeerPath:
    """The rest of a run if its normalized curve is that of past runs.

    Args:
        steps: Steps, shape ``(m,)``.
        medians: Medians of the loss there, shape ``(m,)``.
        scales: Scales, shape ``(m,)``.
        divergence_ratio: Drift of the run from the past runs' mean so far, over the drift among them.
    """

    steps: Array
    medians: Array
    scales: Array
    divergence_ratio: float

    def __call__(self, steps: Array) -> tuple[Array, Array]:
        """Medians and scales at the given steps."""
        return np.interp(steps, self.steps, self.medians), np.interp(steps, self.steps, self.scales)


class NormalizedCurves:
    r"""Finished runs under the schedule of a new one, to compare its curve with.

    The normalized curves ``l(x) = (L(x c) - L0) / (L(c) - L0)`` of a family coincide (Qiu et al. 2025, arXiv
    2507.02119, "supercollapse"; Bergsma et al. 2025, arXiv 2509.25087). So ``log(L - L0)`` of a run should differ from
    the mean of past runs by a constant, the unknown logarithm of ``L(c) - L0``; what it differs by lately is that
    constant, and the drift of past runs from theirs over the same part of the run gives the error of the rest.
    ``L0`` is the one of a few shares of the lowest loss under which the past runs coincide best.

    Args:
        past_runs: The runs, at least four, each with positive losses.
    """

    def __init__(self, past_runs: list[PastRun]) -> None:
        self.count = len(past_runs)
        curves = np.stack([_curve(past_run) for past_run in past_runs])
        self._begins = max(_CONFIG.start, *(_shown(past_run) for past_run in past_runs))
        late = 2 * _CONFIG.start <= _AT
        self.floor, self._logs = min(
            (
                (share * float(curves.min()), np.log(curves - share * float(curves.min())))
                for share in _CONFIG.floor_shares
            ),
            key=lambda found: float(np.var(found[1] - found[1][:, late].mean(1, keepdims=True), axis=0)[late].mean()),
        )

    @classmethod
    def among(cls, past_runs: Iterable[PastRun], plan: Plan, features: RunFeatures) -> NormalizedCurves | None:
        """Those of the past runs that are finished, never gave back a tenth of their gain and had the same schedule.

        Args:
            past_runs: Past runs of the family.
            plan: Plan of the new run.
            features: Its features.

        Returns:
            The most alike, eight at most; ``None`` with fewer than four.
        """
        if not plan.known or plan.total_steps is None:
            return None
        alike = [(_apart(r.features, features), i, r) for i, r in enumerate(past_runs) if _serves(r, features)]
        nearest_in_size = [past_run for _, _, past_run in sorted(alike)[: _CONFIG.max_runs]]
        return cls(nearest_in_size) if len(nearest_in_size) >= _CONFIG.min_runs else None

    def path(self, points: Points, step: int, total_steps: int) -> PeerPath | None:
        """The rest of the run, from its latest losses and the past runs.

        Args:
            points: The curve up to now.
            step: The present step.
            total_steps: Length of its plan.

        Returns:
            ``None`` while there are too few losses or none lately, or with losses below where past runs count from.
        """
        now = step / total_steps
        used = (points.last > (self._begins - _CONFIG.start) * total_steps) & ~isolated_outliers(points.loss)
        at, loss, count = points.step[used] / total_steps, points.loss[used], points.count[used]
        if now < self._begins + _CONFIG.min_seen or at.size < 2 * _CONFIG.min_points or float(loss.min()) <= self.floor:
            return None
        theirs = np.stack([np.interp(at, _AT, row) for row in self._logs])
        logs = np.log(loss - self.floor)
        off = logs - theirs.mean(0)
        noise = _roughness(off[at > now - _CONFIG.level_windows[-1]]) * math.sqrt(float(count.mean()))
        divergence_ratio = self._divergence_ratio(at, off, now, noise / math.sqrt(float(count.mean())))
        ahead = np.array([min(now + _CONFIG.drift_lag, 1.0)])
        level, error, apart, best = 0.0, 0.0, self._logs, math.inf
        for window in _CONFIG.level_windows:
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
        scales = np.hypot(above * np.hypot(own, error), _CONFIG.min_share_of_loss * medians)
        return PeerPath(later * total_steps, medians, scales, divergence_ratio)

    def _divergence_ratio(self, at: Array, off: Array, now: float, noise: float) -> float:
        """Drift from the past runs' mean curve per 5 % of the run, relative to the drift among the past runs.

        Runs of another kind are no measure of this one: where its curve has not been theirs so far, little is made of
        its leaving them.
        """
        lag, prior = _CONFIG.drift_lag, _CONFIG.prior_windows
        late = np.arange(self._begins + lag, now, lag / _DRIFTS_PER_LAG)
        drift = np.interp(late, at, off) - np.interp(late - lag, at, off)
        rows = np.stack([np.interp(late, _AT, row) - np.interp(late - lag, _AT, row) for row in self._logs])
        usual = float(np.mean(_own_error(_spread(rows), rows.mean(0)) ** 2)) + _CONFIG.min_share_of_loss**2
        found = max(float(np.mean(drift**2)) - 2 * noise**2, 0.0) / usual
        independent = (now - self._begins) / lag
        ratio = math.sqrt((prior + independent * found) / (prior + independent))
        return max(ratio, _CONFIG.min_drift_ratio)


def _spread(logs: Array) -> Array:
    """Scale of where another run lies: of the mean of a few and of one more, their own scatter being uncertain."""
    n = len(logs)
    factor = (1 + 1 / n) * (n - 1) / max(n - 3, 1)
    spread: Array = np.sqrt(factor * logs.var(axis=0, ddof=1))
    return spread


def _growing(rows: Array, later: Array) -> Array:
    """The scale of an error that grows all the time, at least at the rate at which past runs stray from each other.

    How far a few of them lie from where they were may happen to be the same at two times, though they have moved.
    """
    mean = rows.mean(0)
    error: Array = np.maximum.accumulate(_own_error(_spread(rows), mean) ** 2)
    ahead = np.minimum(later + _CONFIG.drift_lag, later[-1])
    near = (later <= later[0] + _CONFIG.growth_window) & (ahead > later)
    if not near.any():
        return np.sqrt(error)
    moved = np.stack([np.interp(ahead[near], later, row) for row in rows]) - rows[:, near]
    rate = float(np.mean(_own_error(_spread(moved), moved.mean(0)) ** 2 / (ahead - later)[near]))
    grown: Array = np.sqrt(error + rate * (later - later[0]))
    return grown


def _own_error(spread: Array, change: Array) -> Array:
    """Scale of where a run lies, given the past runs' scatter and how much they change in the mean."""
    error: Array = np.hypot(spread, _CONFIG.change_share * change)
    return error


def _serves(past_run: PastRun, features: RunFeatures) -> bool:
    if not (past_run.finished and past_run.has_informative_shape and float(np.min(past_run.points.loss)) > 0):
        return False
    if past_run.points.step[0] > 2 * _CONFIG.start * past_run.total_steps:
        return False
    curve = _curve(past_run)
    best = np.minimum.accumulate(curve)
    if float((curve - best).max()) > _CONFIG.max_rise_share * float(curve[0] - best[-1]):
        return False  # it had troubles of its own
    used = slice(int(_CONFIG.start * features.profile.size), None)
    return bool(np.abs(past_run.features.profile[used] - features.profile[used]).max() < _CONFIG.max_rate_difference)


def _shown(past_run: PastRun) -> float:
    """The part of a past run by which it had as many points as are asked of a new one."""
    steps = past_run.points.step
    return float(steps[min(_CONFIG.min_points, steps.size) - 1]) / past_run.total_steps


def _apart(one: RunFeatures, other: RunFeatures) -> float:
    gap = np.nan_to_num(one.values - other.values)
    per_parameter = abs(float(gap[1] + gap[2] - gap[0]))
    return per_parameter + float(np.array(_CONFIG.feature_weights) @ np.abs(gap))


def _curve(past_run: PastRun) -> Array:
    """Losses of a past run at even parts of its run; the noisier they are, the more of them are averaged."""
    points = past_run.points
    at = np.log(np.maximum(points.step, 1.0) / past_run.total_steps)
    logs = np.log(points.loss)
    aim = (_roughness(logs) / _CONFIG.target_noise) ** 2
    if aim > _MIN_SMOOTHING:
        logs = gaussian_filter1d(logs, min(aim, _CONFIG.max_smoothing_points), mode="nearest")
    return np.exp(np.interp(np.log(_AT), at, logs))


def _roughness(values: Array) -> float:
    """Standard deviation of single values around what changes steadily, by the median of their second differences."""
    if values.size < 3:
        return 0.0
    bend = np.abs(values[1:-1] - (values[2:] + values[:-2]) / 2)
    return float(np.median(bend)) / _MEDIAN_BEND
