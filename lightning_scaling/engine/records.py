"""Records of a followed run: its updates, the log of its forecasts with their outcomes, and the run itself."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from lightning_scaling._utils.serialization import finite_or_none
from lightning_scaling.advice import Advice
from lightning_scaling.detection import Deviation
from lightning_scaling.engine.metric import FollowedMetric
from lightning_scaling.forecast import Forecast
from lightning_scaling.runs.curve import Curve, Points
from lightning_scaling.runs.run import Run
from lightning_scaling.schedule.plan import Plan

LEVEL = 0.9
"""Level of the logged intervals."""


@dataclass(frozen=True)
class Update:
    """Forecast, verdict and advice at one moment of a run.

    Attributes:
        step: Optimizer steps done.
        fraction: ``step`` over the planned total; ``None`` without a planned end.
        loss: Mean of the losses since the update before, outliers clipped; ``nan`` if none of them was finite.
        forecast: The forecast of the loss.
        deviation: The verdict against the forecasts made before.
        advice: What to do.
    """

    step: int
    fraction: float | None
    loss: float
    forecast: Forecast
    deviation: Deviation
    advice: Advice

    def __repr__(self) -> str:
        return (
            f"Update(step={self.step:,}, loss={self.loss:.4g}, {self.forecast!r}, {self.deviation.verdict}, "
            f"advice={self.advice.action})"
        )

    def to_dict(self) -> dict[str, Any]:
        """The update as builtins, under the names of its attributes; forecast, deviation and advice as theirs."""
        parts = {name: getattr(self, name).to_dict() for name in ("forecast", "deviation", "advice")}
        return {"step": self.step, "fraction": self.fraction, "loss": self.loss, **parts}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Update:
        """The update that :meth:`to_dict` described; its forecast is that of the final loss only."""
        forecast, deviation = Forecast.from_dict(data["forecast"]), Deviation.from_dict(data["deviation"])
        made = {"forecast": forecast, "deviation": deviation, "advice": Advice.from_dict(data["advice"])}
        return cls(**{**data, **made})


def forecast_log_row(update: Update, mode: str, factor: float) -> dict[str, Any]:
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


def record_of(curve: Curve, plan: Plan, metric: FollowedMetric, known: Mapping[str, Any]) -> Run:
    """The run recorded so far, one point per bin of the curve.

    Args:
        curve: The curve.
        plan: The plan in force.
        metric: The metric followed; its settings go into the ``meta`` of the run.
        known: Further arguments of :class:`Run`.

    Raises:
        ValueError: If the curve holds no finite loss.
    """
    points = curve.points
    steps = np.maximum(np.rint(points.step), 1)
    keep = np.diff(steps, append=np.inf) > 0
    lr = points.lr[keep] if keep.any() and np.isfinite(points.lr[keep]).all() else None
    rated = plan.known or lr is not None  # the rate of a plan that nobody knows is a placeholder
    fields: dict[str, Any] = {
        "total_steps": plan.total_steps or max(curve.last_step, 1),
        "planned_lr": (plan.steps, plan.lr) if rated else None,
        **known,
    }
    if metric.settings["monitor"] is not None or not metric.plain:
        settings = {"metric" if key == "monitor" else key: value for key, value in metric.settings.items()}
        fields["meta"] = {**(fields.get("meta") or {}), **settings}
    return Run(steps[keep], points.loss[keep], lr, **fields)
