"""Robust and small-sample statistics."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

# Standard deviation of a normal distribution over its median absolute deviation, 1 / Phi^-1(3/4), to four digits.
MAD_TO_STD = 1.4826


def robust_std(values: NDArray[np.float64], center: float | None = None) -> float:
    """Standard deviation of values from their median absolute deviation.

    Args:
        values: Shape ``(n,)``, n at least 1.
        center: What deviations are taken from; left out, the median.
    """
    middle = np.median(values) if center is None else center
    return float(MAD_TO_STD * np.median(np.abs(values - middle)))


@lru_cache(maxsize=256)
def t_quantile(probability: float, dof: float) -> float:
    """Quantile of Student's t distribution with ``dof`` degrees of freedom."""
    return float(stdtrit(dof, probability))
