"""Minima and roots of many smooth functions of one variable at once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Function = Callable[[Array], Array]

STEP = 1e-4
_SPACING = 0.2
_HALVINGS = 34
_FLAT = 1e-11


@dataclass(frozen=True)
class Found:
    """Where each function has its minimum or root.

    Attributes:
        x: Place, shape ``(b,)``; the end of the range where there is none inside.
        edge: 0 inside, -1 where the search ran into the lower end of the range, 1 into the upper; shape ``(b,)``.
    """

    x: Array
    edge: NDArray[np.int64]


def _grid(lower: float, upper: float) -> Array:
    return np.linspace(lower, upper, max(int(np.ceil((upper - lower) / _SPACING)), 4) + 1)


def slope(function: Function, x: Array, step: float = STEP) -> Array:
    """Central difference; with `step` at 1e-4 the error of a zero of it is near 1e-9 in x for losses of order one."""
    with np.errstate(invalid="ignore"):
        return (function(x + step) - function(x - step)) / (2 * step)


def minimum(function: Function, lower: float, upper: float) -> Found:
    """The least value of each of ``b`` functions within a range.

    A grid brackets the least value, then the zero of the slope is bisected: values near a minimum are flat, slopes are
    not, so this keeps about nine digits where comparing values would keep seven.

    Args:
        function: Values at places of shape ``(b, n)`` or ``(1, n)``, result ``(b, n)``; not finite where not allowed.
        lower: Lower end of the range.
        upper: Upper end.
    """
    grid = _grid(lower, upper)
    values = function(grid[None, :])
    values = np.where(np.isfinite(values), values, np.inf)
    allowed = np.isfinite(values)
    rows = np.arange(values.shape[0])
    best = np.argmin(values, axis=1)
    least = values[rows, best]
    level = least + _FLAT * np.maximum(np.abs(least), 1e-300)
    columns = np.arange(grid.size)
    higher = allowed & (values > level[:, None])
    left = np.any(higher & (columns < best[:, None]), axis=1)
    right = np.any(higher & (columns > best[:, None]), axis=1) | ~allowed[:, -1]
    edge = np.where(~left, -1, np.where(~right, 1, 0))
    edge = np.where(np.any(allowed, axis=1), edge, 1)
    low, high = grid[np.maximum(best - 1, 0)], grid[np.minimum(best + 1, grid.size - 1)]
    return _refined(lambda at: slope(function, at), low, high, edge, grid)


def root(function: Function, lower: float, upper: float) -> Found:
    """Where each of ``b`` functions goes from below zero to above zero.

    Args:
        function: Values at places of shape ``(b, n)`` or ``(1, n)``, result ``(b, n)``.
        lower: Lower end of the range.
        upper: Upper end.

    Returns:
        The last such place of each; a function that stays positive is at the lower edge, one that stays negative or
        zero at the upper.
    """
    grid = _grid(lower, upper)
    values = function(grid[None, :])
    scale = _FLAT * np.nanmax(np.where(np.isfinite(values), np.abs(values), 0.0), axis=1, initial=1e-300)[:, None]
    below, above = values < -scale, values > scale
    columns = np.arange(grid.size)
    last = np.max(np.where(below, columns, -1), axis=1)
    beyond = above & (columns > last[:, None])
    first = np.min(np.where(beyond, columns, grid.size), axis=1)
    edge = np.where(last < 0, -1, np.where(first >= grid.size, 1, 0))
    low, high = (grid[np.clip(end, 0, grid.size - 1)] for end in (last, first))
    return _refined(function, low, high, edge, grid)


def _refined(function: Function, low: Array, high: Array, edge: NDArray[np.int64], grid: Array) -> Found:
    """The roots between brackets; the ends of the grid where there is none inside."""
    x = np.where(edge < 0, grid[0], grid[-1])
    return Found(np.where(edge == 0, _bisect(function, low, high), x) if np.any(edge == 0) else x, edge)


def halve(reached: Callable[[float], bool], low: float, high: float, halvings: int = 100) -> tuple[float, float]:
    """The bracket of the place from which on something holds, after bisections."""
    for _ in range(halvings):
        middle = 0.5 * (low + high)
        low, high = (low, middle) if reached(middle) else (middle, high)
    return low, high


def _bisect(function: Function, low: Array, high: Array) -> Array:
    for _ in range(_HALVINGS):
        middle = 0.5 * (low + high)
        below = function(middle[:, None])[:, 0] < 0
        low, high = np.where(below, middle, low), np.where(below, high, middle)
    return 0.5 * (low + high)
