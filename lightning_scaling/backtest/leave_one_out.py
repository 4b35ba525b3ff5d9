"""Forecasts of finished runs, made as if each were new, and their errors."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np

from lightning_scaling._utils.formatting import plural
from lightning_scaling._utils.stats import t_quantile
from lightning_scaling.forecast.calibrated import FORECASTS, kinds_of, log_outcome, now, run_name, scored_forecasts
from lightning_scaling.forecast.calibration import (
    ALONE,
    ENOUGH,
    FAMILY,
    FRACTIONS,
    MODES,
    Calibration,
    ErrorSpread,
    ScoredForecast,
)
from lightning_scaling.forecast.config import DEFAULT
from lightning_scaling.forecast.forecaster import Forecaster, PriorSource
from lightning_scaling.forecast.law_grid import before
from lightning_scaling.forecast.priors.base import PUBLISHED
from lightning_scaling.forecast.priors.family import Family, nearest_in_size
from lightning_scaling.forecast.priors.past_run import PastRun
from lightning_scaling.forecast.result import DEGREES_OF_FREEDOM
from lightning_scaling.runs.history import RunHistory
from lightning_scaling.runs.run import Run

LEVELS = (0.5, 0.9)

_MAX_SCORED_RUNS = 64
_MIN_PAST_RUNS = 2
_NOTABLE_FACTOR = 1.15
_CONFIG = replace(DEFAULT, family=replace(DEFAULT.family, fractions=FRACTIONS))  # no more than what is scored

Progress = Callable[[int, int], object]


@dataclass(frozen=True)
class CalibrationReport:
    """The errors of the forecasts of a family, and what corrects them.

    Attributes:
        calibration: The correction; false where there were too few runs to correct anything.
        rows: Each forecast and its error.
        runs: How many finished runs were looked at.
    """

    calibration: Calibration
    rows: tuple[ScoredForecast, ...]
    runs: int

    def table(self) -> list[dict[str, Any]]:
        """For each mode and fraction: errors, and the share of runs within their intervals before and after.

        Returns:
            Dicts of ``mode``, ``fraction``, ``runs``, ``kinds`` (runs of one size, length and schedule count once),
            ``live`` (how many were made while the runs trained), ``error`` and ``error_p90`` (median and 90th
            percentile, relative), ``inside_50``, ``inside_90``, ``inside_50_after``, ``inside_90_after`` (corrected by
            what the runs of other kinds ask for) and ``factor``.
        """
        lines = []
        for mode in MODES:
            rows = [row for row in self.rows if row.mode == mode]
            without = {kind: ErrorSpread.fit(r for r in rows if r.kind != kind) for kind in {row.kind for row in rows}}
            for place, fraction in enumerate(FRACTIONS):
                here = [row for row in rows if row.fraction == fraction]
                if not here:
                    continue
                errors = np.abs([math.expm1(-row.error) for row in here])
                distances = np.abs([row.standardised for row in here])
                corrected = distances / [without[row.kind].factor[place] for row in here]
                line = {"mode": mode, "fraction": fraction, "runs": len(here), "kinds": len({row.kind for row in here})}
                line |= {"live": sum(row.live for row in here), "error": float(np.median(errors))}
                line["error_p90"] = float(np.quantile(errors, 0.9))
                for level in LEVELS:
                    half = t_quantile((1 + level) / 2, DEGREES_OF_FREEDOM)
                    line[f"inside_{level * 100:.0f}"] = float(np.mean(distances <= half))
                    line[f"inside_{level * 100:.0f}_after"] = float(np.mean(corrected <= half))
                lines.append(line | {"factor": self.calibration.factor(mode, fraction)})
        return lines

    def judgement(self) -> str:
        """One sentence on each mode: whether its intervals hold, and where they do not."""
        return " ".join(self._sentence(mode) for mode in MODES)

    def _sentence(self, mode: str) -> str:
        name = "With past runs" if mode == FAMILY else "Alone"
        spread = self.calibration.spreads.get(mode)
        if spread is None or not spread.enough:
            runs = plural(0 if spread is None else spread.runs, "run")
            return f"{name}: {runs} could be forecast, {ENOUGH} are needed."
        places = zip(FRACTIONS, spread.factor, spread.kinds, strict=True)
        judged = [(at, factor) for at, factor, kinds in places if kinds]
        too_narrow = [(at, factor) for at, factor in judged if factor > _NOTABLE_FACTOR]
        too_wide = [(at, factor) for at, factor in judged if factor < 1 / _NOTABLE_FACTOR]
        parts = [
            f"{what} at {', '.join(f'{at:.0%}' for at, _ in off)} (factor {', '.join(f'{x:.2f}' for _, x in off)})"
            for off, what in ((too_narrow, "too narrow"), (too_wide, "wider than need be"))
            if off
        ]
        return f"{name}: the intervals {'are ' + ' and '.join(parts) if parts else 'hold what they promise'}."


def calibrate(
    history: RunHistory | Iterable[Run],
    *,
    family: str | None = None,
    version: str = "",
    progress: Progress | None = None,
) -> CalibrationReport:
    """Forecast every finished run from the others, compare with the outcomes, and correct the intervals.

    A run is forecast without those of its size, length and schedule (unless hardly any others are left) and, as a new
    run would be, by the others nearest in size; of many runs the latest 64 are judged. What a run's own monitor
    forecast while it trained (``meta["forecasts"]``) is taken in place of the replay.

    Args:
        history: Runs of one family.
        family: Its name, for the record.
        version: Version of the package, for the record.
        progress: Called after each run with how many are done and how many there are.

    Returns:
        The report, with the calibration in it.
    """
    runs = list(history)
    past_runs = [PastRun(run) for run in runs]
    kinds = kinds_of(runs)
    usable = [i for i, past_run in enumerate(past_runs) if past_run.is_usable]
    scored = sorted([i for i in usable if past_runs[i].finished][-_MAX_SCORED_RUNS:], key=lambda i: kinds[i])

    @lru_cache(maxsize=1)  # runs of one kind mostly follow one another, and a family holds all its curves
    def family_of(members: tuple[int, ...], params: int | None) -> Family:
        return Family(nearest_in_size([past_runs[j] for j in members], params), params, config=_CONFIG)

    def source_of(i: int) -> PriorSource | None:
        """The prior of a run from the others; ``None`` if they are too few."""
        run, tokens = runs[i], runs[i].tokens_per_step
        for others in ([j for j in usable if kinds[j] != kinds[i]], [j for j in usable if j != i]):
            if sum(past_runs[j].finished for j in others) >= _MIN_PAST_RUNS:
                prior = family_of(tuple(others), run.params)
                return prior if tokens is None else prior.with_batch_size(tokens)
        return None

    rows: list[ScoredForecast] = []
    for done, i in enumerate(scored):
        name = run_name(runs[i], i)
        live = scored_forecasts(runs[i].meta.get(FORECASTS), name, kinds[i])
        known_rows = {(row.mode, row.fraction): row for row in live}
        for mode in MODES:
            if sum(row.mode == mode for row in live) < len(FRACTIONS):
                source = PUBLISHED if mode == ALONE else source_of(i)
                for row in () if source is None else _forecasts(past_runs[i], source, name, kinds[i], mode):
                    known_rows.setdefault((row.mode, row.fraction), row)
        rows += known_rows.values()
        if progress is not None:
            progress(done + 1, len(scored))
    calibration = Calibration.fit(rows, Forecaster.law, made=now(), version=version, family=family)
    return CalibrationReport(calibration, tuple(rows), len(scored))


def _forecasts(past_run: PastRun, source: PriorSource, name: str, kind: int, mode: str) -> list[ScoredForecast]:
    """A run's forecasts at the fractions, those left out that were not to be trusted at all."""
    forecaster = Forecaster(past_run.plan, source)
    rows = []
    for fraction in FRACTIONS:
        now = int(fraction * past_run.total_steps)
        if not 1 <= now <= past_run.reached:
            continue
        forecast = forecaster.fit(before(past_run.points, now), now)
        if forecast.path is None or forecast.trust == "none" or not forecast.final > 0:
            continue
        scale = forecast.final_distribution.scale / forecast.final
        if scale > 0 and math.isfinite(scale):
            error = log_outcome(past_run) - math.log(forecast.final)
            rows.append(ScoredForecast(name, kind, mode, fraction, error, scale))
    return rows
