"""Damped Newton steps (Levenberg-Marquardt) for many small nonlinear fits at once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lightning_scaling.laws.arrays import Array, Bools, Ints
from lightning_scaling.laws.solvers.objectives import Objective

Model = Callable[[Array, Ints], tuple[Array, Array]]
Penalty = Callable[[Array], tuple[Array, Array, Array]]

_PATIENCE = 2
_LEAST = 1e-26
_LOOSEST = 1e14
_NOTHING = 1e-280


@dataclass(frozen=True)
class Minimum:
    """Where the fits ended.

    Attributes:
        u: Coordinates, shape ``(b, p)``.
        value: Objective, shape ``(b,)``; infinite where no admissible point was found.
        converged: Whether the last steps no longer changed the objective, shape ``(b,)``.
        iterations: Steps tried, shape ``(b,)``.
    """

    u: Array
    value: Array
    converged: Bools
    iterations: NDArray[np.int64]


@np.errstate(all="ignore")  # what overflows becomes infinite, and a step to there is not taken
def minimize(
    model: Model,
    start: Array,
    lower: Array,
    upper: Array,
    objective: Objective,
    weights: Array,
    *,
    penalty: Penalty | None = None,
    steps: int = 200,
    tolerance: float = 1e-13,
    reach: float | Array = 4.0,
) -> Minimum:
    """Minimise the summed objective of ``b`` problems, all in step.

    Newton's method with the residuals' second derivatives left out (Gauss and Newton), damped as by Levenberg (1944)
    and Marquardt (1963). The damping matrix is that of iteratively reweighted least squares: heavily damped steps are
    then its safe steps, lightly damped ones use the true curvature of a Huber objective, whose points far off curve
    nothing; that makes the last steps quadratic. Bounds are kept by projection: a coordinate at a bound whose
    gradient points outwards stays there. Only steps that lower the objective are taken.

    Args:
        model: ``model(u, rows)`` gives residuals ``(r, n)`` and their derivatives ``(r, p, n)`` for the problems
            `rows` at coordinates `u` ``(r, p)``. Residuals that are not finite make a step inadmissible.
        start: Coordinates to start from, shape ``(b, p)``.
        lower: Bounds, shape ``(p,)`` or ``(b, p)``. Equal bounds fix a coordinate.
        upper: Bounds, likewise.
        objective: What is summed.
        weights: Weights of the points, shape ``(n,)`` or ``(b, n)``.
        penalty: ``penalty(u)`` gives what is added to the objective ``(r,)``, its gradient and its (diagonal) curvature
            ``(r, p)`` at coordinates `u` ``(r, p)``.
        steps: Most steps per problem.
        tolerance: Relative change of the objective that is treated as none.
        reach: Longest step of each coordinate, in its own units, shape ``(p,)`` or one number.

    Returns:
        The minimum of each problem.
    """
    lower = np.broadcast_to(lower, start.shape)
    upper = np.broadcast_to(upper, start.shape)
    u = np.clip(start, lower, upper)
    done = np.zeros(len(u), dtype=bool)
    tried = np.zeros(len(u), dtype=np.int64)
    active = _Active(model, objective, weights, penalty, u)
    best = active.value.copy()
    active.keep(np.isfinite(best))
    for _ in range(steps):
        if not len(active.rows):
            break
        active.update_curvature()
        low, high = lower[active.rows], upper[active.rows]
        x, gradient = active.x, active.gradient
        held = ((x <= low) & (gradient > 0)) | ((x >= high) & (gradient < 0)) | (low >= high)
        step = _step(gradient, active.newton, active.steady, active.damping, held, active.eye)
        tried[active.rows] += 1
        active.take(np.clip(x + np.clip(step, -reach, reach), low, high), tolerance)
        still = (active.calm >= _PATIENCE) | held.all(axis=1)
        finished = still | (active.value <= _LEAST) | (active.damping > _LOOSEST)
        if finished.any():
            left = active.rows[finished]
            u[left], best[left] = active.x[finished], active.value[finished]
            done[left] = True
            active.keep(~finished)
    u[active.rows], best[active.rows] = active.x, active.value
    return Minimum(u, best, done, tried)


class _Active:
    """The problems that have not come to rest, with coordinates, residuals, curvature and damping of each."""

    _ARRAYS = ("rows", "x", "r", "jac", "value", "damping", "calm", "fresh", "gradient", "newton", "steady")

    def __init__(self, model: Model, objective: Objective, weights: Array, penalty: Penalty | None, u: Array) -> None:
        self.model, self.objective, self.weights, self.penalty = model, objective, weights, penalty
        count, size = u.shape
        self.rows = np.arange(count)
        self.x = u
        self.r, self.jac, self.value = self._evaluate(u)
        self.damping = np.full(count, 1e-2)
        self.calm = np.zeros(count, dtype=int)
        self.fresh = np.ones(count, dtype=bool)
        self.gradient = np.zeros((count, size))
        self.newton, self.steady = np.zeros((2, count, size, size))
        self.eye = np.eye(size)

    def _weights(self, rows: Ints) -> Array:
        return self.weights if self.weights.ndim == 1 else self.weights[rows]

    def _evaluate(self, x: Array) -> tuple[Array, Array, Array]:
        r, jac = self.model(x, self.rows)
        weights = self._weights(self.rows)
        value = np.sum(np.where(weights > 0, weights * self.objective.rho(r), 0.0), axis=-1)
        if self.penalty is not None:
            value = value + self.penalty(x)[0]
        return r, jac, np.where(np.isfinite(value), value, np.inf)

    def keep(self, stay: Bools) -> None:
        """Drop the other problems."""
        for name in self._ARRAYS:
            setattr(self, name, getattr(self, name)[stay])

    def update_curvature(self) -> None:
        """Gradient and curvature of the problems whose last step was taken."""
        if not self.fresh.any():
            return
        part: slice | Bools = slice(None) if self.fresh.all() else self.fresh
        found = _curvature(self.objective, self.r[part], self.jac[part], self._weights(self.rows[part]))
        self.gradient[part], self.newton[part], self.steady[part] = found
        if self.penalty is not None:
            _, slope, bend = self.penalty(self.x[part])
            self.gradient[part] += slope
            self.newton[part] += self.eye * bend[:, None, :]
            self.steady[part] += self.eye * bend[:, None, :]

    def take(self, trial: Array, tolerance: float) -> None:
        """Move to where the objective is lower, and adapt the damping."""
        expected = -np.einsum("bp,bp->b", self.gradient, trial - self.x)
        r, jac, value = self._evaluate(trial)
        better = value < self.value
        gain = np.where(better, self.value - value, 0.0)
        small = np.where(better, gain, np.abs(expected)) <= tolerance * np.abs(self.value)
        self.calm = np.where(small, self.calm + 1, np.where(better, 0, self.calm))
        good = better & (gain > 0.1 * expected)
        damping = np.where(good, self.damping * 0.2, np.where(better, self.damping, self.damping * 5.0))
        self.damping = np.maximum(damping, 1e-12)
        if better.all():
            self.x, self.r, self.jac, self.value = trial, r, jac, value
        else:
            self.x[better], self.r[better], self.jac[better] = trial[better], r[better], jac[better]
            self.value = np.where(better, value, self.value)
        self.fresh = better


def _curvature(objective: Objective, r: Array, jac: Array, weights: Array) -> tuple[Array, Array, Array]:
    psi, steady, true = objective.slopes(r)
    turned = jac.transpose(0, 2, 1)
    gradient = np.matmul(jac, (weights * psi)[..., None])[..., 0]
    calm = np.matmul(jac * (weights * steady)[:, None, :], turned)
    if objective.kind == "least_squares":
        return gradient, calm, calm
    return gradient, np.matmul(jac * (weights * true)[:, None, :], turned), calm


def _step(gradient: Array, newton: Array, steady: Array, damping: Array, held: Bools, eye: Array) -> Array:
    diagonal = np.einsum("bpp->bp", steady)
    scale = 1.0 / np.sqrt(np.where(diagonal > _NOTHING, diagonal, 1.0))
    scale = np.where(held | (diagonal <= _NOTHING), 0.0, scale)
    both = scale[:, :, None] * scale[:, None, :]
    damp = damping[:, None, None]
    matrix = (newton + damp * steady) * both + eye * np.where(held[:, None, :], 1.0, damp + 1e-14)
    matrix += eye * (scale == 0)[:, None, :]
    return np.asarray(-scale * np.linalg.solve(matrix, (scale * gradient)[..., None])[..., 0])
