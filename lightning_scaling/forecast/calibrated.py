"""How a calibration reaches the forecasts of a run, and how those forecasts reach the next calibration."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any

from lightning_scaling.forecast.calibration import (
    ALONE,
    FAMILY,
    FRACTIONS,
    MODES,
    REVISION,
    Calibration,
    ScoredForecast,
)
from lightning_scaling.forecast.forecaster import Forecaster, PriorSource
from lightning_scaling.forecast.priors.base import RunPrior
from lightning_scaling.forecast.priors.past_run import PastRun
from lightning_scaling.forecast.result import DEGREES_OF_FREEDOM, Forecast, Prediction
from lightning_scaling.runs.run import Run
from lightning_scaling.schedule.plan import Plan

_FORMAT = 1
_NEAR = 0.02


@dataclass(frozen=True)
class CalibratedRunPrior(RunPrior):
    """A run's prior whose forecasts have their scale corrected last of all.

    Args:
        calibration: By what; ``None`` leaves them as they are.
    """

    calibration: Calibration | None = None

    def correct(self, fraction: float, final: float, scale: float) -> tuple[float, float]:
        """The forecast combined with the prior, then its scale corrected by the errors of such forecasts."""
        final, scale = super().correct(fraction, final, scale)
        if self.calibration is None:
            return final, scale
        return self.calibration.apply(mode_of(self), fraction, final, scale)


@dataclass(frozen=True)
class CalibratedSource:
    """A source of calibrated priors.

    Args:
        source: The source.
        calibration: How its forecasts are corrected.
    """

    source: PriorSource
    calibration: Calibration

    def with_batch_size(self, tokens_per_step: float) -> PriorSource:
        """The same, for a run of so many tokens (or samples) per step."""
        other = self.source.with_batch_size(tokens_per_step)
        return self if other is self.source else CalibratedSource(other, self.calibration)

    def for_plan(self, plan: Plan) -> RunPrior:
        """What is believed of a run under this plan."""
        run_prior = self.source.for_plan(plan)
        return CalibratedRunPrior(
            **{field.name: getattr(run_prior, field.name) for field in fields(run_prior)}, calibration=self.calibration
        )


def with_calibration(source: PriorSource, calibration: Calibration | None) -> PriorSource:
    """The source with its forecasts corrected; unchanged without a calibration, or with one of other forecasts."""
    if calibration is None or not calibration or calibration.stale(Forecaster.law):
        return source
    return CalibratedSource(source, calibration)


def mode_of(run_prior: RunPrior) -> str:
    """The mode: whether past runs predict the final loss."""
    return ALONE if run_prior.log_final_loss is None else FAMILY


def applied(run_prior: RunPrior, forecast: Forecast) -> tuple[str, float]:
    """In which mode a forecast was made, and by which factor its scale was multiplied."""
    mode = mode_of(run_prior) if forecast.at_plan_end else ALONE
    if mode == ALONE or forecast.step >= forecast.horizon or forecast.path is None:
        return mode, 1.0
    calibration = run_prior.calibration if isinstance(run_prior, CalibratedRunPrior) else None
    return mode, 1.0 if calibration is None else calibration.factor(mode, forecast.step / forecast.horizon)


def forecast_log_of(rows: Iterable[Mapping[str, Any]], run: Run) -> dict[str, Any] | None:
    """The forecasts that were made of a run while it trained, and its error: short enough for a tag.

    Args:
        rows: The ledger of its monitor.
        run: The run as it was recorded.

    Returns:
        Builtins, less than 1,000 characters of JSON; ``None`` for a run that has not reached the end of its plan, or of
        which nothing was forecast.
    """
    past_run = PastRun(run)
    if not past_run.finished or not past_run.is_usable:
        return None
    finals = log_outcome(past_run)
    usable = [row for row in rows if _usable(row, run.total_steps)]
    found: dict[str, list[Any]] = {"at": [], "mode": [], "error": [], "scale": []}
    for fraction in FRACTIONS:
        row = min(usable, key=lambda row: abs(row["fraction"] - fraction), default=None)
        if row is None or abs(row["fraction"] - fraction) > _NEAR + 1e-9:
            continue
        half = (row["upper"] - row["lower"]) / 2 / row.get("factor", 1.0)
        unit = Prediction(0.0, 1.0, DEGREES_OF_FREEDOM).interval(row["level"])[1]
        found["at"].append(fraction)
        found["mode"].append(row.get("mode", ALONE))
        found["error"].append(_digits(finals - math.log(row["final"])))
        found["scale"].append(_digits(half / unit / row["final"]))
    if not found["at"]:
        return None
    law = usable[-1]["law"]
    return {"version": _FORMAT, "law": law, "revision": REVISION, "steps": run.total_steps, **found}


def log_outcome(past_run: PastRun) -> float:
    """Logarithm of the final loss of a finished run (:mod:`lightning_scaling.runs.final_loss`)."""
    came = past_run.points.final_loss(past_run.total_steps, reached=past_run.reached)
    return past_run.log_final_loss[0] if came is None or came <= 0 else math.log(came)


def _usable(row: Mapping[str, Any], total_steps: int) -> bool:
    """Whether a forecast counts: of the end of the plan, trusted at all, and not of a run that had left its path."""
    known = all(row.get(name) is not None for name in ("fraction", "final", "lower", "upper"))
    if not known or row["horizon"] != total_steps or row["step"] >= total_steps:
        return False
    return bool(row["final"] > 0 and row["upper"] > row["lower"] and row["trust"] != "none") and (
        row["verdict"] != "deviating"
    )


def _digits(value: float) -> float:
    return float(f"{value:.4g}")


def scored_forecasts(ledger: Any, run: str, kind: int) -> list[ScoredForecast]:
    """The forecasts of a forecast log; none if it is no such log, or one of other forecasts than these.

    Args:
        ledger: What :func:`ledger_of` gave.
        run: Which run it is of.
        kind: Number of its kind.
    """
    try:
        if (ledger["version"], ledger["law"], ledger["revision"]) != (_FORMAT, Forecaster.law, REVISION):
            return []
        columns = (ledger["at"], ledger["mode"], ledger["error"], ledger["scale"])
        rows = [
            ScoredForecast(run, kind, str(mode), float(at), float(error), float(scale), True)
            for at, mode, error, scale in zip(*columns, strict=True)
        ]
    except (KeyError, TypeError, ValueError):
        return []
    return [row for row in rows if row.fraction in FRACTIONS and row.mode in MODES and _sound(row)]


def _sound(row: ScoredForecast) -> bool:
    return math.isfinite(row.error) and math.isfinite(row.scale) and row.scale > 0
