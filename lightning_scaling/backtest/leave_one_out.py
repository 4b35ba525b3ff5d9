"""Forecasts of finished runs, made as if each were new, and their errors."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lightning_scaling.forecast.calibrated import log_outcome, scored_forecasts
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
from lightning_scaling.forecast.forecaster import Forecaster, PriorSource
from lightning_scaling.forecast.law_grid import before
from lightning_scaling.forecast.live_calibration import FORECASTS, kinds_of, now, run_name
from lightning_scaling.forecast.priors.base import PUBLISHED, RunPrior
from lightning_scaling.forecast.priors.family import Family, nearest_in_size
from lightning_scaling.forecast.priors.past_run import PastRun
from lightning_scaling.forecast.result import DEGREES_OF_FREEDOM, Prediction
from lightning_scaling.runs.history import RunHistory
from lightning_scaling.runs.run import Run
from lightning_scaling.schedule.plan import Plan

LEVELS = (0.5, 0.9)

_MAX_SCORED_RUNS = 64
_MIN_PAST_RUNS = 2
_NOTABLE_FACTOR = 1.15

Progress = Callable[[int, int], object]


@dataclass(frozen=True)
class _AtFractions:
    """A family asked only about the fractions at which it is judged."""

    family: Family

    def with_batch_size(self, tokens_per_step: float) -> PriorSource:
        return _AtFractions(self.family.with_batch_size(tokens_per_step))

    def for_plan(self, plan: Plan) -> RunPrior:
        return self.family.for_plan(plan, np.array(FRACTIONS))


@dataclass(frozen=True)
class CalibrationReport:
    """How the forecasts of a family have fared, and what sets them right.

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
                size = np.abs([math.expm1(-row.error) for row in here])
                off = np.abs([row.standardised for row in here])
                after = off / [without[row.kind].factor[place] for row in here]
                line: dict[str, Any] = {
                    "mode": mode,
                    "fraction": fraction,
                    "runs": len(here),
                    "kinds": len({row.kind for row in here}),
                    "live": sum(row.live for row in here),
                    "error": float(np.median(size)),
                    "error_p90": float(np.quantile(size, 0.9)),
                }
                for level in LEVELS:
                    half = Prediction(0.0, 1.0, DEGREES_OF_FREEDOM).interval(level)[1]
                    line[f"inside_{level * 100:.0f}"] = float(np.mean(off <= half))
                    line[f"inside_{level * 100:.0f}_after"] = float(np.mean(after <= half))
                lines.append(line | {"factor": self.calibration.factor(mode, fraction)})
        return lines

    def judgement(self) -> str:
        """One sentence on each mode: whether its intervals hold, and where they do not."""
        return " ".join(self._sentence(mode) for mode in MODES)

    def _sentence(self, mode: str) -> str:
        name = "With past runs" if mode == FAMILY else "Alone"
        spread = self.calibration.spreads.get(mode)
        if spread is None or not spread.enough:
            runs = 0 if spread is None else spread.runs
            return f"{name}: {runs} {'run' if runs == 1 else 'runs'} could be forecast, {ENOUGH} are needed."
        seen = [place for place, kinds in enumerate(spread.kinds) if kinds]
        narrow = [place for place in seen if spread.factor[place] > _NOTABLE_FACTOR]
        wide = [place for place in seen if spread.factor[place] < 1 / _NOTABLE_FACTOR]
        if not narrow and not wide:
            return f"{name}: the intervals hold what they promise."
        said = []
        for places, what in ((narrow, "too narrow"), (wide, "wider than need be")):
            if places:
                at = ", ".join(f"{FRACTIONS[place]:.0%}" for place in places)
                factors = ", ".join(f"{spread.factor[place]:.2f}" for place in places)
                said.append(f"{what} at {at} (factor {factors})")
        return f"{name}: the intervals are {' and '.join(said)}."


def calibrate(
    history: RunHistory | Iterable[Run],
    *,
    family: str | None = None,
    version: str = "",
    progress: Progress | None = None,
) -> CalibrationReport:
    """Forecast every finished run from the others, compare with what came, and correct the intervals.

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
    kinds = kinds_of([past_run.features for past_run in past_runs])
    usable = [i for i, past_run in enumerate(past_runs) if past_run.is_usable]
    scored = sorted([i for i in usable if past_runs[i].finished][-_MAX_SCORED_RUNS:], key=lambda i: kinds[i])
    rows: list[ScoredForecast] = []
    families: dict[tuple[Any, ...], Family] = {}
    for done, i in enumerate(scored):
        live = scored_forecasts(runs[i].meta.get(FORECASTS), run_name(runs[i], i), kinds[i])
        known_rows = {(row.mode, row.fraction): row for row in live}
        for mode in MODES:
            if sum(row.mode == mode for row in live) < len(FRACTIONS):
                source = PUBLISHED if mode == ALONE else _prior_source(i, runs, past_runs, usable, kinds, families)
                if source is not None:
                    for row in _forecasts(past_runs[i], source, run_name(runs[i], i), kinds[i], mode):
                        known_rows.setdefault((row.mode, row.fraction), row)
        rows += known_rows.values()
        if progress is not None:
            progress(done + 1, len(scored))
    calibration = Calibration.fit(rows, Forecaster.law, made=now(), version=version, family=family)
    return CalibrationReport(calibration, tuple(rows), len(scored))


def _prior_source(
    i: int,
    runs: Sequence[Run],
    past_runs: Sequence[PastRun],
    usable: Sequence[int],
    kinds: Sequence[int],
    families: dict[tuple[Any, ...], Family],
) -> PriorSource | None:
    """The prior of a run from the others; ``None`` if they are too few."""
    others = [j for j in usable if kinds[j] != kinds[i]]
    if sum(past_runs[j].finished for j in others) < _MIN_PAST_RUNS:
        others = [j for j in usable if j != i]
    if sum(past_runs[j].finished for j in others) < _MIN_PAST_RUNS:
        return None
    run = runs[i]
    used = nearest_in_size([past_runs[j] for j in others], run.params)
    key = (run.params, *sorted(map(id, used)))
    if key not in families:
        families.clear()  # runs of one kind mostly follow one another, and a family holds all its curves
        families[key] = Family(used, run.params, run.tokens_per_step)
    family = families[key]
    return _AtFractions(family if run.tokens_per_step is None else family.with_batch_size(run.tokens_per_step))


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
