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
from lightning_scaling.forecast.priors.config import PeerConfig
from lightning_scaling.forecast.priors.features import RunFeatures
from lightning_scaling.forecast.priors.past_run import PastRun
from lightning_scaling.runs.curve import Points
from lightning_scaling.schedule.plan import Plan

Array = NDArray[np.float64]

_FIRST_PART = 0.01  # of the run, where curves begin to be kept
_MEDIAN_BEND = 0.826  # median of |x1 - (x0 + x2) / 2| of normal values of standard deviation 1
_DRIFTS_PER_LAG = 5  # overlapping drifts per lag
_MIN_SMOOTHING = 0.5  # points: less smoothing changes nothing
_TINY = 1e-9  # parts of the run closer than this are the same


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
        config: The tuned numbers.
    """

    def __init__(self, past_runs: list[PastRun], config: PeerConfig = DEFAULT.peers) -> None:
        self.count = len(past_runs)
        self._config = config
        self._at = _grid(config)
        curves = np.stack([_curve(past_run, config) for past_run in past_runs])
        # the part of the longest-silent past run by which it had as many points as are asked of a new one
        begins = [
            float(r.points.step[min(config.min_points, r.points.step.size) - 1]) / r.total_steps for r in past_runs
        ]
        self._begins = max(config.start, *begins)
        late = 2 * config.start <= self._at
        floors = [share * float(curves.min()) for share in config.floor_shares]
        self.floor, self._logs = min(
            ((floor, np.log(curves - floor)) for floor in floors),
            key=lambda found: float(np.var(found[1] - found[1][:, late].mean(1, keepdims=True), axis=0)[late].mean()),
        )

    @classmethod
    def among(
        cls, past_runs: Iterable[PastRun], plan: Plan, features: RunFeatures, config: PeerConfig = DEFAULT.peers
    ) -> NormalizedCurves | None:
        """Those of the past runs that are finished, never gave back a tenth of their gain and had the same schedule.

        Args:
            past_runs: Past runs of the family.
            plan: Plan of the new run.
            features: Its features.
            config: The tuned numbers.

        Returns:
            The most alike, eight at most; ``None`` with fewer than four.
        """
        if not plan.known or plan.total_steps is None:
            return None

        def distance(past_run: PastRun) -> float:
            gap = np.nan_to_num(past_run.features.values - features.values)
            per_parameter = abs(float(gap[1] + gap[2] - gap[0]))
            return per_parameter + float(np.array(config.feature_weights) @ np.abs(gap))

        usable = (past_run for past_run in past_runs if _serves(past_run, features, config))
        nearest = sorted(usable, key=distance)[: config.max_runs]
        return cls(nearest, config) if len(nearest) >= config.min_runs else None

    def path(self, points: Points, step: int, total_steps: int) -> PeerPath | None:
        """The rest of the run, from its latest losses and the past runs.

        Args:
            points: The curve up to now.
            step: The present step.
            total_steps: Length of its plan.

        Returns:
            ``None`` while there are too few losses or none lately, or with losses below where past runs count from.
        """
        now, config = step / total_steps, self._config
        used = (points.last > (self._begins - config.start) * total_steps) & ~isolated_outliers(points.loss)
        at, loss, count = points.step[used] / total_steps, points.loss[used], points.count[used]
        if now < self._begins + config.min_seen or at.size < 2 * config.min_points or float(loss.min()) <= self.floor:
            return None
        theirs = self._read(self._logs, at)
        logs = np.log(loss - self.floor)
        off = logs - theirs.mean(0)
        roughness = _roughness(off[at > now - config.level_windows[-1]])
        divergence_ratio = self._divergence_ratio(at, off, now, roughness)
        noise = roughness * math.sqrt(float(count.mean()))
        levels = []
        for window in config.level_windows:
            used = at > now - window
            if used.any():
                weight = np.where(used, count, 0.0) / float(count[used].sum())
                doubt = noise / math.sqrt(float(count[used].sum()))
                rows = self._logs - (theirs @ weight)[:, None]
                ahead = self._read(rows, np.array([min(now + config.drift_lag, 1.0)]))
                levels.append((math.hypot(float(_spread(ahead)[0]), doubt), float(logs @ weight), doubt, rows))
        best, level, error, apart = min(levels, key=lambda found: found[0], default=(math.inf, 0.0, 0.0, theirs))
        if not math.isfinite(best):
            return None
        later = np.append(now, self._at[now + _TINY < self._at])
        rows = self._read(apart, later)
        above = np.exp(level + rows.mean(0))
        own = divergence_ratio * self._growing_error(rows, later)
        medians = self.floor + above
        scales = np.hypot(above * np.hypot(own, error), config.min_share_of_loss * medians)
        return PeerPath(later * total_steps, medians, scales, divergence_ratio)

    def _read(self, rows: Array, at: Array) -> Array:
        """Curves on the grid, shape ``(n, grid)``, at other parts of the run, shape ``(n, m)``."""
        return np.stack([np.interp(at, self._at, row) for row in rows])

    def _divergence_ratio(self, at: Array, off: Array, now: float, noise: float) -> float:
        """Drift from the past runs' mean curve per 5 % of the run, relative to the drift among the past runs.

        Runs of another kind are no measure of this one: where its curve has not been theirs so far, little is made of
        its leaving them.
        """
        lag, prior = self._config.drift_lag, self._config.prior_windows
        late = np.arange(self._begins + lag, now, lag / _DRIFTS_PER_LAG)
        drift = np.interp(late, at, off) - np.interp(late - lag, at, off)
        rows = self._read(self._logs, late) - self._read(self._logs, late - lag)
        usual = float(np.mean(self._own_variance(rows))) + self._config.min_share_of_loss**2
        found = max(float(np.mean(drift**2)) - 2 * noise**2, 0.0) / usual
        independent = (now - self._begins) / lag
        return max(math.sqrt((prior + independent * found) / (prior + independent)), self._config.min_drift_ratio)

    def _own_variance(self, rows: Array) -> Array:
        """Squared scale of where a run lies, given the past runs' scatter and how much they change in the mean."""
        return np.asarray(np.hypot(_spread(rows), self._config.change_share * rows.mean(0)) ** 2)

    def _growing_error(self, rows: Array, later: Array) -> Array:
        """The scale of an error that grows all the time, at least at the rate at which past runs part from each other.

        How far a few of them lie from where they were may happen to be the same at two times, though they have moved.
        """
        variance: Array = np.maximum.accumulate(self._own_variance(rows))
        ahead = np.minimum(later + self._config.drift_lag, later[-1])
        near = (later <= later[0] + self._config.growth_window) & (ahead > later)
        if near.any():
            moved = np.stack([np.interp(ahead[near], later, row) for row in rows]) - rows[:, near]
            rate = float(np.mean(self._own_variance(moved) / (ahead - later)[near]))
            variance = variance + rate * (later - later[0])
        return np.sqrt(variance)


def _spread(logs: Array) -> Array:
    """Scale of where another run lies: of the mean of a few and of one more, their own scatter being uncertain."""
    n = len(logs)
    return np.asarray(np.sqrt((1 + 1 / n) * (n - 1) / max(n - 3, 1) * logs.var(axis=0, ddof=1)))


def _grid(config: PeerConfig) -> Array:
    return np.linspace(_FIRST_PART, 1.0, config.grid_points)


def _serves(past_run: PastRun, features: RunFeatures, config: PeerConfig) -> bool:
    """Whether a past run is finished, begins early, had no troubles of its own and had the same schedule."""
    if not (past_run.finished and past_run.has_informative_shape and float(np.min(past_run.points.loss)) > 0):
        return False
    if past_run.points.step[0] > 2 * config.start * past_run.total_steps:
        return False
    curve = _curve(past_run, config)
    best = np.minimum.accumulate(curve)
    if float((curve - best).max()) > config.max_rise_share * float(curve[0] - best[-1]):
        return False
    apart = np.abs(past_run.features.profile - features.profile)[int(config.start * features.profile.size) :]
    return bool(apart.max() < config.max_rate_difference)


def _curve(past_run: PastRun, config: PeerConfig) -> Array:
    """Losses of a past run at even parts of its run; the noisier they are, the more of them are averaged."""
    points = past_run.points
    at = np.log(np.maximum(points.step, 1.0) / past_run.total_steps)
    logs = np.log(points.loss)
    aim = (_roughness(logs) / config.target_noise) ** 2
    if aim > _MIN_SMOOTHING:
        logs = gaussian_filter1d(logs, min(aim, config.max_smoothing_points), mode="nearest")
    return np.exp(np.interp(np.log(_grid(config)), at, logs))


def _roughness(values: Array) -> float:
    """Standard deviation of single values around what changes steadily, by the median of their second differences."""
    bend = np.abs(values[1:-1] - (values[2:] + values[:-2]) / 2)
    return float(np.median(bend)) / _MEDIAN_BEND if bend.size else 0.0
