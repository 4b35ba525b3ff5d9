"""Deterministic covers of a box, and exact least squares with non-negative coefficients."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import numpy as np

from lightning_scaling.laws.arrays import Array, Bools

_PER_AXIS = {1: 40, 2: 14}
_SPREAD = {3: 1500, 4: 3000}
_MANY = 6000


def cover(ranges: Sequence[tuple[float, float]], *, size: int | None = None) -> Array:
    """Points that cover a box evenly and always alike.

    A grid in one or two dimensions; beyond, the additive recurrence with the generalised golden ratio (Roberts 2018),
    a low-discrepancy sequence. Ranges of one sign are covered evenly in the logarithm.

    Args:
        ranges: Both ends of every side.
        size: Number of points beyond two dimensions, or per axis up to two; left out, by dimension.

    Returns:
        The points, shape ``(s, d)``; with no side one empty point.
    """
    d = len(ranges)
    if d == 0:
        return np.zeros((1, 0))
    if d in _PER_AXIS:
        k = size or _PER_AXIS[d]
        unit = np.array(list(product((np.arange(k) + 0.5) / k, repeat=d)))
    else:
        k = size or _SPREAD.get(d, _MANY)
        ratio = 2.0
        for _ in range(60):
            ratio = (1 + ratio) ** (1 / (d + 1))
        unit = (0.5 + np.outer(np.arange(1, k + 1), ratio ** -np.arange(1, d + 1))) % 1.0
    low, high = np.array(ranges, dtype=np.float64).T
    near, far = np.where(high < 0, (-high, -low), (low, high))  # positive where both ends are of one sign
    with np.errstate(divide="ignore", invalid="ignore"):
        curved = np.where(high < 0, -1.0, 1.0) * np.exp(np.log(near) + unit * (np.log(far) - np.log(near)))
    return np.asarray(np.where(near > 0, curved, low + unit * (high - low)))


def solve_linear(gram: Array, cross: Array, free: Bools, ridge: float = 1e-13) -> tuple[Array, Array]:
    """Least squares with some coefficients bound to be non-negative, for many systems.

    With so few coefficients every set of them that may be zero is tried; the best admissible one is the exact solution
    (Lawson and Hanson, Solving Least Squares Problems, 1974, chapter 23, find it by active sets).

    Args:
        gram: Weighted products of the columns, shape ``(..., k, k)``.
        cross: Their products with the target, shape ``(..., k)``.
        free: Which coefficients may be negative, shape ``(k,)``.
        ridge: Relative ridge that keeps singular systems solvable.

    Returns:
        The coefficients ``(..., k)`` and by how much the squared error falls ``(...)``.
    """
    k = cross.shape[-1]
    diagonal = np.einsum("...kk->...k", gram)
    scale = 1.0 / np.sqrt(np.where(diagonal > 0, diagonal, 1.0))
    g = gram * scale[..., :, None] * scale[..., None, :]
    c = cross * scale
    best = np.zeros_like(cross)
    fall = np.zeros(cross.shape[:-1])
    bound = np.flatnonzero(~free)
    for zero in product((False, True), repeat=len(bound)):
        kept = np.ones(k, dtype=bool)
        kept[bound] = ~np.array(zero, dtype=bool)
        index = np.flatnonzero(kept)
        if not len(index):
            continue
        part = g[..., index[:, None], index] + ridge * np.eye(len(index))
        right = c[..., index]
        solved = np.linalg.solve(part, right[..., None])[..., 0]
        gain = np.einsum("...k,...k->...", solved, right)
        good = (gain > fall) & np.all((solved >= 0) | free[index], axis=-1) & np.isfinite(gain)
        fall = np.where(good, gain, fall)
        filled = np.zeros_like(cross)
        filled[..., index] = solved
        best = np.where(good[..., None], filled, best)
    return best * scale, fall
