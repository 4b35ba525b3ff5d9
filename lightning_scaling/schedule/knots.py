"""Few knots for many points: a polyline of learning rates, made small."""

from __future__ import annotations

import heapq
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

TOLERANCE = 2e-3
"""Largest error of a compressed schedule, as a fraction of its peak rate."""

_LOOSE = 2e-2

# Knots are added while the error, as a fraction of the peak, is above a bar that rises with their number.
_BARS = ((256, 1e-9), (512, 1e-4))
_BLOCK = 32
_WINDOW = 1024


def thin(x: Array, y: Array, tolerance: float) -> tuple[Array, Array]:
    """Drop points that lie within ``tolerance`` of the chord of their block; quick, and not meant to be minimal."""
    count = (len(x) - 1) // _BLOCK
    if count < 2:
        return x, y
    size = count * _BLOCK
    xs, ys = x[:size].reshape(count, _BLOCK), y[:size].reshape(count, _BLOCK)
    x0, y0 = xs[:, :1], ys[:, :1]
    slope = (y[_BLOCK : size + 1 : _BLOCK, None] - y0) / (x[_BLOCK : size + 1 : _BLOCK, None] - x0)
    straight = (np.abs(y0 + slope * (xs - x0) - ys) <= tolerance).all(axis=1)
    keep = np.ones(len(x), dtype=bool)
    keep[:size].reshape(count, _BLOCK)[straight, 1:] = False
    return x[keep], y[keep]


def compress(x: Array, y: Array, *, max_knots: int = 1000) -> tuple[Array, Array, str]:
    """A polyline of at most ``max_knots`` knots that follows the polyline ``(x, y)``.

    Knots are taken from the points, always where the error is largest, so that a jump between two neighbouring steps
    keeps both its ends. The result is exact where 256 knots suffice for it, within 0.01 % of the peak where 512 do,
    else within 0.2 %. A schedule that swings too often for that is followed within 2 %; one that swings more often
    still, for as long as most of the knots last, and by its mean from there on.

    Args:
        x: Positions, shape ``(n,)``, strictly increasing.
        y: Values, shape ``(n,)``, finite.
        max_knots: Largest number of knots, at least 16.

    Returns:
        Positions and values of the knots, shape ``(k,)``, and a sentence on what the knots do not follow within 0.2 %,
        empty when they follow all.
    """
    peak = float(np.max(np.abs(y)))
    if _swings(y, 2 * _LOOSE * peak) <= max_knots:
        kept, error = _split(x, y, TOLERANCE * peak, max_knots, bars=[(knots, bar * peak) for knots, bar in _BARS])
        if error <= TOLERANCE * peak:
            return x[kept], y[kept], ""
        if error <= _LOOSE * peak:
            return x[kept], y[kept], f"The rate swings so often that the plan is within {error / peak:.1%} of its peak."
    return _follow_then_mean(x, y, TOLERANCE * peak, max_knots)


def _split(
    x: Array, y: Array, tolerance: float, max_knots: int, *, bars: Sequence[tuple[int, float]] = ()
) -> tuple[NDArray[np.int64], float]:
    """Indices of the kept points, and the largest error that remains (Ramer-Douglas-Peucker, worst segment first)."""
    kept = [0, len(x) - 1] if len(x) > 1 else [0]
    heap: list[tuple[float, int, int, int]] = []

    def push(left: int, right: int) -> None:
        if right - left < 2:
            return
        inner = slice(left + 1, right)
        slope = (y[right] - y[left]) / (x[right] - x[left])
        error = np.abs(y[left] + slope * (x[inner] - x[left]) - y[inner])
        worst = int(error.argmax())
        if error[worst] > 0:
            heapq.heappush(heap, (-float(error[worst]), left, right, left + 1 + worst))

    push(0, len(x) - 1)
    while heap:
        error, left, right, at = heap[0]
        bar = next((bar for knots, bar in bars if len(kept) < knots), tolerance)
        if -error <= bar or len(kept) >= max_knots:
            break
        heapq.heappop(heap)
        kept.append(at)
        push(left, at)
        push(at, right)
    return np.sort(np.asarray(kept, dtype=np.int64)), -heap[0][0] if heap else 0.0


def _swings(y: Array, height: float) -> int:
    """Rises and falls of more than ``height``; each of them takes a knot of its own."""
    slope = np.diff(y)
    slope = np.sign(slope[slope != 0]) if len(slope) else slope
    if np.count_nonzero(slope[1:] != slope[:-1]) == 0:
        return 1
    distinct = y[np.append(True, np.diff(y) != 0)]
    turns = np.append(True, np.append(slope[1:] != slope[:-1], True))
    return int(np.count_nonzero(np.abs(np.diff(distinct[turns])) > height))


def _follow_then_mean(x: Array, y: Array, tolerance: float, max_knots: int) -> tuple[Array, Array, str]:
    budget = max_knots * 2 // 3
    kept: list[int] = [0]
    for at in range(0, len(x) - 1, _WINDOW):
        inside, _ = _split(x[at : at + _WINDOW + 1], y[at : at + _WINDOW + 1], tolerance, _WINDOW + 1)
        room = budget - len(kept)
        kept.extend((at + inside[1 : room + 1]).tolist())
        if len(inside) > room:
            break
    last = kept[-1]
    area = np.concatenate([[0.0], np.cumsum(np.diff(x[last:]) * (y[last + 1 :] + y[last:-1]) / 2)])
    edges = np.linspace(x[last], x[-1], max(2, max_knots - len(kept)))
    means = np.diff(np.interp(edges, x[last:], area)) / np.diff(edges)
    centres = (edges[1:] + edges[:-1]) / 2
    use = centres > x[last]
    note = f"The rate swings too often to list: the plan follows it up to step {x[last]:.0f}, then its mean."
    return np.concatenate([x[kept], centres[use]]), np.concatenate([y[kept], means[use]]), note
