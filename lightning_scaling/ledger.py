"""The ledger: every forecast that was made, and what came of it."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np

from lightning_scaling.curve import Points
from lightning_scaling.deviation import Deviation
from lightning_scaling.forecast import Forecast

LEVEL = 0.9


def ledger_row(
    step: int, fraction: float | None, loss: float, forecast: Forecast, deviation: Deviation, action: str
) -> dict[str, Any]:
    """One line of the ledger as builtins; what is not finite is ``None``, and so are outcome and error for now."""
    lower, upper = forecast.interval(LEVEL)
    return {
        "step": step,
        "fraction": fraction,
        "horizon": forecast.horizon,
        "final": _finite(forecast.final),
        "lower": _finite(lower),
        "upper": _finite(upper),
        "level": LEVEL,
        "trust": forecast.trust,
        "why": forecast.why,
        "law": forecast.law,
        "loss": _finite(loss),
        "verdict": deviation.verdict,
        "e_value": deviation.e_value,
        "action": action,
        "outcome": None,
        "error": None,
    }


def settle(rows: Iterable[dict[str, Any]], points: Points, reached: int) -> None:
    """Write into each row the loss that came at its horizon, where the run got that far, and the relative error."""
    for row in rows:
        outcome = outcome_at(points, row["horizon"], reached)
        final = row["final"]
        row["outcome"] = outcome
        row["error"] = None if outcome is None or final is None or outcome == 0 else (final - outcome) / outcome


def outcome_at(points: Points, horizon: int, reached: int) -> float | None:
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


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
