"""Which runs of a ladder a law can be asked to fit."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

_WIDTH = 0.02
_REACH = 2.0
_SAME = 1.02


def frontier_weights(params: Any, tokens: Any, loss: Any, *, width: float = _WIDTH, reach: float = _REACH) -> Array:
    """Weights for runs near the compute-optimal frontier, and near the greatest compute.

    ``1 / (1 + (excess/width)^2) / (1 + (ln(C_max/C)/reach)^2)``. Runs far above the frontier, too large for their data
    or stopped in their warm-up, follow no power law; being half of many ladders they are no outliers that a robust
    objective would ignore, and decide the exponents if all runs count alike.

    Args:
        params: Model sizes, shape ``(n,)``.
        tokens: Training tokens, shape ``(n,)``.
        loss: Losses, positive, shape ``(n,)``.
        width: Excess, in log loss over the best run of no more compute, at which a weight is halved.
        reach: Distance below the greatest compute, in natural logarithms, at which a weight is halved.

    Returns:
        The weights, between 0 and 1, shape ``(n,)``.
    """
    compute = np.asarray(params, dtype=np.float64) * np.asarray(tokens, dtype=np.float64)
    log_loss = np.log(np.asarray(loss, dtype=np.float64))
    order = np.argsort(compute, kind="stable")
    best = np.minimum.accumulate(log_loss[order])
    last = np.searchsorted(compute[order], compute * _SAME, side="right") - 1
    excess = log_loss - best[last]
    below = np.log(compute.max() / compute)
    return np.asarray(1.0 / (1.0 + (excess / width) ** 2) / (1.0 + (below / reach) ** 2))
