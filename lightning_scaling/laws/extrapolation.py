"""One law of one quantity, fitted for what lies ahead of the last point rather than for the whole curve."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from lightning_scaling.laws.base import Law
from lightning_scaling.laws.data import Points
from lightning_scaling.laws.estimator import problem_of
from lightning_scaling.laws.problem import Problem
from lightning_scaling.laws.quality import judge
from lightning_scaling.laws.results import Fit, Settings
from lightning_scaling.laws.solvers.levenberg import Minimum, minimize
from lightning_scaling.laws.solvers.objectives import Objective

Array = NDArray[np.float64]
Ints = NDArray[np.intp]

# Chosen on the curves of Alabdulmohsin et al. 2022, some tasks left out at a time (benchmarks/extrapolation.py), and
# checked on language models trained at a constant rate. The optimum is flat.
RECENCY = 3.0
_SLOWING, _SLOWING_SPREAD = 0.4, 0.15
_DOUBLINGS = np.arange(-1.0, 4.0)
_CAUTION = 2.0
_LEAST_NOISE = 5e-4
_CELL = 0.05

_STEPS, _TOLERANCE = 80, 1e-5
_ROUNDS = 2
_FLAT = 1e-4


def merged(law: Law, points: Points) -> Points:
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


def fit_ahead(law: Law, points: Points, settings: Settings) -> Fit:
    """One law of one quantity, fitted for what lies ahead of the last point."""
    problem = problem_of(law, points, settings)
    starts = problem.starts()
    plain = problem.descend(starts, steps=_STEPS, tolerance=_TOLERANCE)
    for _ in range(_ROUNDS):
        rough = plain.u[[int(np.argmin(plain.value))]]
        r = problem.model(rough, np.array([0]))[0][0]
        believed = _Slowing(problem, _CAUTION * _noise(r, points.weights, rough.shape[1]))
        settings = replace(settings, objective=Objective("huber", believed.scale))
        problem = problem_of(law, points, settings)
        plain = problem.descend(plain.u, steps=_STEPS, tolerance=_TOLERANCE)
    weights = np.concatenate([points.weights, np.ones(len(_DOUBLINGS) - 2)])
    ends = minimize(
        believed.model,
        np.concatenate([plain.u, starts]),
        problem.lower,
        problem.upper,
        Objective("huber", 1.0),
        weights,
        steps=5 * _STEPS,
        tolerance=_TOLERANCE,
    )
    best = int(np.argmin(ends.value))
    if not np.isfinite(ends.value[best]):
        raise ValueError(f"{law.name} has no finite value beyond these points.")
    own = problem.model(ends.u, np.arange(len(ends.u)))[0]
    data_value = np.sum(points.weights * settings.objective.rho(own), axis=1)
    fit = judge(law, points, settings, problem, Minimum(ends.u, data_value, ends.converged, ends.iterations), best)
    return replace(fit, cov=believed.covariance(ends.u[best], weights))


def _noise(r: Array, weights: Array, free: int) -> float:
    """Standard deviation of a residual near the end; a few outliers do not carry it away."""
    short = len(r) / (max(len(r) - free, 0) + 1)
    rms = np.sqrt(np.average(r**2, weights=weights) * short + _LEAST_NOISE**2 * short / len(r))
    order = np.argsort(np.abs(r))
    mass = np.cumsum(weights[order])
    core = 1.4826 * np.abs(r)[order][np.searchsorted(mass, 0.5 * mass[-1])] * np.sqrt(short)
    return float(min(rms, max(2.0 * core, _LEAST_NOISE)))


class _Slowing:
    """Residuals of a law in units of their scale, and the belief about its slope as three more of them."""

    def __init__(self, problem: Problem, scale: float) -> None:
        (name,) = problem.law.inputs
        x = problem.inputs[name]
        self.count = len(x)
        self.scale = scale
        self.problem = problem
        self.wide = Problem(
            problem.law,
            {name: np.concatenate([x, x.max() * 2.0**_DOUBLINGS])},
            np.concatenate([problem.y, np.full(len(_DOUBLINGS), problem.y[-1])]),
            np.concatenate([problem.weights, np.zeros(len(_DOUBLINGS))]),
            problem.objective,
            problem.space,
            problem.fixed,
            problem.bounds,
        )
        self.target = 2.0**-_SLOWING
        self.unit = _SLOWING_SPREAD * np.sqrt(len(_DOUBLINGS) - 2)

    def model(self, u: Array, rows: Ints) -> tuple[Array, Array]:
        r, jac = self.wide.model(u, rows)
        n = self.count
        fall, d_fall = -np.diff(r[:, n:], axis=1), -np.diff(jac[:, :, n:], axis=2)
        last, ahead = fall[:, :-1], fall[:, 1:]
        size = last**2 + _FLAT**2
        ratio = ahead * last / size
        by_ahead, by_last = last / size, ahead * (size - 2 * last**2) / size**2
        slope = d_fall[:, :, 1:] * by_ahead[:, None] + d_fall[:, :, :-1] * by_last[:, None]
        return (
            np.concatenate([r[:, :n] / self.scale, (ratio - self.target) / self.unit], axis=1),
            np.concatenate([jac[:, :, :n] / self.scale, slope / self.unit], axis=2),
        )

    def covariance(self, u: Array, weights: Array) -> Array:
        jac = self.model(u[None], np.array([0]))[1][0] * np.sqrt(weights)
        free = (u > self.problem.lower) & (u < self.problem.upper)
        cov = np.zeros((len(u), len(u)))
        inner = jac[free]
        cov[np.ix_(free, free)] = np.linalg.pinv(inner @ inner.T, rcond=1e-12, hermitian=True)
        return cov
