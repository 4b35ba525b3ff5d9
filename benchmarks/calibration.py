"""Coverage of intervals before and after their calibration on a family's finished runs.

Each family of recorded runs is halved at random, runs of one size, length and schedule together. One half is the past
runs and is calibrated on, each of its runs left out in turn; the other half is forecast from it, and shows how many
outcomes lie inside the 90 % interval before and after the correction. Then the halves change places. Next to it the
same correction not drawn towards 1. The outcome is the mean loss over the last 1 % of the plan, as in the forecast log
of a run; the summary is given also for `final_loss` of the recorded runs, the mean of their last 2 %, by which
benchmarks/forecast.py judges.

    python benchmarks/calibration.py [--family NAME] [--splits 3] [--json] [--quick]
"""

from __future__ import annotations

import argparse
import math
import os
import time
from collections import defaultdict

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pandas as pd
from _cli import Report, main
from _data import Recorded, curves, scored
from scipy import stats

from lightning_scaling import RunHistory
from lightning_scaling.backtest.leave_one_out import calibrate
from lightning_scaling.forecast import PUBLISHED, Family, Forecaster, PastRun
from lightning_scaling.forecast.calibrated import kinds_of, log_outcome
from lightning_scaling.forecast.calibration import FRACTIONS, MODES, Calibration
from lightning_scaling.forecast.forecaster import PriorSource
from lightning_scaling.forecast.law_grid import before
from lightning_scaling.forecast.priors.family import nearest_in_size
from lightning_scaling.forecast.result import DEGREES_OF_FREEDOM

FEWEST = 12
HALF = {level: stats.t.ppf((1 + level) / 2, DEGREES_OF_FREEDOM) for level in (0.5, 0.9)}
HOW = ("before", "after", "not drawn")


def halves(items: list[Recorded], seed: int) -> tuple[list[int], list[int]]:
    """The runs in two parts; replicates stay together."""
    kind = np.array(kinds_of([item.run for item in items]))
    order = np.random.default_rng(seed).permutation(np.unique(kind))
    first = np.isin(kind, order[: order.size // 2])
    return [int(i) for i in np.flatnonzero(first)], [int(i) for i in np.flatnonzero(~first)]


def priors(item: Recorded, past_runs: list[PastRun], families: dict) -> dict[str, PriorSource]:
    """The prior of a new run in each mode."""
    used = nearest_in_size([past_run for past_run in past_runs if past_run.is_usable], item.run.params)
    key = (item.run.params, item.run.tokens_per_step, tuple(map(id, used)))
    if key not in families:
        families[key] = Family(used, item.run.params, item.run.tokens_per_step)
    return {"family": families[key], "alone": PUBLISHED}


def rows_of(item: Recorded, run: PastRun, prior: dict[str, PriorSource], found: Calibration) -> list[dict]:
    """The forecasts of one run of the other half, and what was corrected."""
    rows = []
    outcome = math.exp(log_outcome(run))
    for mode in MODES:
        forecaster = Forecaster(run.plan, prior[mode])
        for place, fraction in enumerate(FRACTIONS):
            now = int(fraction * item.run.total_steps)
            if now < 1:
                continue
            forecast = forecaster.fit(before(run.points, now), now)
            if forecast.path is None or forecast.trust == "none":
                continue
            spread = found.spreads.get(mode)
            rows.append(
                {
                    "family": item.family,
                    "mode": mode,
                    "fraction": fraction,
                    "off": float(forecast.final) - outcome,
                    "recorded": float(forecast.final) - item.final_loss,
                    "scale": forecast.final_distribution.scale,
                    "final": outcome,
                    "factor": found.factor(mode, fraction),
                    "not drawn": spread.found[place] if spread and spread.enough else 1.0,
                }
            )
    return rows


def task(items: list[Recorded], splits: int) -> tuple[list[dict], float]:
    """All rows of one family, and the seconds that the calibration of a half took at most."""
    past_runs = [PastRun(item.run) for item in items]
    rows, longest = [], 0.0
    for seed in range(splits):
        parts = halves(items, seed)
        for calibrated, judged in (parts, parts[::-1]):
            began = time.perf_counter()
            found = calibrate(RunHistory(items[i].run for i in calibrated)).calibration
            longest = max(longest, time.perf_counter() - began)
            families: dict = {}
            for i in judged:
                prior = priors(items[i], [past_runs[j] for j in calibrated], families)
                rows += rows_of(items[i], past_runs[i], prior, found)
    return rows, longest


def measured(table: pd.DataFrame) -> pd.DataFrame:
    """Share inside the 50 % and 90 % intervals, their length with a penalty for misses, and the log density."""
    parts = []
    for how in HOW:
        factor = {"before": 1.0, "after": table.factor, "not drawn": table["not drawn"]}[how]
        scale = table.scale * factor
        z = (table.off / scale).abs()
        # the score of Gneiting and Raftery (2007), eq. 43: length plus 2 / (1 - level) times what it misses by
        length = 2 * HALF[0.9] * scale + 20 * (table.off.abs() - HALF[0.9] * scale).clip(lower=0)
        parts.append(
            table[["family", "mode", "fraction"]].assign(
                how=how,
                error=100 * (table.off / table.final).abs(),
                inside_50=z <= HALF[0.5],
                inside_90=z <= HALF[0.9],
                score=100 * length / table.final,
                density=stats.t.logpdf(z, DEGREES_OF_FREEDOM) - np.log(scale / table.final),
                factor=factor,
            )
        )
    whole = pd.concat(parts)
    grouped = whole.groupby(["mode", "family", "fraction", "how"])
    mean = grouped[["inside_50", "inside_90", "score", "density", "factor"]].mean()
    return mean.assign(error=grouped.error.median(), runs=grouped.size())


def overall(found: pd.DataFrame) -> pd.DataFrame:
    """Means over families and fractions, families counting alike."""
    wide = found.reset_index()
    before_ = wide[wide.how == "before"].set_index(["mode", "family", "fraction"])
    rows = []
    for (mode, how), part in wide.groupby(["mode", "how"]):
        part = part.set_index(["mode", "family", "fraction"])
        start = before_.loc[part.index]
        per = pd.DataFrame(
            {
                "inside_50": part.inside_50,
                "inside_90": part.inside_90,
                "from_90": (part.inside_90 - 0.9).abs(),
                "outside_86_95": (0.86 - part.inside_90).clip(lower=0) + (part.inside_90 - 0.95).clip(lower=0),
                "log_score": np.log(part.score / start.score),
                "density": part.density - start.density,
            }
        )
        mean = per.groupby("family").mean().mean()
        rows.append({"mode": mode, "how": how, **mean, "score": float(np.exp(mean.log_score))})
    table = pd.DataFrame(rows).drop(columns="log_score")
    order = {how: place for place, how in enumerate(HOW)}
    return table.sort_values(["mode", "how"], key=lambda column: column.map(order).fillna(0)).set_index(["mode", "how"])


def report(args: argparse.Namespace) -> Report:
    """Run the task and print its tables."""
    families: dict[str, list[Recorded]] = defaultdict(list)
    for item in scored(curves()):
        families[item.family].append(item)
    rows, seconds = [], {}
    chosen = {k: v for k, v in families.items() if len(v) >= FEWEST and args.family in (None, k)}
    if args.quick:
        chosen = dict([min(chosen.items(), key=lambda pair: len(pair[1]))])
    for name, items in chosen.items():
        more, seconds[name] = task(items, 1 if args.quick else args.splits)
        rows += more
    if not rows:
        raise SystemExit(f"there is no family {args.family!r} of {FEWEST} runs")
    found = measured(pd.DataFrame(rows))
    mean = overall(found)
    recorded = overall(measured(pd.DataFrame(rows).assign(off=lambda table: table.recorded)))
    document = {"families": found, "overall": mean, "overall_final_loss": recorded}
    tables = {name: part.reset_index().to_dict("records") for name, part in document.items()}
    out = Report(**{**tables, "seconds": seconds})
    out.add(
        "share of the runs not calibrated on that lie inside their 90 % interval, before and after the correction;\n"
        "factor: mean correction of the scale; error: median, in % of the final loss"
    )
    wide = found.unstack("how")
    shown = pd.DataFrame(
        {
            "runs": wide["runs"]["before"],
            "error": wide["error"]["before"],
            **{f"90 %, {how}": wide["inside_90"][how] for how in HOW},
            "50 %, before": wide["inside_50"]["before"],
            "50 %, after": wide["inside_50"]["after"],
            "factor": wide["factor"]["after"],
        }
    )
    out.add(table=shown, digits=2)
    out.add(
        "means over families and fractions; from_90: distance of the share from .9; outside_86_95: from that band;\n"
        "density: gain of the mean log density; score: length of the 90 % interval with its misses, of before"
    )
    out.add(table=mean, digits=3)
    out.add(f"the same compared with `final_loss`\n\n{recorded.round(3).to_string()}")
    out.add("seconds to calibrate on one half: " + ", ".join(f"{name} {took:.1f}" for name, took in seconds.items()))
    return out


if __name__ == "__main__":
    main(
        __doc__,
        report,
        family={"help": "only this family"},
        splits={"type": int, "default": 3, "help": "how often each family is halved"},
    )
