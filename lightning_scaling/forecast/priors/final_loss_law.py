"""A law of final losses over size, data and schedule, and a Gaussian process for what it leaves over."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray

from lightning_scaling.forecast.result import DEGREES_OF_FREEDOM

Array = NDArray[np.float64]

# Logarithms of: irreducible share, size term, its exponent, data term, its exponent, annealing gain; then how the gain
# grows with the log of the peak rate, how much a step counts by its tokens, and the log of the coupling.
_PRIOR = np.concatenate([np.log([0.68, 0.12, 0.35, 0.15, 0.38, 1.8]), [0.4, 0.75, math.log(1.6)]])
_SPREAD = np.array([0.2, 1.0, 0.35, 1.0, 0.35, 0.5, 0.4, 0.25, 0.25])
_NOISE, _NOISE_WEIGHT, _NOISE_FLOOR = 0.004, 2.0, 5e-4
_MIDWAY_WEIGHT, _MIDWAY_RUNS = 0.1, 0.5
_LENGTHS, _AMPLITUDES, _NUGGETS = (0.5, 1.0, 2.0, 4.0), (0.5, 1.0, 2.0, 4.0, 8.0), (1.0, 0.6, 0.35)
_PASSES, _GAIN = 3, 2.0
_AXES = (1.0, 1.0, 0.5, 0.3, 1.0)
_ROUNDS, _DESCENTS = 6, 30
_OF_FEW = 3.0


@dataclass(frozen=True)
class Rows:
    """Losses at known sizes, tokens and schedules, all in logarithms except ``annealed``; each of shape ``(n,)``."""

    params: Array
    work: Array
    batch: Array
    peak: Array
    annealed: Array
    steps: Array
    loss: Array

    def columns(self) -> tuple[Array, ...]:
        """All of them, in the order of the fields."""
        return (self.params, self.work, self.batch, self.peak, self.annealed, self.steps, self.loss)

    @property
    def compute(self) -> Array:
        """Logarithm of size times data, up to a constant."""
        return self.params + self.work + self.batch


@dataclass(frozen=True)
class FinalLossLaw:
    """Where the law is centred, its parameters, their covariance, and the scale of its residuals."""

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


@dataclass(frozen=True)
class ResidualProcess:
    """What the law leaves over, as a Gaussian process in sizes, work, batch, rate and annealing."""

    at: Array
    length: float
    amplitude: float
    nugget: float
    stretch: float
    basis: Array
    mean: Array

    def __call__(self, at: Array) -> tuple[Array, Array]:
        """Mean and variance (with the noise of one run) of the rest, the latter in units of the noise."""
        if self.amplitude == 0:
            return np.zeros(len(at)), np.full(len(at), self.nugget**2)
        near = self.amplitude**2 * _kernel(at, self.at, self.length)
        known = np.sum((near @ self.basis) ** 2, axis=1)
        return near @ self.mean, self.nugget**2 + np.maximum(self.amplitude**2 - known, 0.0)


def _law(theta: Array, rows: Rows, centre: Array) -> tuple[Array, Array]:
    """Log losses of shape ``(n,)`` and their derivatives by the parameters, shape ``(n, 9)``."""
    e, a, log_alpha, b, log_beta, kappa, power, share, coupling = theta.tolist()
    alpha, beta, q = math.exp(log_alpha), math.exp(log_beta), math.exp(coupling)
    size, batch, peak = rows.params - centre[0], rows.batch - centre[2], rows.peak - centre[3]
    work = rows.work - centre[1] + share * batch
    left = math.exp(kappa) * beta * (1 - rows.annealed) * np.exp(power * peak)
    high = np.maximum(1 + left, 1e-3)
    first, second = a - alpha * size, b - beta * work + np.log(high)
    both = np.logaddexp(q * first, q * second) / q
    p, s = np.exp(q * (first - both)), np.exp(q * (second - both))
    floor, rest = math.exp(e), np.exp(both)
    whole = floor + rest
    g = rest / whole
    gain = s * left / high
    slopes = [
        floor / whole,
        g * p,
        -g * p * alpha * size,
        g * s,
        g * (gain - s * beta * work),
        g * gain,
        g * gain * peak,
        -g * s * beta * batch,
        g * (p * (first - both) + s * (second - both)),
    ]
    return np.log(whole) + centre[4], np.stack(slopes, axis=1)


def _descend(rows: Rows, centre: Array, weight: Array, theta: Array) -> tuple[Array, Array, Array, Array]:
    """Levenberg and Marquardt's descent: parameters, residuals, slopes and the matrix of second derivatives."""
    tight = np.diag(1 / _SPREAD**2)

    def look(at: Array) -> tuple[float, Array, Array]:
        with np.errstate(over="ignore", invalid="ignore"):
            value, slopes = _law(at, rows, centre)
            rest = value - rows.loss
            total = float(weight @ rest**2 + np.sum(((at - _PRIOR) / _SPREAD) ** 2))
        return (total if math.isfinite(total) else math.inf), rest, slopes

    total, rest, slopes = look(theta)
    damping = 1e-3
    for _ in range(_DESCENTS):
        curve = (slopes * weight[:, None]).T @ slopes + tight
        slope = slopes.T @ (weight * rest) + (theta - _PRIOR) / _SPREAD**2
        step = np.linalg.solve(curve + damping * np.diag(np.diag(curve)), -slope)
        tried = look(theta + step)
        if tried[0] < total:
            near = total - tried[0] < 1e-5 * total
            theta, (total, rest, slopes), damping = theta + step, tried, damping / 5
            if near:
                break
        else:
            damping *= 8
            if damping > 1e6:
                break
    return theta, rest, slopes, (slopes * weight[:, None]).T @ slopes + tight


def fit_law(rows: Rows, midway: Rows) -> tuple[FinalLossLaw, Array]:
    """The law, and the robust weights of the runs' last losses."""
    count = rows.loss.size
    every = Rows(*(np.concatenate(pair) for pair in zip(rows.columns(), midway.columns(), strict=True)))
    part = np.concatenate([np.ones(count), np.full(midway.loss.size, min(_MIDWAY_WEIGHT, _MIDWAY_RUNS / count))])
    centre = np.median([rows.params, rows.work, rows.batch, rows.peak, rows.loss], axis=1)
    robust, theta, noise, nu = part, _PRIOR, 0.01, DEGREES_OF_FREEDOM
    for _ in range(_ROUNDS):
        theta, rest, slopes, curve = _descend(every, centre, robust / noise**2, theta)
        leverage = np.einsum("ij,jk,ik->i", slopes, np.linalg.inv(curve), slopes) * robust / noise**2
        rest = rest / np.maximum(1 - leverage, 0.2)
        found = max(1.4826 * float(np.median(np.abs(rest[:count]))), _NOISE_FLOOR)
        noise = math.sqrt((count * found**2 + _NOISE_WEIGHT * _NOISE**2) / (count + _NOISE_WEIGHT))
        robust = part * (nu + 1) / (nu + (rest / noise) ** 2)
    theta, _, _, curve = _descend(every, centre, robust / noise**2, theta)
    covariance = np.asarray(np.linalg.inv(curve), dtype=np.float64)
    return FinalLossLaw(centre, theta, covariance, noise), robust[:count]


def axes(rows: Rows) -> Array:
    """Where the runs lie for the Gaussian process, shape ``(n, 5)``."""
    columns = (rows.params, rows.work, rows.batch, rows.peak, rows.annealed)
    return np.stack([scale * column for scale, column in zip(_AXES, columns, strict=True)], axis=1)


def _kernel(one: Array, other: Array, length: float) -> Array:
    squares = np.sum(one**2, 1)[:, None] + np.sum(other**2, 1)[None, :] - 2 * one @ other.T
    away = np.sqrt(3 * np.maximum(squares, 0.0)) / length
    return np.asarray((1 + away) * np.exp(-away))


def fit_field(at: Array, rest: Array) -> ResidualProcess:
    """The most likely process behind residuals in units of the noise, or none if it does not predict left-out runs."""
    nu = DEGREES_OF_FREEDOM
    doubt = np.ones(rest.size)
    kernels = [(length, _kernel(at, at, length)) for length in _LENGTHS]
    for _ in range(_PASSES):
        best = -math.inf
        for length, kernel in kernels:
            power, vectors = np.linalg.eigh(kernel / np.outer(doubt, doubt))
            seen = vectors.T @ (rest / doubt)
            for amplitude, nugget in product(_AMPLITUDES, _NUGGETS):
                total = nugget**2 + amplitude**2 * np.maximum(power, 0.0)
                score = -0.5 * float(np.sum(seen**2 / total + np.log(total))) - 0.2 * math.log(amplitude) ** 2
                if score > best:
                    best, chosen = score, (length, amplitude, nugget, vectors, seen, total)
        length, amplitude, nugget, vectors, seen, total = chosen
        solved = vectors @ (seen / total) / doubt
        own = vectors**2 @ (1 / total) / doubt**2
        spread = np.sqrt(np.maximum(1 / own - (nugget * doubt) ** 2, 0.0) + nugget**2)
        z = solved / own / spread
        before, doubt = doubt, np.sqrt((nu + z**2) / nu)
    alone = max(_NUGGETS, key=lambda n: _score(rest / n, np.full(rest.size, n)))
    if _score(z, spread) < _score(rest / alone, np.full(rest.size, alone)) + _GAIN:
        nothing = np.zeros((rest.size, 0))
        return ResidualProcess(at, 1.0, 0.0, alone, _stretch(np.abs(rest / alone)), nothing, np.zeros(rest.size))
    basis = vectors / np.sqrt(total) / before[:, None]
    return ResidualProcess(at, length, amplitude, nugget, _stretch(np.abs(z)), basis, solved)


def _score(z: Array, spread: Array) -> float:
    """Log density of left-out residuals under a Student t, up to a constant."""
    nu = DEGREES_OF_FREEDOM
    return -float(np.sum((nu + 1) / 2 * np.log1p(z**2 / nu) + np.log(spread)))


def _stretch(z: Array) -> float:
    """How much wider the intervals must be to hold nine tenths of the left-out past runs, shrunk towards 1."""
    seen = float(np.quantile(z, 0.9)) / 2.13
    shrunk = math.exp(z.size / (z.size + 10) * math.log(max(seen, 1e-3)))
    return min(max(shrunk, 0.9), 2.5) * math.sqrt(1 + _OF_FEW / z.size)
