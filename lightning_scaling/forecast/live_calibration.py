"""Calibration from the forecasts that runs made of themselves while they trained."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime, timezone
from typing import Any

import numpy as np

from lightning_scaling.forecast.calibrated import scored_forecasts
from lightning_scaling.forecast.calibration import Calibration, short
from lightning_scaling.forecast.forecaster import Forecaster
from lightning_scaling.forecast.priors.gaussian_process import RunFeatures, replicates
from lightning_scaling.runs.run import Run

FORECASTS = "forecasts"
"""Key of ``Run.meta`` under which the forecasts lie that a run's own monitor made."""


def updated_with_logs(calibration: Calibration | None, history: Iterable[Run], **known: Any) -> Calibration:
    """A calibration, updated by the forecasts that runs made while they trained and that it does not count yet.

    Args:
        calibration: The calibration so far; ``None`` for none.
        history: Runs of one family, with ``meta["forecasts"]`` where there are any.
        **known: Attributes of the :class:`Calibration`.
    """
    counted = set() if calibration is None else set(calibration.seen)
    runs = [run for run in history if run.meta.get(FORECASTS) is not None]
    kinds = kinds_of([RunFeatures.of(run.plan, run.total_steps, run.params, run.tokens_per_step) for run in runs])
    rows = [
        row for i, run in enumerate(runs) for row in scored_forecasts(run.meta[FORECASTS], run_name(run, i), kinds[i])
    ]
    rows = [row for row in rows if short(row.run) not in counted]
    if calibration is not None and not rows:
        return calibration
    found = Calibration.fit(rows, Forecaster.law, **{"made": now(), **known})
    return found if calibration is None else calibration.joined(found)


def kinds_of(features: Sequence[RunFeatures]) -> list[int]:
    """For each run the index of the first one of its size, length and schedule."""
    alike = replicates(list(features))
    np.fill_diagonal(alike, True)
    return [int(np.argmax(row)) for row in alike]


def run_name(run: Run, index: int) -> str:
    """What identifies a run in a calibration: its id, else its name, else its index."""
    return str(run.meta.get("run_id") or run.name or index)


def now() -> str:
    """The time in UTC, ISO 8601, to the second."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")
