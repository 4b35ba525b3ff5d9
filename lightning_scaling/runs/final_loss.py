"""What came of a run: the loss that its forecasts are held against."""

from __future__ import annotations

import numpy as np

from lightning_scaling.runs.curve import Points


def final_loss_at(points: Points, horizon: int, reached: int) -> float | None:
    """Mean loss over the last 1 % before a step.

    Args:
        points: The curve.
        horizon: The step.
        reached: Last step of the run.

    Returns:
        The mean; ``None`` if the run has not come to within half a percent of the step.
    """
    last = points.last
    if reached < 0.995 * horizon or not last.size:
        return None
    window = (last > 0.99 * horizon) & (last <= max(1.01 * horizon, horizon + 1))
    if not window.any() and (last <= horizon).any():
        window = last == last[last <= horizon].max()
    return float(np.average(points.loss[window], weights=points.count[window])) if window.any() else None
