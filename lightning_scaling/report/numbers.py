"""Numbers for people: counts with a unit, and round values along an axis."""

from __future__ import annotations

import math

import numpy as np


def count(value: float, power: str = "e{}") -> str:
    """A count for people: ``8.4e8`` becomes ``840M``; beyond that a power of ten, written as `power` says."""
    size = abs(value)
    for limit, unit in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if limit <= size < 1e15:
            return f"{value / limit:.4g}{unit}"
    if 1e-4 <= size < 1e15 or size == 0:
        return f"{value:.4g}"
    exponent = math.floor(math.log10(size) + 1e-12)
    front = f"{value / 10.0**exponent:.3g}"
    return f"{front}{power.format(exponent)}"


def round_values(low: float, high: float, *, log: bool, most: int) -> list[float]:
    """Round values from `low` to `high`, at most `most`, spread as the scale asks.

    Args:
        low: Least value.
        high: Greatest value.
        log: Whether the scale is logarithmic, so that `low` is positive.
        most: How many at most.
    """
    if log and high / low >= 8:
        powers = np.arange(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        for mantissas in ((1, 2, 3, 5), (1, 2, 5), (1, 3), (1,)):
            values = np.sort(np.outer(10.0**powers, mantissas).ravel())
            values = values[(values >= low * (1 - 1e-9)) & (values <= high * (1 + 1e-9))]
            if len(values) <= most:
                return [float(value) for value in values]
        return [float(value) for value in values[:: math.ceil(len(values) / most)]]
    step = 10.0 ** math.floor(math.log10((high - low) / most))
    step = next(step * factor for factor in (1, 2, 2.5, 5, 10, 20) if (high - low) / (step * factor) <= most - 1)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [float(round(i * step, 12)) if abs(i * step) < 1e6 else float(i * step) for i in range(first, last + 1)]
