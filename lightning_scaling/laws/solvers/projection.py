"""Variable projection over a whole grid of shapes at once."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lightning_scaling._utils.stats import MAD_TO_STD
from lightning_scaling.laws.arrays import Array

_HUBER = 3.0
_ROUNDS = 2


@dataclass(frozen=True)
class GridFit:
    """``y = offset + slope * x`` solved exactly for every shape of a grid.

    Attributes:
        offset: Shape ``(a, c, k)``.
        slope: Shape ``(a, c, k)``, never negative.
        sse: Weighted mean of the squared residuals, shape ``(a, c, k)``.
        best: Flat index of the shape with the least ``sse``.
        residual: Residuals of that shape, shape ``(n,)``.
        weights: Weights used at the last, sum 1, shape ``(n,)``.
    """

    offset: Array
    slope: Array
    sse: Array
    best: int
    residual: Array
    weights: Array


def fit_grid(base: Array, extra: Array, share: Array, y: Array, weights: Array) -> GridFit:
    """Fit ``y = offset + slope * (base[a] - share[a, k] * extra[c])`` for all ``a``, ``c``, ``k`` by moments.

    Golub and Pereyra's variable projection (SIAM J. Numer. Anal. 10(2), 1973): given the shape the law is linear, so
    its linear parameters are solved, not searched. Because the regressor is itself a sum of two parts, the moments of
    the parts give those of all combinations. Two rounds of Huber weights, from the residuals of the best shape, bound
    the pull of outliers.

    Args:
        base: First part of the regressor, shape ``(a, n)``.
        extra: Second part, shape ``(c, n)``.
        share: How much of the second part is taken away, shape ``(a, k)``.
        y: Observations, shape ``(n,)``.
        weights: Weights of the observations, not negative, shape ``(n,)``.

    Returns:
        The fits.
    """
    robust = np.ones_like(y)
    level = float(y[-1])
    for _ in range(_ROUNDS):
        w = weights * robust
        w = w / w.sum()
        mean_y = float(w @ y)
        centred = y - mean_y
        mean_base, mean_extra = base @ w, extra @ w
        b = base - mean_base[:, None]
        e = extra - mean_extra[:, None]
        bw, ew = b * w, e * w
        share_ = share[:, None, :]
        cross = (bw @ e.T)[:, :, None]
        base_sq, extra_sq = np.einsum("an,an->a", bw, b), np.einsum("cn,cn->c", ew, e)
        sxx = base_sq[:, None, None] - 2 * share_ * cross + share_**2 * extra_sq[None, :, None]
        sxy = (bw @ centred)[:, None, None] - share_ * (ew @ centred)[None, :, None]
        slope = np.maximum(sxy / np.maximum(sxx, 1e-300), 0.0)
        sse = (w @ centred**2) - 2 * slope * sxy + slope**2 * sxx
        sse = np.maximum(sse, 1e-18 * level**2 + 1e-300)
        best = int(np.argmin(sse))
        i, j, k = np.unravel_index(best, sse.shape)
        residual = centred - slope[i, j, k] * (b[i] - share[i, k] * e[j])
        scale = MAD_TO_STD * float(np.median(np.abs(residual))) + 1e-12 * abs(level) + 1e-300
        robust = np.minimum(1.0, _HUBER * scale / np.maximum(np.abs(residual), 1e-300))
    offset = mean_y - slope * (mean_base[:, None, None] - share_ * mean_extra[None, :, None])
    return GridFit(offset, slope, sse, best, residual, w)
