"""Bootstrap weights: how often each point is drawn, with points, runs or blocks as the unit."""

from __future__ import annotations

import math

import numpy as np

from lightning_scaling.laws.arrays import Array, Ints


def draw_weights(rng: np.random.Generator, count: int, weights: Array, groups: Ints | None, block: int = 1) -> Array:
    """Weights of `count` bootstrap samples.

    Points that share a run share its luck: with `groups` whole runs are drawn (cluster bootstrap; Cameron, Gelbach
    and Miller, Rev. Econ. Stat. 90(3), 2008). Points of one curve lean on their neighbours: with `block` > 1 circular
    blocks of that many neighbours are drawn (Politis and Romano 1992). Else single points (Efron 1979).

    Args:
        rng: Source of randomness.
        count: Number of samples.
        weights: Weights of the points, in the order of the curve when `block` > 1, shape ``(n,)``.
        groups: Number of the run of each point, shape ``(n,)``, or None.
        block: Points per block.

    Returns:
        Weights of shape ``(count, n)``.
    """
    n = len(weights)
    if groups is not None:
        runs = int(groups.max()) + 1
        drawn = rng.multinomial(runs, np.full(runs, 1 / runs), size=count).astype(np.float64)
        return drawn[:, groups] * weights
    if block > 1:
        blocks = math.ceil(n / block)
        first = rng.integers(0, n, size=(count, blocks))
        index = (first[:, :, None] + np.arange(block)).reshape(count, -1)[:, :n] % n
        drawn = np.zeros((count, n))
        np.add.at(drawn, (np.arange(count)[:, None], index), 1.0)
        return drawn * weights
    return rng.multinomial(n, np.full(n, 1 / n), size=count).astype(np.float64) * weights


def block_length(correlation: float, n: int) -> int:
    """Block length for a first-order autoregression (Carlstein 1986): ``(2 r / (1 - r^2))^(2/3) n^(1/3)``."""
    if correlation <= 0:
        return 1
    r = min(correlation, 0.95)
    length = math.ceil(float((2 * r / (1 - r * r)) ** (2 / 3) * n ** (1 / 3)))
    return max(1, min(n // 4, length))
