"""Did the losses leave their path from one step to the next, or bit by bit?"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

_WINDOW = 40
_BEFORE = 16
_AFTER = 4
_NEAR = 3
_SIGMAS = 4.0
_QUIET, _WHOLE = 0.25, 0.6


def is_abrupt(losses: Array, *, rising: bool = False) -> bool | None:
    """Whether the losses went from one level to a worse one at once.

    The last forty bins of the curve, each about 1/256 of the plan, are cut in two where that explains most; the three
    before the cut must still be at the old level and the three after it at the new one, or beyond.

    Args:
        losses: Mean losses of the bins up to now, shape ``(n,)``.
        rising: Whether the metric is to be high.

    Returns:
        The answer; ``None`` where too few losses or too much noise allow none.
    """
    values = np.asarray(losses[-_WINDOW:], dtype=np.float64) * (-1.0 if rising else 1.0)
    count = values.size
    if count < _BEFORE + _AFTER:
        return None
    sums = np.cumsum(values)
    cuts = np.arange(_BEFORE, count - _AFTER + 1)
    before = sums[cuts - 1] / cuts
    after = (sums[-1] - sums[cuts - 1]) / (count - cuts)
    gain = np.where(after > before, (after - before) ** 2 * cuts * (count - cuts) / count, 0.0)
    cut = int(cuts[int(np.argmax(gain))])
    base, level = float(np.median(values[: cut - _NEAR])), float(np.median(values[cut : cut + 4 * _NEAR]))
    jump = level - base
    noise = 1.4826 * float(np.median(np.abs(values[: cut - _NEAR] - base)))
    if jump <= _SIGMAS * max(noise, 1e-12) / math.sqrt(_NEAR):
        return None
    early = (float(values[cut - _NEAR : cut].mean()) - base) / jump
    late = (float(values[cut : cut + _NEAR].mean()) - base) / jump
    return early < _QUIET and late > _WHOLE
