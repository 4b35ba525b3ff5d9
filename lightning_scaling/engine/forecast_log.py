"""The ledger: every forecast that was made, and what came of it."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from lightning_scaling.detection import Deviation
from lightning_scaling.forecast import Forecast
from lightning_scaling.runs.curve import Points

LEVEL = 0.9


def forecast_log_row(
    step: int,
    fraction: float | None,
    loss: float,
    forecast: Forecast,
    deviation: Deviation,
    action: str,
    mode: str = "alone",
    factor: float = 1.0,
) -> dict[str, Any]:
    """One line of the ledger as builtins; what is not finite is ``None``, and so are outcome and error for now.

    ``mode`` is ``"family"`` where relatives taught where the run will land; ``factor`` is what a calibration multiplied
    the scale of the forecast by.
    """
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
        "mode": mode,
        "factor": factor,
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
        outcome = points.final_loss(row["horizon"], reached=reached)
        final = row["final"]
        row["outcome"] = outcome
        row["error"] = None if outcome is None or final is None or outcome == 0 else (final - outcome) / outcome


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
