"""Shape of a loss increase: abrupt or gradual."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from lightning_scaling._utils.stats import robust_std
from lightning_scaling.advice.config import DEFAULT, ChangeShapeConfig

Array = NDArray[np.float64]


def is_abrupt(losses: Array, *, rising: bool = False, config: ChangeShapeConfig = DEFAULT.change_shape) -> bool | None:
    """Whether the losses went from one level to a worse one at once.

    The last forty bins of the curve, each about 1/256 of the plan, are cut in two where that explains most; the three
    before the cut must still be at the old level and the three after it at the new one, or beyond.

    Args:
        losses: Mean losses of the bins up to now, shape ``(n,)``.
        rising: Whether the metric is to be high.
        config: Tuned numbers.

    Returns:
        The answer; ``None`` where too few losses or too much noise allow none.
    """
    values = np.asarray(losses[-config.window :], dtype=np.float64) * (-1.0 if rising else 1.0)
    count, edge = values.size, config.edge
    if count < config.min_before + config.min_after:
        return None
    sums = np.cumsum(values)
    cuts = np.arange(config.min_before, count - config.min_after + 1)
    before = sums[cuts - 1] / cuts
    after = (sums[-1] - sums[cuts - 1]) / (count - cuts)
    gain = np.where(after > before, (after - before) ** 2 * cuts * (count - cuts) / count, 0.0)
    cut = int(cuts[int(np.argmax(gain))])
    base, level = float(np.median(values[: cut - edge])), float(np.median(values[cut : cut + 4 * edge]))
    jump = level - base
    noise = robust_std(values[: cut - edge], base)
    if jump <= config.min_jump * max(noise, 1e-12) / math.sqrt(edge):
        return None
    early = (float(values[cut - edge : cut].mean()) - base) / jump
    late = (float(values[cut : cut + edge].mean()) - base) / jump
    return early < config.max_share_before and late > config.min_share_after
