"""Joint fit of isoFLOP profiles with shared curvature and skew."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares

from lightning_scaling._utils.stats import MAD_TO_STD

Array = NDArray[np.float64]
Index = NDArray[np.intp]

WIDTH = 0.02
"""Relative excess over the least loss at which a run counts half: runs further up no longer follow the
profile's shape. Chosen on the isoFLOP sets of Porian et al. 2024 and two of Open-Athena, by the optimum at ten times
the compute; .01 to .03 do nearly as well, .06 and equal weights worse."""

_ROUNDS = 3
_HUBER = 2.0
_LEAST_NOISE = 2e-4
_MEAN_EXPONENT = 0.35
_CURVATURE = 0.08
_STEEP = 8.0
_PRIOR_FADING = (-0.1, 0.1)
_PRIOR_SKEW = 0.5
_PRIOR_OPTIMUM = 3.0


@dataclass(frozen=True)
class IsoflopProfiles:
    """The profiles of ``b`` budgets.

    Attributes:
        optimum: ln of the size with the least loss, shape ``(b,)``.
        cov: Covariance of `optimum`, shape ``(b, b)``.
        curvature: Second derivative of loss/least loss in ln size, shape ``(b,)``.
        level: Least loss, shape ``(b,)``.
        skew: ln of the ratio of the two exponents that make up a profile, halved: the sides are equally steep at 0.
        noise: Relative scatter of a run near the minimum.
    """

    optimum: Array
    cov: Array
    curvature: Array
    level: Array
    skew: float
    noise: float


def isoflop_profile_shape(u: Array, skew: float) -> Array:
    """A profile of curvature 1 at 0, a falling and a rising exponential: a budget's cut through an additive law."""
    fall, rise = _MEAN_EXPONENT * np.exp(skew), _MEAN_EXPONENT * np.exp(-skew)
    u = np.clip(u, -_STEEP, _STEEP)
    return np.asarray((np.expm1(-fall * u) / fall + np.expm1(rise * u) / rise) / (fall + rise))


def fit_isoflop_profiles(
    log_size: Array, loss: Array, budget: Index, log_flops: Array, width: float = WIDTH
) -> IsoflopProfiles:
    """Fit ``loss = level_b (1 + k_b shape(ln size - optimum_b))`` to all budgets at once.

    Optimum and level belong to each budget; the curvature ``k_b`` (a power of compute) and the skew are shared, so that
    a budget with few sizes or with its minimum off the middle of its grid borrows them from the others. A run counts
    ``1 / (1 + (excess/width)^2)``, `excess` being its loss over the least of its budget, minus one; outliers are damped
    (Huber). With one exponent for size and one for data this is exactly a budget's cut through
    ``E + A/size^alpha + B/tokens^beta`` (Hoffmann et al. 2022, arXiv 2203.15556, equation 2).

    Args:
        log_size: ln of the sizes, shape ``(n,)``.
        loss: Losses, shape ``(n,)``, positive.
        budget: Number of the budget of each run, 0 to ``b - 1``, shape ``(n,)``.
        log_flops: ln of the budgets, shape ``(b,)``.
        width: See :data:`WIDTH`.

    Returns:
        The profiles.
    """
    count = len(log_flops)
    least = np.array([loss[budget == j].min() for j in range(count)])
    lowest = np.array([log_size[budget == j][np.argmin(loss[budget == j])] for j in range(count)])
    z = log_flops - log_flops.mean()
    y = loss / least[budget] - 1.0
    near = 1.0 / (1.0 + (y / width) ** 2)
    weights, noise = near, 3e-3
    theta = np.concatenate([lowest, [np.log(_CURVATURE), _PRIOR_FADING[0], 0.0]])

    def residual(theta: Array, weights: Array) -> tuple[Array, Array]:
        rise_above = np.exp(theta[count] + theta[count + 1] * z[budget]) * isoflop_profile_shape(
            log_size - theta[budget], theta[count + 2]
        )
        level = np.bincount(budget, weights * (y - rise_above), count) / np.bincount(budget, weights, count)
        return y - rise_above - level[budget], level

    def objective(theta: Array) -> Array:
        return np.concatenate(
            [
                np.sqrt(weights) * residual(theta, weights)[0] / noise,
                [(theta[count + 1] - _PRIOR_FADING[0]) / _PRIOR_FADING[1], theta[count + 2] / _PRIOR_SKEW],
                (theta[:count] - lowest) / _PRIOR_OPTIMUM,
            ]
        )

    dof = max(len(loss) - 2 * count - 2, 1)
    for _ in range(_ROUNDS):
        theta = least_squares(objective, theta, x_scale="jac", max_nfev=60).x
        size = np.abs(residual(theta, weights)[0]) * np.sqrt(near)
        noise = max(MAD_TO_STD * float(np.median(size)) * np.sqrt(len(loss) / dof), _LEAST_NOISE)
        weights = near * np.minimum(1.0, _HUBER * noise / np.maximum(size, 1e-300))
    solved = least_squares(objective, theta, x_scale="jac", max_nfev=60)
    theta = solved.x
    cov = np.linalg.pinv(solved.jac.T @ solved.jac, hermitian=True)[:count, :count]
    curvature = np.exp(theta[count] + theta[count + 1] * z)
    level = least * (1.0 + residual(theta, weights)[1])
    return IsoflopProfiles(theta[:count], cov, curvature, level, float(theta[count + 2]), noise)
