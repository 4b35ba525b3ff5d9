"""Compute-optimal frontier of runs that need not share budgets: least loss and optimal size by compute."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import least_squares

from lightning_scaling._utils.stats import MAD_TO_STD
from lightning_scaling.allocation.drifting_power_law import EXPONENT
from lightning_scaling.allocation.isoflop_profile import isoflop_profile_shape

Array = NDArray[np.float64]

WIDTH = 0.03
"""Relative excess over the least loss of its budget at which a run counts half."""

BEND = 0.03
"""How much the exponent may change per unit of ln flops, as a standard deviation. Chosen with `WIDTH`, :data:`SCATTER`
and :data:`DRIFT` on eight of the 15 settings of Porian et al. 2024 and on Misfitting; checked on the others."""

SCATTER = 0.05
"""Error of ln size beyond what the fit reports, within the range of the runs."""

DRIFT = 0.03
"""How far the exponent wanders beyond it, as a standard deviation per square root of ln flops."""

_ROUNDS = 5
_HUBER = 2.0
_LEAST_NOISE = 3e-4
_STEEPEST = 50.0
_FREE = 6
_FLOOR, _REDUCIBLE, _DECAY, _OPTIMUM, _SLOPE, _CURVATURE, _FADING, _SKEW, _TURN = range(9)
_SPREAD = np.array([0.4, 1.0, 0.6, 2.0, EXPONENT[1], 0.7, 0.1, 0.5, BEND])


@dataclass(frozen=True, eq=False)
class Frontier:
    r"""``loss = level(C) (1 + k(C) shape(ln params - optimum(C)))``, `C` being the compute of a run in FLOPs.

    ``level = E + A C^-g`` is the least loss of a budget and ``optimum``, a parabola in ``ln C`` that bends little, the
    size that reaches it; ``shape`` is the cut of a budget through an additive law
    (``isoflop_profile_shape``), whose curvature ``k`` is a power of ``C``. Every
    ``E + A/params^alpha + B/tokens^beta`` (Hoffmann et al. 2022, arXiv 2203.15556, equation 2) is nearly of this form,
    but here the optimal size and the level are free of each other, so that losses far from the optimum, or a level that
    bends, do not move the size.

    Attributes:
        theta: Parameters, shape ``(9,)``: ln E, ln A and ln g, optimum and exponent at the largest compute, ln k and
            its exponent, skew, change of the exponent; level and curvature are centred at `middle`.
        cov: Their covariance.
        top: ln flops of the largest run.
        middle: Mean of ln flops.
        noise: Relative scatter of a loss near the frontier.
    """

    theta: Array
    cov: Array
    top: float
    middle: float
    noise: float

    def log_size(self, log_flops: ArrayLike) -> tuple[Array, Array]:
        """Mean and standard deviation of the logarithm of the optimal size, of the shape of `log_flops`."""
        away = np.asarray(log_flops, dtype=np.float64) - self.top
        slopes = np.zeros((*away.shape, len(self.theta)))
        slopes[..., _OPTIMUM], slopes[..., _SLOPE], slopes[..., _TURN] = 1.0, away, away**2 / 2
        variance = np.einsum("...i,ij,...j->...", slopes, self.cov, slopes)
        beyond = np.maximum(away, 0.0)
        return slopes @ self.theta, np.sqrt(variance + SCATTER**2 + DRIFT**2 * beyond**3 / 3)

    def exponent(self, log_flops: float) -> tuple[float, float]:
        """Mean and standard deviation of d ln size / d ln flops at a budget."""
        away = log_flops - self.top
        slopes = np.zeros(len(self.theta))
        slopes[_SLOPE], slopes[_TURN] = 1.0, away
        return float(slopes @ self.theta), float(np.sqrt(slopes @ self.cov @ slopes + DRIFT**2 * max(away, 0.0)))

    def level(self, log_flops: ArrayLike) -> Array:
        """The least loss of budgets."""
        return np.exp(_level(self.theta, np.asarray(log_flops, dtype=np.float64) - self.middle))

    def excess(self, off: ArrayLike, log_flops: ArrayLike) -> Array:
        """Relative excess over the least loss of sizes that are `off` the optimum, in logarithms."""
        away = np.asarray(log_flops, dtype=np.float64) - self.middle
        return _excess_at(self.theta, np.asarray(off, dtype=np.float64), away)


def with_spread(frontier: Frontier, log_flops: float, spread: float, exponent_spread: float) -> Frontier:
    """A frontier whose best size is known no better than so.

    Args:
        frontier: The frontier; it is centred at a new budget, where its optimum stays the same.
        log_flops: ln of that budget.
        spread: Standard deviation of ln size there.
        exponent_spread: Standard deviation of the exponent there.
    """
    theta, cov = frontier.theta.copy(), np.zeros_like(frontier.cov)
    away = log_flops - frontier.top
    theta[_OPTIMUM] += theta[_SLOPE] * away + theta[_TURN] * away**2 / 2
    theta[_SLOPE] += theta[_TURN] * away
    cov[_OPTIMUM, _OPTIMUM], cov[_SLOPE, _SLOPE] = spread**2, exponent_spread**2
    return Frontier(theta, cov, log_flops, frontier.middle, frontier.noise)


def _level(theta: Array, away: Array) -> Array:
    return np.asarray(np.logaddexp(theta[_FLOOR], theta[_REDUCIBLE] - np.exp(theta[_DECAY]) * away))


def _excess_at(theta: Array, off: Array, away: Array) -> Array:
    steepness = np.exp(theta[_CURVATURE] + theta[_FADING] * away)
    return np.asarray(np.minimum(steepness * isoflop_profile_shape(off, theta[_SKEW]), _STEEPEST), dtype=np.float64)


def fit_frontier(log_size: Array, log_flops: Array, loss: Array, error: Array | None = None) -> Frontier:
    """Fit the frontier by reweighted least squares on log losses.

    A run counts ``1 / (1 + (excess/width)^2)``, `excess` being its loss over the least of its compute, minus one;
    outliers are damped (Huber) and every parameter has a weak prior. Exact budgets are not needed.

    Args:
        log_size: ln of the sizes, shape ``(n,)``.
        log_flops: ln of the compute, shape ``(n,)``.
        loss: Losses, positive, shape ``(n,)``.
        error: Relative error of each loss beyond the noise of all, shape ``(n,)``; left out, none.
    """
    y = np.log(loss)
    top, middle = float(log_flops.max()), float(log_flops.mean())
    along, away = log_flops - top, log_flops - middle
    known = np.zeros_like(y) if error is None else error
    near = 1.0 / (1.0 + (_above_hull(log_flops, y) / WIDTH) ** 2)
    robust, noise = np.ones_like(near), 5e-3
    optimum = float(np.average(log_size - EXPONENT[0] * along, weights=near**2))
    least, mean = float(y.min()), float(y.mean())
    prior = np.array(
        [least + np.log(0.65), mean + np.log(0.3), np.log(0.15), optimum, EXPONENT[0], np.log(0.08), -0.1, 0.0, 0.0]
    )
    theta = prior

    def residual(theta: Array) -> Array:
        best = theta[_OPTIMUM] + theta[_SLOPE] * along + theta[_TURN] * along**2 / 2
        return np.asarray(_level(theta, away) + np.log1p(_excess_at(theta, log_size - best, away)) - y)

    def objective(theta: Array) -> Array:
        weights = near * robust / (noise**2 + known**2)
        return np.concatenate([np.sqrt(weights) * residual(theta), (theta - prior) / _SPREAD])

    for turn in range(_ROUNDS):
        theta = least_squares(objective, theta, x_scale="jac", max_nfev=60).x
        if turn:
            near = 1.0 / (1.0 + (np.maximum(y - _level(theta, away), 0.0) / WIDTH) ** 2)
        rest = np.abs(residual(theta))
        shrinkage = np.sqrt(near.sum() / max(near.sum() - _FREE, near.sum() / 3))
        noise = max(MAD_TO_STD * _median(rest, near) * shrinkage, _LEAST_NOISE)
        robust = np.minimum(1.0, _HUBER * np.hypot(noise, known) / np.maximum(rest * np.sqrt(near), 1e-12))
    solved = least_squares(objective, theta, x_scale="jac", max_nfev=60)
    return Frontier(solved.x, np.linalg.pinv(solved.jac.T @ solved.jac, hermitian=True), top, middle, float(noise))


def _median(values: Array, weights: Array) -> float:
    order = np.argsort(values)
    total = np.cumsum(weights[order])
    return float(values[order][np.searchsorted(total, total[-1] / 2)])


def _above_hull(log_flops: Array, y: Array) -> Array:
    """How far log losses lie above the convex hull of the best ones."""
    hull: list[tuple[float, float]] = []
    for at, value in sorted(zip(log_flops.tolist(), y.tolist(), strict=True)):
        while len(hull) >= 2 and (hull[-1][1] - hull[-2][1]) * (at - hull[-2][0]) >= (value - hull[-2][1]) * (
            hull[-1][0] - hull[-2][0]
        ):
            hull.pop()
        hull.append((at, value))
    corners = np.array(hull)
    corners = corners[: int(np.argmin(corners[:, 1])) + 1]
    return np.asarray(np.maximum(y - np.interp(log_flops, corners[:, 0], corners[:, 1]), 0.0))
