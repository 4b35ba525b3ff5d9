"""Gaussian-process regression on the features of runs."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray
from scipy import linalg

from lightning_scaling.schedule.plan import Plan

_PROFILE = np.linspace(0.01, 1.0, 50)
# Distances at which the correlation of two runs falls by exp(-1/2), before the length scale: in logarithms of
# parameters, steps, tokens per step and peak rate, and in the root mean square difference of rates over their peaks.
# Engineering choices; benchmarks/first_step.py prints the effect.
_APART = np.array([1.0, 0.6, 0.7, 1.0])
_PROFILE_APART = 0.15
_REACH = 3.0
_TWIN = 0.02
_OUTLYING = 2.5
_EXPECTED = 5.0


@dataclass(frozen=True)
class RunFeatures:
    """The configuration of a run as known before it starts.

    Args:
        values: Logarithms of parameters, planned steps, tokens per step and peak rate; ``nan`` where not known.
        profile: Planned rate over its peak at 50 equally spaced parts of the run; ``nan`` where not known.
    """

    values: NDArray[np.float64]
    profile: NDArray[np.float64]

    @classmethod
    def of(cls, plan: Plan, total_steps: int, params: int | None, tokens_per_step: float | None) -> RunFeatures:
        """The features of a run with this plan."""
        known = plan.known and plan.peak > 0
        return cls(
            np.array(
                [
                    math.log(params) if params else math.nan,
                    math.log(total_steps),
                    math.log(tokens_per_step) if tokens_per_step else math.nan,
                    math.log(plan.peak) if known else math.nan,
                ]
            ),
            plan.at(_PROFILE * total_steps) / plan.peak if known else np.full(_PROFILE.size, math.nan),
        )


def replicates(runs: list[RunFeatures]) -> NDArray[np.bool_]:
    """Which runs are of one size and length under one schedule, shape ``(n, n)``."""
    if not runs:
        return np.zeros((0, 0), dtype=bool)
    size = np.nan_to_num(np.stack([run.values[:2] for run in runs]), nan=-1.0)
    profile = np.nan_to_num(np.stack([run.profile for run in runs]), nan=-1.0)
    same = np.abs(size[:, None] - size).max(-1) < 1e-6
    apart: NDArray[np.float64] = np.sqrt(((profile[:, None] - profile) ** 2).mean(-1))
    both: NDArray[np.bool_] = same & (apart < _TWIN)
    return both


class FeatureSpace:
    """The features of several runs as coordinates; a missing feature is set to the mean and marked by an indicator.

    Args:
        runs: The features of the past runs.
    """

    def __init__(self, runs: list[RunFeatures]) -> None:
        values = np.stack([run.values for run in runs])
        profiles = np.stack([run.profile for run in runs])
        known, drawn = np.isfinite(values), np.isfinite(profiles)
        self._middle = np.where(known, values, 0.0).sum(0) / np.maximum(known.sum(0), 1)
        self._profile = np.where(drawn, profiles, 0.0).sum(0) / np.maximum(drawn.sum(0), 1)
        self._used = known.any(0)
        self.at = np.stack([self._place(run) for run in runs])

    def _place(self, run: RunFeatures) -> NDArray[np.float64]:
        known = np.isfinite(run.values)
        drawn = np.isfinite(run.profile)
        values = np.where(known & self._used, run.values, self._middle) - self._middle
        profile = np.where(drawn, run.profile, self._profile) / (_PROFILE_APART * math.sqrt(_PROFILE.size))
        return np.concatenate([values / _APART, profile, (~known & self._used).astype(float)])

    def place(self, run: RunFeatures) -> NDArray[np.float64]:
        """Coordinates of a further run, shape ``(1, k)``."""
        return self._place(run)[None]


@dataclass(frozen=True)
class GPScales:
    """How a quantity varies from run to run.

    Args:
        unit: The scale it varies on.
        middle: Its value where nothing is known; ``None`` for the median of the runs.
        offset: Standard deviation of the mean about the middle, in units.
        shared: Candidate standard deviations, in units, of the part that similar runs share.
        individual: Candidate standard deviations, in units, of the part that even replicates do not share.
        trusted: Candidate factors on the stated errors of the values; the likeliest of all candidates are used.
    """

    unit: float
    middle: float | None = None
    offset: float = 1.0
    shared: tuple[float, ...] = (0.17, 0.3, 0.55, 1.0)
    individual: tuple[float, ...] = (0.03, 0.1, 0.3, 1.0)
    trusted: tuple[float, ...] = (1.0,)


class GaussianProcess:
    """A quantity of runs as a Gaussian process over their features: constant, linear and squared-exponential kernels.

    See Rasmussen and Williams, *Gaussian Processes for Machine Learning* (2006), eqs. 2.22 to 2.24, 5.8 and 5.12. The
    scales are the likeliest of a grid under a wide prior; values far off their leave-one-out prediction count less.

    Args:
        at: Coordinates of the runs, shape ``(n, k)``.
        value: The quantity, shape ``(n,)``.
        error: Standard deviation of each value, shape ``(n,)``.
        scales: How it varies.
    """

    def __init__(
        self, at: NDArray[np.float64], value: NDArray[np.float64], error: NDArray[np.float64], scales: GPScales
    ) -> None:
        self._at = at
        self.value = value
        self._scales = scales
        self._middle = float(np.median(value)) if scales.middle is None else scales.middle
        likeness, trend = _kernels(at, at)
        choices = list(product(scales.shared, scales.individual, scales.trusted))
        settled = [self._settle(choice, likeness, trend, error) for choice in choices]
        best = max(range(len(choices)), key=lambda i: settled[i][0])
        self._related, self._apart, self.trusted = choices[best]
        _, self._inverse = settled[best]
        off = np.abs(self._pull) / np.sqrt(np.diag(self._inverse)) / _OUTLYING
        self._error = error
        self._strain = 1.0
        if (off > 1).any():
            _, self._inverse = self._settle(choices[best], likeness, trend, error, np.maximum(off, 1.0))

    def _settle(
        self,
        choice: tuple[float, float, float],
        likeness: NDArray[np.float64],
        trend: NDArray[np.float64],
        error: NDArray[np.float64],
        doubt: NDArray[np.float64] | float = 1.0,
    ) -> tuple[float, NDArray[np.float64]]:
        related, apart, trusted = choice
        unit = self._scales.unit
        covariance = self._covariance(likeness, trend, related)
        covariance[np.diag_indices_from(covariance)] += ((apart * unit) ** 2 + (trusted * error) ** 2) * doubt**2
        root = linalg.cholesky(covariance, lower=True, check_finite=False)
        inverse = linalg.cho_solve((root, True), np.eye(len(error)), check_finite=False)
        off = self.value - self._middle
        likely = -0.5 * float(off @ inverse @ off) - float(np.log(np.diag(root)).sum())
        likely -= 0.5 * (math.log(related / 0.45) / 1.5) ** 2 + 0.5 * (math.log(apart / 0.1) / 2) ** 2
        return likely - 0.5 * math.log(trusted / 0.6) ** 2, inverse

    def _covariance(
        self, likeness: NDArray[np.float64], trend: NDArray[np.float64], related: float
    ) -> NDArray[np.float64]:
        shared: NDArray[np.float64] = self._scales.unit**2 * (
            self._scales.offset**2 + (related**2 + 0.05) * trend + related**2 * likeness
        )
        return shared

    @property
    def _pull(self) -> NDArray[np.float64]:
        pull: NDArray[np.float64] = self._inverse @ (self.value - self._middle)
        return pull

    def without(self, group: NDArray[np.intp]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Leave-out prediction of a group of runs by the others: medians and standard deviations."""
        covariance = np.linalg.inv(self._inverse[np.ix_(group, group)])
        own = (self.trusted * self._error[group]) ** 2
        variance = np.maximum(np.diag(covariance) - own, (self._apart * self._scales.unit) ** 2)
        return self.value[group] - covariance @ self._pull[group], np.sqrt(variance)

    def calibrate(self, groups: list[NDArray[np.intp]]) -> GaussianProcess:
        """Widen the predictions by the standardized leave-out errors.

        Args:
            groups: For each value its own place, then those of the values to leave out with it.
        """
        surprise = 0.0
        for group in groups:
            found, spread = self.without(group)
            variance = spread[0] ** 2 + (self.trusted * self._error[group[0]]) ** 2
            surprise += min((self.value[group[0]] - found[0]) ** 2 / variance, _OUTLYING**2)
        self._strain = max(math.sqrt((surprise + _EXPECTED) / (len(groups) + _EXPECTED)), 1.0)
        return self

    def predict(self, at: NDArray[np.float64]) -> tuple[float, float]:
        """Median and standard deviation of the quantity for a further run at coordinates of shape ``(1, k)``."""
        likeness, trend = _kernels(at, self._at)
        shared = self._covariance(likeness, trend, self._related)[0]
        alone = self._covariance(*_kernels(at, at), self._related)[0, 0]
        variance = max(float(alone - shared @ self._inverse @ shared), 0.0) + (self._apart * self._scales.unit) ** 2
        return self._middle + float(shared @ self._pull), self._strain * math.sqrt(variance)


def _kernels(one: NDArray[np.float64], other: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    square = np.maximum((one**2).sum(1)[:, None] + (other**2).sum(1) - 2 * one @ other.T, 0.0)
    plain = _APART[:3]
    return np.exp(-0.5 * square / _REACH**2), (one[:, :3] * plain) @ (other[:, :3] * plain).T
