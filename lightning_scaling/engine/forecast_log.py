"""The forecast log: every forecast that was made, and its outcome."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from lightning_scaling._utils.serialization import finite_or_none
from lightning_scaling.engine.update import Update
from lightning_scaling.runs.curve import Points

LEVEL = 0.9
"""Level of the logged intervals."""


def forecast_log_row(update: Update, mode: str = "alone", factor: float = 1.0) -> dict[str, Any]:
    """One row of the log as builtins; what is not finite is ``None``, and so are outcome and error for now.

    Args:
        update: The update.
        mode: ``"family"`` where past runs gave a prior of the final loss, else ``"alone"``.
        factor: What a calibration multiplied the scale of the forecast by.
    """
    forecast, deviation = update.forecast, update.deviation
    lower, upper = forecast.interval(LEVEL)
    return {
        "step": update.step,
        "fraction": update.fraction,
        "horizon": forecast.horizon,
        "final": finite_or_none(forecast.final),
        "lower": finite_or_none(lower),
        "upper": finite_or_none(upper),
        "level": LEVEL,
        "trust": str(forecast.trust),
        "why": forecast.why,
        "law": forecast.law,
        "mode": mode,
        "factor": factor,
        "loss": finite_or_none(update.loss),
        "verdict": deviation.verdict,
        "e_value": deviation.e_value,
        "action": str(update.advice.action),
        "outcome": None,
        "error": None,
    }


def settle(rows: Iterable[dict[str, Any]], points: Points, reached: int) -> None:
    """Write into each row the loss at its horizon, where the run got that far, and the relative error."""
    for row in rows:
        outcome = points.final_loss(row["horizon"], reached=reached)
        final = row["final"]
        row["outcome"] = outcome
        row["error"] = None if outcome is None or final is None or outcome == 0 else (final - outcome) / outcome
