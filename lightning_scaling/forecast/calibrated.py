"""Calibrated priors, and the scored forecasts of runs that the next calibration is made from."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from typing import Any

from lightning_scaling._utils.stats import t_quantile
from lightning_scaling.forecast.calibration import ALONE, FRACTIONS, MODES, REVISION, Calibration, ScoredForecast, short
from lightning_scaling.forecast.config import DEFAULT, ForecastConfig
from lightning_scaling.forecast.forecaster import Forecaster, PriorSource
from lightning_scaling.forecast.priors.base import RunPrior
from lightning_scaling.forecast.priors.past_run import PastRun
from lightning_scaling.forecast.result import DEGREES_OF_FREEDOM, Forecast
from lightning_scaling.runs.replicates import replicate_matrix
from lightning_scaling.runs.run import Run
from lightning_scaling.schedule.plan import Plan

FORECASTS = "forecasts"
"""Key of ``Run.meta`` under which the forecasts lie that a run's own monitor made."""

_FORMAT = 1


@dataclass(frozen=True)
class CalibratedSource:
    """A source of priors whose forecasts have their scale corrected last of all.

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
        """The calibrated prior of a run under this plan."""
        return replace(self.source.for_plan(plan), calibration=self.calibration)


def with_calibration(source: PriorSource, calibration: Calibration | None) -> PriorSource:
    """The source with its forecasts corrected; unchanged without a calibration, or with one of other forecasts."""
    if calibration is None or not calibration or calibration.stale(Forecaster.law):
        return source
    return CalibratedSource(source, calibration)


def applied(run_prior: RunPrior, forecast: Forecast) -> tuple[str, float]:
    """In which mode a forecast was made, and by which factor its scale was multiplied."""
    mode = run_prior.mode if forecast.at_plan_end else ALONE
    calibration = run_prior.calibration
    if mode == ALONE or calibration is None or forecast.step >= forecast.horizon or forecast.path is None:
        return mode, 1.0
    return mode, calibration.factor(mode, forecast.step / forecast.horizon)


def forecast_log_of(
    rows: Iterable[Mapping[str, Any]], run: Run, config: ForecastConfig = DEFAULT
) -> dict[str, Any] | None:
    """The forecasts that were made of a run while it trained, and its error: short enough for a tag.

    Args:
        rows: The forecast log of its monitor.
        run: The run as it was recorded.
        config: The tuned numbers.

    Returns:
        Builtins, less than 1,000 characters of JSON; ``None`` for a run that has not reached the end of its plan, or of
        which nothing was forecast.
    """
    past_run = PastRun(run, config)
    usable = [row for row in rows if _usable(row, run.total_steps)]
    if not past_run.finished or not past_run.is_usable or not usable:
        return None
    found = []
    for fraction in FRACTIONS:
        row = min(usable, key=lambda row: abs(row["fraction"] - fraction))
        if abs(row["fraction"] - fraction) <= config.calibration.fraction_tolerance + 1e-9:
            half = (row["upper"] - row["lower"]) / 2 / row.get("factor", 1.0)
            scale = half / t_quantile((1 + row["level"]) / 2, DEGREES_OF_FREEDOM) / row["final"]
            error = log_outcome(past_run) - math.log(row["final"])
            found.append((fraction, row.get("mode", ALONE), float(f"{error:.4g}"), float(f"{scale:.4g}")))
    if not found:
        return None
    columns = dict(zip(("at", "mode", "error", "scale"), map(list, zip(*found, strict=True)), strict=True))
    return {"version": _FORMAT, "law": usable[-1]["law"], "revision": REVISION, "steps": run.total_steps, **columns}


def log_outcome(past_run: PastRun) -> float:
    """Logarithm of the final loss of a finished run (:mod:`lightning_scaling.runs.final_loss`)."""
    came = past_run.points.final_loss(past_run.total_steps, reached=past_run.reached)
    return past_run.log_final_loss[0] if came is None or came <= 0 else math.log(came)


def _usable(row: Mapping[str, Any], total_steps: int) -> bool:
    """Whether a forecast counts: of the end of the plan, trusted at all, and not of a run that had left its path."""
    if any(row.get(name) is None for name in ("fraction", "final", "lower", "upper")):
        return False
    in_time = row["horizon"] == total_steps and row["step"] < total_steps
    trusted = row["trust"] != "none" and row["verdict"] != "deviating"
    return bool(in_time and trusted and row["final"] > 0 and row["upper"] > row["lower"])


def scored_forecasts(log: Any, run: str, kind: int) -> list[ScoredForecast]:
    """The forecasts of a forecast log; none if it is no such log, or one of other forecasts than these.

    Args:
        log: Result of :func:`forecast_log_of`.
        run: Which run it is of.
        kind: Number of its kind.
    """
    try:
        if (log["version"], log["law"], log["revision"]) != (_FORMAT, Forecaster.law, REVISION):
            return []
        columns = zip(log["at"], log["mode"], log["error"], log["scale"], strict=True)
        rows = [
            ScoredForecast(run, kind, str(mode), float(at), float(error), float(scale), live=True)
            for at, mode, error, scale in columns
        ]
    except (KeyError, TypeError, ValueError):
        return []
    return [
        row
        for row in rows
        if row.fraction in FRACTIONS and row.mode in MODES and math.isfinite(row.error) and 0 < row.scale < math.inf
    ]


def updated_with_logs(calibration: Calibration | None, history: Iterable[Run], **known: Any) -> Calibration:
    """A calibration, updated by the forecasts that runs made while they trained and that it does not count yet.

    Args:
        calibration: The calibration so far; ``None`` for none.
        history: Runs of one family, with ``meta["forecasts"]`` where there are any.
        **known: Attributes of the :class:`Calibration`.
    """
    counted = set() if calibration is None else set(calibration.seen)
    runs = [run for run in history if run.meta.get(FORECASTS) is not None]
    logs = [
        scored_forecasts(run.meta[FORECASTS], run_name(run, i), kind)
        for i, (run, kind) in enumerate(zip(runs, kinds_of(runs), strict=True))
    ]
    rows = [row for log in logs for row in log if short(row.run) not in counted]
    if calibration is not None and not rows:
        return calibration
    found = Calibration.fit(rows, Forecaster.law, **{"made": now(), **known})
    return found if calibration is None else calibration.joined(found)


def kinds_of(runs: Sequence[Run]) -> list[int]:
    """For each run the index of its first replicate, perhaps itself."""
    alike = replicate_matrix([run.plan for run in runs], [run.params for run in runs])
    return [int(row.argmax()) for row in alike]


def run_name(run: Run, index: int) -> str:
    """What identifies a run in a calibration: its id, else its name, else its index."""
    return str(run.meta.get("run_id") or run.name or index)


def now() -> str:
    """The time in UTC, ISO 8601, to the second."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")
