"""Files that a run leaves behind: curve, forecasts, law and figures."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Callable, Mapping
from contextlib import suppress
from time import perf_counter
from typing import Any

import numpy as np

from lightning_scaling._utils.serialization import to_builtins
from lightning_scaling.engine.monitor import Monitor
from lightning_scaling.tracking import schema

_COLUMNS = ("loss", "lr", "tokens", "flops", "seconds", "count")
_MIN_POINTS_TO_FIT = 20  # with fewer, a law of five parameters fits anything


def write_artifacts(
    write: Callable[[str, str | bytes], None], engine: Monitor, fields: Mapping[str, Any], until: float
) -> None:
    """Write the files of a run that has ended; those that take time only before a moment.

    Args:
        write: Called with path and content of each.
        engine: The engine of the run.
        fields: What is known of the run besides its curve.
        until: Value of ``time.perf_counter`` after which nothing more is fitted or drawn.
    """
    forecasts = engine.forecast_log
    write(schema.ARTIFACT_CURVE, curve_csv(engine))
    write(schema.ARTIFACT_FORECASTS, json.dumps(to_builtins(forecasts), indent=1))
    write(schema.ARTIFACT_LAW, json.dumps(to_builtins(engine.forecast.to_dict()), indent=1))
    if not forecasts or not len(engine.curve):
        return
    from lightning_scaling.laws.io import dumps
    from lightning_scaling.laws.run_fit import fit_run
    from lightning_scaling.report import forecast_figure, loss_compute_figure

    run, points = engine.run(**fields), engine.curve.points
    counted = np.isfinite(points.flops)
    flops = np.interp(run.step, points.last[counted], points.flops[counted]) if counted.any() else None
    if perf_counter() < until and len(run) >= _MIN_POINTS_TO_FIT and engine.metric.plain:
        with suppress(ValueError):  # most of it a warm-up: there is no law to leave behind
            write(schema.ARTIFACT_FIT, dumps(fit_run(run)))
    if perf_counter() < until:
        write(schema.ARTIFACT_FORECAST_FIGURE, forecast_figure(run, forecasts))
    if perf_counter() < until:
        write(schema.ARTIFACT_COMPUTE_FIGURE, loss_compute_figure(run, forecasts, flops=flops))


def curve_csv(engine: Monitor) -> str:
    """The curve in bins as CSV: last step, mean loss, mean rate and the counters at that step."""
    points = engine.curve.points
    text = io.StringIO()
    writer = csv.writer(text)
    columns = {"step": points.last} | {name: getattr(points, name) for name in _COLUMNS}
    writer.writerow(columns)
    writer.writerows([_cell(float(value)) for value in row] for row in zip(*columns.values(), strict=True))
    return text.getvalue()


def _cell(value: float) -> str:
    return "" if math.isnan(value) else str(int(value)) if value.is_integer() else repr(value)
