"""Features of runs that are known before they start, and Gaussian processes over them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray

from lightning_scaling.forecast.config import DEFAULT
from lightning_scaling.forecast.priors.config import FeatureConfig, QuantityScales
from lightning_scaling.forecast.priors.gaussian_process import GaussianProcess, Hyperparameters, squared_distances
from lightning_scaling.schedule.plan import Plan

_TREND_AXES = 3  # parameters, steps and tokens per step: the quantity may follow a power law in these


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
    def of(cls, plan: Plan, params: int | None, tokens_per_step: float | None) -> RunFeatures:
        """The features of a run with this plan, which has an end."""
        values = (params, plan.total_steps, tokens_per_step, plan.peak if plan.known else None)
        return cls(np.array([math.log(value) if value else math.nan for value in values]), plan.profile)


@dataclass(frozen=True)
class FeatureKernel:
    """Constant, linear and squared-exponential covariance of a quantity over the coordinates of runs.

    Args:
        scales: How the quantity varies.
        shared: Standard deviation, in units, of the part that similar runs share.
        config: The distances.
    """

    scales: QuantityScales
    shared: float
    config: FeatureConfig

    def __call__(self, one: NDArray[np.float64], other: NDArray[np.float64]) -> NDArray[np.float64]:
        """Covariances at coordinates of shapes ``(n, k)`` and ``(m, k)``, shape ``(n, m)``."""
        config, power = self.config, self.shared**2
        plain = np.array(config.distances[:_TREND_AXES])
        trend = (one[:, :_TREND_AXES] * plain) @ (other[:, :_TREND_AXES] * plain).T
        likeness = np.exp(-0.5 * squared_distances(one, other) / config.length_scale**2)
        covariance: NDArray[np.float64] = self.scales.unit**2 * (
            self.scales.offset**2 + (power + config.trend_variance) * trend + power * likeness
        )
        return covariance


class FeatureProcess(GaussianProcess):
    """A quantity of runs as a Gaussian process over their features.

    A missing feature is set to the mean and marked by an indicator.

    Args:
        runs: The features of the runs, n of them.
        value: The quantity, shape ``(n,)``.
        error: Standard deviation of each value, shape ``(n,)``.
        scales: How the quantity varies.
        config: Distances between runs and priors of the hyperparameters.
    """

    def __init__(
        self,
        runs: Sequence[RunFeatures],
        value: NDArray[np.float64],
        error: NDArray[np.float64],
        scales: QuantityScales,
        config: FeatureConfig = DEFAULT.features,
    ) -> None:
        self._config = config
        values = np.stack([run.values for run in runs])
        profiles = np.stack([run.profile for run in runs])
        known, drawn = np.isfinite(values), np.isfinite(profiles)
        self._mean = np.where(known, values, 0.0).sum(0) / np.maximum(known.sum(0), 1)
        self._profile = np.where(drawn, profiles, 0.0).sum(0) / np.maximum(drawn.sum(0), 1)
        self._used = known.any(0)

        def log_prior(*chosen: float) -> float:
            pairs = zip(chosen, config.hyperpriors, strict=True)
            return -0.5 * sum((math.log(one / median) / spread) ** 2 for one, (median, spread) in pairs)

        kernels = {shared: FeatureKernel(scales, shared, config) for shared in scales.shared}
        candidates = [
            Hyperparameters(kernels[shared], own * scales.unit, 1.0, trusted, log_prior(shared, own, trusted))
            for shared, own, trusted in product(scales.shared, scales.individual, scales.trusted)
        ]
        super().__init__(
            np.concatenate([self._place(run) for run in runs]),
            value,
            candidates,
            lambda z: np.maximum(np.abs(z) / config.max_error, 1.0),
            error=error,
            middle=float(np.median(value)) if scales.middle is None else scales.middle,
        )

    def _place(self, run: RunFeatures) -> NDArray[np.float64]:
        """Coordinates of a run, shape ``(1, k)``."""
        known = np.isfinite(run.values)
        values = np.where(known & self._used, run.values, self._mean) - self._mean
        profile = np.where(np.isfinite(run.profile), run.profile, self._profile)
        profile = profile / (self._config.profile_distance * math.sqrt(profile.size))
        missing = (~known & self._used).astype(float)
        return np.concatenate([values / self._config.distances, profile, missing])[None]

    def predict_for(self, run: RunFeatures | None) -> tuple[float, float]:
        """Median and standard deviation of the quantity for a further run; without features, for the average one."""
        median, std = self.predict(self._at.mean(0)[None] if run is None else self._place(run))
        return float(median[0]), float(std[0])

    def calibrated(self, groups: Sequence[NDArray[np.intp]]) -> FeatureProcess:
        """The process, its predictions widened by the leave-out errors of groups of replicates."""
        self.calibrate(groups, self._config.max_error, self._config.expected_errors)
        return self
