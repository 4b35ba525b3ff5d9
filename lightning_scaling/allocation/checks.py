"""Arguments checked, and numbers for people."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

_PREFIXES = ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k"))


def positive(name: str, value: Any, *, zero: bool = False) -> float:
    """A finite positive number as a float.

    Raises:
        ValueError: It is not one.
    """
    wanted = "a finite number that is not negative" if zero else "a positive finite number"
    try:
        single = not isinstance(value, bool | str | bytes) and not getattr(value, "ndim", 0)
        number = float(value) if single else math.nan
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number) or number < 0 or (number == 0 and not zero):
        raise ValueError(f"`{name}` must be {wanted}, counted in units of one, but got {value!r}.")
    return number


def checked_level(level: Any) -> float:
    """A probability strictly between 0 and 1.

    Raises:
        ValueError: It is not one.
    """
    if isinstance(level, bool) or not isinstance(level, int | float) or not 0 < level < 1:
        raise ValueError(f"`level` must lie strictly between 0 and 1, but got {level!r}.")
    return float(level)


def columns(**given: Any) -> dict[str, Array]:
    """Columns of one length as floats.

    Raises:
        ValueError: One is not one-dimensional, not of numbers, or their lengths differ.
    """
    result: dict[str, Array] = {}
    for name, values in given.items():
        try:
            plain = values.detach().cpu().double().numpy() if hasattr(values, "detach") else values
            array = np.array(plain, dtype=np.float64)
        except (TypeError, ValueError):
            raise ValueError(f"`{name}` must hold numbers, but got {type(values).__name__}.") from None
        if array.ndim != 1:
            raise ValueError(f"`{name}` must have one dimension, one value per run, but has shape {array.shape}.")
        result[name] = array
    lengths = {name: len(array) for name, array in result.items()}
    if len(set(lengths.values())) > 1:
        raise ValueError(f"The columns must have the same length, but got {_listed(lengths.items())}.")
    return result


def _listed(items: Iterable[tuple[str, int]]) -> str:
    return ", ".join(f"{name} {length}" for name, length in items)


def quantity(value: float) -> str:
    """A count for people: ``2.83e9`` becomes ``2.83B``."""
    if not math.isfinite(value):
        return str(value)
    for size, prefix in _PREFIXES:
        if size <= abs(value) < 1e3 * size:
            return f"{value / size:.3g}{prefix}" if abs(value) < 999.5 * size else f"{value / size:.0f}{prefix}"
    return f"{value:.3g}"
