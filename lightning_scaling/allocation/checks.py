"""Validation of tables of runs."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


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
    if len({len(array) for array in result.values()}) > 1:
        lengths = ", ".join(f"{name} {len(array)}" for name, array in result.items())
        raise ValueError(f"The columns must have the same length, but got {lengths}.")
    return result
