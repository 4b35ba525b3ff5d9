"""Many small nonlinear fits at once, by damped Newton steps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lightning_scaling.laws.solvers.objectives import Objective

Array = NDArray[np.float64]
Ints = NDArray[np.intp]
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
    converged: NDArray[np.bool_]
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
        tolerance: Relative change of the objective that no longer counts.
        reach: Longest step of each coordinate, in its own units, shape ``(p,)`` or one number.

    Returns:
        The minimum of each problem.
    """
    count, size = start.shape
    lower = np.broadcast_to(lower, start.shape)
    upper = np.broadcast_to(upper, start.shape)
    u = np.clip(start, lower, upper)
    best = np.full(count, np.inf)
    done = np.zeros(count, dtype=bool)
    tried = np.zeros(count, dtype=np.int64)
    rows = np.arange(count)

    def weighted(index: Ints) -> Array:
        return weights if weights.ndim == 1 else weights[index]

    r, jac = model(u, rows)
    value = _total(objective, r, weighted(rows))
    if penalty is not None:
        value = _finite(value + penalty(u)[0])
    best[:] = value
    gone = ~np.isfinite(value)
    keep = ~gone
    rows, x, r, jac, value = rows[keep], u[keep], r[keep], jac[keep], value[keep]
    damping = np.full(len(rows), 1e-2)
    calm = np.zeros(len(rows), dtype=int)
    fresh = np.ones(len(rows), dtype=bool)
    gradient = np.zeros((len(rows), size))
    newton = np.zeros((len(rows), size, size))
    steady = np.zeros((len(rows), size, size))
    eye = np.eye(size)
    for _ in range(steps):
        if not len(rows):
            break
        if fresh.any():
            every = bool(fresh.all())
            part: slice | NDArray[np.bool_] = slice(None) if every else fresh
            w = weighted(rows if every else rows[fresh])
            gradient[part], newton[part], steady[part] = _curvature(objective, r[part], jac[part], w)
            if penalty is not None:
                _, slope, bend = penalty(x[part])
                gradient[part] += slope
                newton[part] += eye * bend[:, None, :]
                if steady is not newton:
                    steady[part] += eye * bend[:, None, :]
        low, high = lower[rows], upper[rows]
        held = ((x <= low) & (gradient > 0)) | ((x >= high) & (gradient < 0)) | (low >= high)
        step = _step(gradient, newton, steady, damping, held, eye)
        step = np.clip(step, -reach, reach)
        trial = np.clip(x + step, low, high)
        expected = -np.einsum("bp,bp->b", gradient, trial - x)
        r_new, jac_new = model(trial, rows)
        value_new = _total(objective, r_new, weighted(rows))
        if penalty is not None:
            value_new = _finite(value_new + penalty(trial)[0])
        tried[rows] += 1
        better = value_new < value
        gain = np.where(better, value - value_new, 0.0)
        small = np.where(better, gain, np.abs(expected)) <= tolerance * np.abs(value)
        calm = np.where(small, calm + 1, np.where(better, 0, calm))
        good = better & (gain > 0.1 * expected)
        damping = np.where(good, damping * 0.2, np.where(better, damping, damping * 5.0))
        damping = np.maximum(damping, 1e-12)
        if better.all():
            x, r, jac, value = trial, r_new, jac_new, value_new
        else:
            x[better], r[better], jac[better] = trial[better], r_new[better], jac_new[better]
            value = np.where(better, value_new, value)
        fresh = better
        finished = (calm >= _PATIENCE) | (value <= _LEAST) | (damping > _LOOSEST) | held.all(axis=1)
        if finished.any():
            left = rows[finished]
            u[left], best[left] = x[finished], value[finished]
            done[left] = True
            stay = ~finished
            rows, x, r, jac, value = rows[stay], x[stay], r[stay], jac[stay], value[stay]
            damping, calm, fresh = damping[stay], calm[stay], fresh[stay]
            gradient, newton, steady = gradient[stay], newton[stay], steady[stay]
    u[rows], best[rows] = x, value
    return Minimum(u, best, done, tried)


def _total(objective: Objective, r: Array, weights: Array) -> Array:
    total = np.sum(np.where(weights > 0, weights * objective.rho(r), 0.0), axis=-1)
    return _finite(total)


def _finite(total: Array) -> Array:
    return np.where(np.isfinite(total), total, np.inf)


def _curvature(objective: Objective, r: Array, jac: Array, weights: Array) -> tuple[Array, Array, Array]:
    psi, steady, true = objective.slopes(r)
    turned = jac.transpose(0, 2, 1)
    gradient = np.matmul(jac, (weights * psi)[..., None])[..., 0]
    calm = np.matmul(jac * (weights * steady)[:, None, :], turned)
    if objective.kind == "least_squares":
        return gradient, calm, calm
    return gradient, np.matmul(jac * (weights * true)[:, None, :], turned), calm


def _step(gradient: Array, newton: Array, steady: Array, damping: Array, held: NDArray[np.bool_], eye: Array) -> Array:
    diagonal = np.einsum("bpp->bp", steady)
    scale = 1.0 / np.sqrt(np.where(diagonal > _NOTHING, diagonal, 1.0))
    scale = np.where(held | (diagonal <= _NOTHING), 0.0, scale)
    both = scale[:, :, None] * scale[:, None, :]
    damp = damping[:, None, None]
    matrix = (newton + damp * steady) * both + eye * np.where(held[:, None, :], 1.0, damp + 1e-14)
    matrix += eye * (scale == 0)[:, None, :]
    return np.asarray(-scale * np.linalg.solve(matrix, (scale * gradient)[..., None])[..., 0])
