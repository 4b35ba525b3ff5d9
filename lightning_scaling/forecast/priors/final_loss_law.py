"""A law of final losses over size, data and schedule, and a Gaussian process of its residuals."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from itertools import product
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from lightning_scaling._utils.stats import robust_std, t_quantile
from lightning_scaling.forecast.priors.config import FinalLossConfig
from lightning_scaling.forecast.priors.gaussian_process import GaussianProcess, Hyperparameters, squared_distances
from lightning_scaling.forecast.result import DEGREES_OF_FREEDOM
from lightning_scaling.laws.solvers.levenberg import minimize
from lightning_scaling.laws.solvers.objectives import Objective

Array = NDArray[np.float64]

_MIN_GAIN = 1e-3  # of a loss without annealing over one with it: keeps the logarithm finite


class Rows(NamedTuple):
    """Losses at known sizes, tokens and schedules, all in logarithms except ``annealed``; each of shape ``(n,)``."""

    params: Array
    work: Array
    batch: Array
    peak: Array
    annealed: Array
    steps: Array
    loss: Array

    @property
    def compute(self) -> Array:
        """Logarithm of size times data, up to a constant."""
        return self.params + self.work + self.batch


@dataclass(frozen=True)
class FinalLossLaw:
    """The law fitted to final losses.

    Attributes:
        centre: Medians of the past runs' size, work, batch, rate and loss, where the law is centred.
        theta: Logarithms of the irreducible share, the size term, its exponent, the data term, its exponent and the
            annealing gain; the power of the peak rate in the gain, the power of the tokens per step in the work, and
            the logarithm of the coupling.
        covariance: Covariance of these, shape ``(9, 9)``.
        noise: Scale of the residuals.
    """

    centre: Array
    theta: Array
    covariance: Array
    noise: float

    def __call__(self, rows: Rows) -> tuple[Array, Array]:
        """Log losses of shape ``(n,)`` and their derivatives by the parameters, shape ``(n, 9)``."""
        return _law(self.theta, rows, self.centre)

    def variance(self, slopes: Array) -> Array:
        """Variances of the log losses with the given derivatives, shape ``(n,)``."""
        return np.asarray(np.einsum("ij,jk,ik->i", slopes, self.covariance, slopes))


def _law(theta: Array, rows: Rows, centre: Array) -> tuple[Array, Array]:
    """Log losses of shape ``(n,)`` and their derivatives by the parameters, shape ``(n, 9)``."""
    e, a, log_alpha, b, log_beta, kappa, power, share, coupling = theta.tolist()
    alpha, beta, q = math.exp(log_alpha), math.exp(log_beta), math.exp(coupling)
    size, batch, peak = rows.params - centre[0], rows.batch - centre[2], rows.peak - centre[3]
    work = rows.work - centre[1] + share * batch
    left = math.exp(kappa) * beta * (1 - rows.annealed) * np.exp(power * peak)
    high = np.maximum(1 + left, _MIN_GAIN)
    first, second = a - alpha * size, b - beta * work + np.log(high)
    both = np.logaddexp(q * first, q * second) / q
    p, s = np.exp(q * (first - both)), np.exp(q * (second - both))
    floor, rest = math.exp(e), np.exp(both)
    whole = floor + rest
    g = rest / whole
    gain = s * left / high
    by_size, by_data = (g * p, -g * p * alpha * size), (g * s, g * (gain - s * beta * work))
    by_schedule = g * gain, g * gain * peak, -g * s * beta * batch
    slopes = [floor / whole, *by_size, *by_data, *by_schedule, g * (p * (first - both) + s * (second - both))]
    return np.log(whole) + centre[-1], np.stack(slopes, axis=1)


def fit_law(rows: Rows, midway: Rows, config: FinalLossConfig) -> tuple[FinalLossLaw, Array]:
    """The law by reweighted least squares with the weights of a Student t, and the weights of the runs' last losses."""
    count, nu = rows.loss.size, DEGREES_OF_FREEDOM
    every = Rows(*map(np.concatenate, zip(rows, midway, strict=True)))
    midway_weight = min(config.midway_weight, config.midway_runs / count)
    part = np.concatenate([np.ones(count), np.full(midway.loss.size, midway_weight)])
    centre = np.median([rows.params, rows.work, rows.batch, rows.peak, rows.loss], axis=1)
    prior, spread = np.array(config.prior_means), np.array(config.prior_stds)

    def model(u: Array, _: NDArray[np.intp]) -> tuple[Array, Array]:
        value, slopes = _law(u[0], every, centre)
        return (value - every.loss)[None], slopes.T[None]

    def penalty(u: Array) -> tuple[Array, Array, Array]:
        off = (u - prior) / spread
        return 0.5 * np.sum(off**2, axis=-1), off / spread, np.broadcast_to(spread**-2, u.shape)

    theta, noise, robust = prior, config.first_noise, part
    lowest, highest, squares = np.array(-np.inf), np.array(np.inf), Objective("least_squares")
    solve = partial(minimize, model, penalty=penalty, steps=config.steps, tolerance=config.tolerance)
    for left in reversed(range(config.rounds + 1)):
        weight = robust / noise**2
        theta = solve(theta[None], lowest, highest, squares, weight).u[0]
        residual, slopes = (found[0] for found in model(theta[None], np.arange(1)))
        covariance = np.linalg.inv((slopes * weight) @ slopes.T + np.diag(spread**-2))
        if not left:
            break
        leverage = np.einsum("ji,jk,ki->i", slopes, covariance, slopes) * weight
        residual = residual / np.maximum(1 - leverage, config.min_left_out_share)
        found = max(robust_std(residual[:count], 0.0), config.min_noise)
        noise = math.sqrt((count * found**2 + config.noise_runs * config.usual_noise**2) / (count + config.noise_runs))
        robust = part * (nu + 1) / (nu + (residual / noise) ** 2)
    return FinalLossLaw(centre, theta, np.asarray(covariance), noise), robust[:count]


@dataclass(frozen=True)
class MaternKernel:
    """Matern covariance of smoothness 3/2 and variance 1 (Rasmussen and Williams 2006, eq. 4.17)."""

    length: float

    def __call__(self, one: Array, other: Array) -> Array:
        """Covariances at coordinates of shapes ``(n, k)`` and ``(m, k)``, shape ``(n, m)``."""
        away = np.sqrt(3 * squared_distances(one, other)) / self.length
        return np.asarray((1 + away) * np.exp(-away))


@dataclass(frozen=True)
class ResidualProcess:
    """What the law leaves over, as a Gaussian process in sizes, work, batch, rate and annealing.

    Attributes:
        process: The process of residuals in units of the noise.
        stretch: Factor on the scale of predictions.
        axes: Weights of the five coordinates.
    """

    process: GaussianProcess
    stretch: float
    axes: Array

    def __call__(self, rows: Rows) -> tuple[Array, Array]:
        """Mean and standard deviation (with the noise of one run) of the rest, in units of the noise."""
        return self.process.predict(self.axes * np.stack(rows[: self.axes.size], axis=1))

    @classmethod
    def fit(cls, rows: Rows, rest: Array, config: FinalLossConfig) -> ResidualProcess:
        """The likeliest process, or noise alone where that predicts the left-out runs about as well."""
        nu = DEGREES_OF_FREEDOM
        axes = np.array(config.axes)
        at = axes * np.stack(rows[: axes.size], axis=1)
        kernels = [MaternKernel(length) for length in config.lengths]
        candidates = [
            Hyperparameters(kernel, nugget, amplitude, log_prior=-config.amplitude_penalty * math.log(amplitude) ** 2)
            for kernel, amplitude, nugget in product(kernels, config.amplitudes, config.nuggets)
        ]

        def inflation(z: Array) -> Array:
            return np.asarray(np.sqrt((nu + z**2) / nu))

        def score(z: Array, std: Array | float) -> float:
            """Log density of left-out residuals under a Student t, up to a constant."""
            return -float(np.sum((nu + 1) / 2 * np.log1p(z**2 / nu) + np.log(std)))

        process = GaussianProcess(at, rest, candidates, inflation, passes=config.passes, reselect=True)
        z = process.standardized
        alone = max(config.nuggets, key=lambda nugget: score(rest / nugget, nugget))
        if score(z, process.left_out_std) < score(rest / alone, alone) + config.min_score_gain:
            z = rest / alone
            process = GaussianProcess(at, rest, [Hyperparameters(kernels[0], alone, 0.0)], inflation, passes=1)
        return cls(process, _stretch(np.abs(z), config), axes)


def _stretch(z: Array, config: FinalLossConfig) -> float:
    """Factor on the intervals so that they hold nine tenths of the left-out past runs, shrunk towards 1."""
    level = config.stretch_level
    seen = float(np.quantile(z, level)) / t_quantile((1 + level) / 2, DEGREES_OF_FREEDOM)
    shrunk = math.exp(z.size / (z.size + config.stretch_runs) * math.log(max(seen, config.min_stretch_seen)))
    least, most = config.stretch_range
    return min(max(shrunk, least), most) * math.sqrt(1 + config.widening_of_few / z.size)
