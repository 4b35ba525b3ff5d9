"""A user's function of the epoch, asked at few places and filled in between."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

_ALL = 20_000
_GRID = 4096
_MOST_CALLS = 120_000
_CLOCK = 256


class Probe:
    """A function of whole numbers, tabulated where it bends and linear in between; NaN where it raised.

    Up to 20 000 numbers are all asked. Beyond that the function is asked on an uneven grid of 4096 places, then
    wherever a point between two known ones is off the line through them by more than ``tolerance``, down to neighbours:
    jumps come out sharp. A feature that begins and ends between two places of the grid can be missed.
    """

    def __init__(self, x: Array, y: Array) -> None:
        self.x, self.y = x, y

    @classmethod
    def over(
        cls, function: Callable[[int], Any], first: int, last: int, deadline: float, *, tolerance: float = 1e-6
    ) -> Probe | None:
        """Probe ``function`` on ``first .. last``; ``None`` if that takes too many calls or too long."""
        last = max(first, last)
        known: dict[int, float] = {}

        def ask(at: int) -> float:
            if at not in known:
                try:
                    known[at] = float(function(at))
                except Exception:
                    known[at] = np.nan
            return known[at]

        if last - first < _ALL:
            for at in range(first, last + 1):
                ask(at)
                if at % _CLOCK == 0 and perf_counter() > deadline:
                    return None
        elif not _refine(ask, known, _grid(first, last), tolerance, deadline):
            return None
        x = np.array(sorted(known), dtype=np.float64)
        return cls(x, np.array([known[int(at)] for at in x]))

    def __call__(self, at: Array) -> Array:
        """Values at whole numbers, any shape."""
        return np.interp(at, self.x, self.y)


def _grid(first: int, last: int) -> list[int]:
    """Places close together at the beginning, and spread unevenly over the rest so that no period can hide in step."""
    even = np.linspace(first, last, _GRID)
    shift = (np.arange(_GRID) * 0.6180339887498949) % 1.0 - 0.5
    uneven = even + 0.8 * shift * (even[1] - even[0])
    early = first + np.geomspace(1, last - first, _GRID // 8)
    places = np.concatenate([[first, last], np.clip(np.concatenate([uneven, early]), first, last)])
    return [int(at) for at in np.unique(np.rint(places))]


def _refine(
    ask: Callable[[int], float], known: dict[int, float], places: list[int], tolerance: float, deadline: float
) -> bool:
    for i, at in enumerate(places):
        ask(at)
        if i % _CLOCK == 0 and perf_counter() > deadline:
            return False
    allowed = tolerance * max((abs(y) for y in known.values() if np.isfinite(y)), default=1.0)
    work = list(pairwise(places))
    while work:
        left, right = work.pop()
        if right - left < 2 or (np.isnan(known[left]) and np.isnan(known[right])):
            continue
        middle = (left + right) // 2
        line = known[left] + (known[right] - known[left]) * (middle - left) / (right - left)
        if abs(ask(middle) - line) <= allowed:
            continue
        if len(known) > _MOST_CALLS or (len(known) % _CLOCK == 0 and perf_counter() > deadline):
            return False
        work += [(left, middle), (middle, right)]
    return True
