"""Fits of single-input laws for extrapolation beyond the last point."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from lightning_scaling._utils.stats import MAD_TO_STD
from lightning_scaling.laws.arrays import Array, Ints
from lightning_scaling.laws.data import Points
from lightning_scaling.laws.form import FunctionalForm
from lightning_scaling.laws.initialization import starts
from lightning_scaling.laws.options import Settings
from lightning_scaling.laws.problem import Problem, problem_of
from lightning_scaling.laws.quality import assess
from lightning_scaling.laws.results import Fit
from lightning_scaling.laws.solvers.levenberg import minimize
from lightning_scaling.laws.solvers.objectives import Objective

# Chosen on the curves of Alabdulmohsin et al. 2022, some tasks left out at a time (benchmarks/extrapolation.py), and
# checked on language models trained at a constant rate. The optimum is flat.
RECENCY = 3.0
_SLOPE_DECAY, _SLOPE_DECAY_SD = 0.4, 0.15
_DOUBLINGS = np.arange(-1.0, 4.0)
_NOISE_FACTOR = 2.0
_LEAST_NOISE = 5e-4
_CELL = 0.05

_STEPS, _TOLERANCE = 80, 1e-5
_ROUNDS = 2
_FLAT = 1e-4


def merged(law: FunctionalForm, points: Points) -> Points:
    """Points of one curve in order, those within 5 % averaged; weighted by ``(x / x_last)^3``."""
    (name,) = law.inputs
    log_x, log_y = np.log(points.inputs[name]), np.log(points.y)
    back = np.floor((log_x.max() - log_x) / _CELL).astype(np.intp)
    cells, which = np.unique(-back, return_inverse=True)
    mass = np.bincount(which, points.weights, len(cells))
    x = np.bincount(which, points.weights * log_x, len(cells)) / mass
    y = np.bincount(which, points.weights * log_y, len(cells)) / mass
    mean = mass / np.bincount(which, minlength=len(cells))
    weights = mean * np.exp(RECENCY * (x - log_x.max()))
    return replace(points, inputs={name: np.exp(x)}, y=np.exp(y), weights=weights / weights.max(), groups=None)


def fit_extrapolation(law: FunctionalForm, points: Points, settings: Settings) -> Fit:
    """Fit a law of one input to the end of a curve, with a weak prior on how its slope decays beyond."""
    problem = problem_of(law, points, settings)
    initial = starts(problem)
    plain = problem.descend(initial, steps=_STEPS, tolerance=_TOLERANCE)
    for _ in range(_ROUNDS):
        first = plain.u[int(np.argmin(plain.value))]
        scale = _NOISE_FACTOR * _noise(problem.residuals(first), points.weights, len(first))
        problem = replace(problem, settings=replace(settings, objective=Objective("huber", scale)))
        plain = problem.descend(plain.u, steps=_STEPS, tolerance=_TOLERANCE)
    with_prior = _SlopePrior(problem, scale)
    weights = np.concatenate([points.weights, np.ones(len(_DOUBLINGS) - 2)])
    start, unit = np.concatenate([plain.u, initial]), Objective("huber", 1.0)
    bounds = problem.lower, problem.upper
    ends = minimize(with_prior.model, start, *bounds, unit, weights, steps=5 * _STEPS, tolerance=_TOLERANCE)
    best = int(np.argmin(ends.value))
    if not np.isfinite(ends.value[best]):
        raise ValueError(f"{law.name} has no finite value beyond these points.")
    own = problem.model(ends.u)[0]
    data_value = np.sum(points.weights * problem.settings.objective.rho(own), axis=1)
    found = assess(points, problem.settings, problem, replace(ends, value=data_value), best)
    return Fit.of(replace(found, cov=with_prior.covariance(ends.u[best], weights)))


def _noise(r: Array, weights: Array, free: int) -> float:
    """Standard deviation of a residual near the end, robust to a few outliers."""
    short = len(r) / (max(len(r) - free, 0) + 1)
    rms = np.sqrt(np.average(r**2, weights=weights) * short + _LEAST_NOISE**2 * short / len(r))
    order = np.argsort(np.abs(r))
    mass = np.cumsum(weights[order])
    core = MAD_TO_STD * np.abs(r)[order][np.searchsorted(mass, 0.5 * mass[-1])] * np.sqrt(short)
    return float(min(rms, max(2.0 * core, _LEAST_NOISE)))


class _SlopePrior:
    """Residuals of a law in units of their scale, with the prior on its slope as three more residuals."""

    def __init__(self, problem: Problem, scale: float) -> None:
        ((name, x),) = problem.inputs.items()
        beyond = x.max() * 2.0**_DOUBLINGS
        self.problem = problem
        self.scale = scale
        self.wide = replace(
            problem,
            inputs={name: np.concatenate([x, beyond])},
            y=np.concatenate([problem.y, np.full(len(beyond), problem.y[-1])]),
            weights=np.concatenate([problem.weights, np.zeros(len(beyond))]),
        )
        self.target = 2.0**-_SLOPE_DECAY
        self.tolerance = _SLOPE_DECAY_SD * np.sqrt(len(beyond) - 2)

    def model(self, u: Array, _rows: Ints | None = None) -> tuple[Array, Array]:
        r, jac = self.wide.model(u)
        n = self.problem.size
        fall, d_fall = -np.diff(r[:, n:], axis=1), -np.diff(jac[:, :, n:], axis=2)
        last, following = fall[:, :-1], fall[:, 1:]
        size = last**2 + _FLAT**2
        ratio = following * last / size
        by_following, by_last = last / size, following * (size - 2 * last**2) / size**2
        slope = d_fall[:, :, 1:] * by_following[:, None] + d_fall[:, :, :-1] * by_last[:, None]
        return (
            np.concatenate([r[:, :n] / self.scale, (ratio - self.target) / self.tolerance], axis=1),
            np.concatenate([jac[:, :, :n] / self.scale, slope / self.tolerance], axis=2),
        )

    def covariance(self, u: Array, weights: Array) -> Array:
        free = (u > self.problem.lower) & (u < self.problem.upper)
        inner = self.model(u[None])[1][0][free] * np.sqrt(weights)
        cov = np.zeros((len(u), len(u)))
        cov[np.ix_(free, free)] = np.linalg.pinv(inner @ inner.T, rcond=1e-12, hermitian=True)
        return cov
