"""Error and coverage of the forecast before the first step, from the past runs of a family alone.

``left out``: each run from the past runs that do not share its size, schedule and length. ``beyond``: the runs of more
than twice the compute of the cheaper 60 % of the family, from those. Baseline: a Chinchilla surface fitted to the final
losses by plain least squares.

    python benchmarks/first_step.py [--json] [--quick]
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pandas as pd
from _cli import Report, main
from _data import Recorded, curves

from lightning_scaling import laws
from lightning_scaling.forecast import Family, Forecaster, PastRun
from lightning_scaling.forecast.config import DEFAULT
from lightning_scaling.forecast.priors.family import nearest_in_size

CHEAPER, BEYOND, LEAST = 0.6, 2.0, 6
CONFIG = replace(DEFAULT, family=replace(DEFAULT.family, fractions=()))
"""Learns no errors of later forecasts, which takes longer and is not needed here."""

Task = tuple[list[Recorded], list[Recorded]]

prepared: dict[str, PastRun] = {}


def past_runs(items: list[Recorded]) -> list[PastRun]:
    """The usable ones of some runs, each prepared once."""
    for item in items:
        if item.id not in prepared:
            prepared[item.id] = PastRun(item.run)
    return [prepared[item.id] for item in items if prepared[item.id].is_usable]


def families(items: list[Recorded]) -> dict[str, list[Recorded]]:
    """Healthy runs of known size by source, family and metric; the tasks proper are xlstm and haegele ``-val``."""
    found: dict[str, list[Recorded]] = {}
    for item in items:
        if item.label == "healthy" and item.run.params and item.rate_known:
            val = item.source == "haegele_schaipp" and item.id.endswith("-val")
            found.setdefault(item.family + ("-val" if val else ""), []).append(item)
    return {name: runs for name, runs in found.items() if len({r.run.params for r in runs}) > 1}


def tokens(item: Recorded) -> float | None:
    """Tokens the run sees in all."""
    return item.run.tokens_per_step and item.run.tokens_per_step * item.run.total_steps


def inputs(items: list[Recorded]) -> dict[str, np.ndarray]:
    """Sizes and data for the baseline; steps stand for tokens that are not known."""
    data = [tokens(item) or item.run.total_steps for item in items]
    return {"params": np.array([item.run.params for item in items], float), "tokens": np.array(data, float)}


def left_out(runs: list[Recorded]) -> Iterator[Task]:
    """Every run, with the past runs of other configurations."""
    key = [(r.run.params, r.schedule, r.run.total_steps) for r in runs]
    for i, run in enumerate(runs):
        yield [r for r, k in zip(runs, key, strict=True) if k != key[i]], [run]


def beyond(runs: list[Recorded]) -> Iterator[Task]:
    """The expensive runs from the cheap ones."""
    flops = np.prod(list(inputs(runs).values()), axis=0)
    order = np.argsort(flops, kind="stable")
    cheap = order[: int(np.ceil(CHEAPER * len(runs)))]
    yield [runs[i] for i in cheap], [runs[i] for i in order if flops[i] > BEYOND * flops[cheap].max()]


def rows_of(name: str, task: str, known: list[Recorded], asked: list[Recorded]) -> list[dict]:
    """Forecasts of some runs from others, and those of the baseline."""
    if len(known) < LEAST or not asked:
        return []
    surface = laws.get("chinchilla").fit(
        inputs(known) | {"loss": np.array([r.final_loss for r in known])}, objective="least_squares"
    )
    plain = surface.predict(**inputs(asked))
    used = past_runs(known)
    found, took = [], []
    for item in asked:
        began = time.perf_counter()
        family = Family(
            nearest_in_size(used, item.run.params),
            item.run.params,
            item.run.tokens_per_step,
            with_final_loss=used,
            config=CONFIG,
        )
        found.append(Forecaster(item.run.plan, family).before())
        took.append(1e3 * (time.perf_counter() - began))
    rows = []
    for item, one, baseline, ms in zip(asked, found, plain, took, strict=True):
        lower, upper = one.interval(0.9)
        relative = 100 / item.final_loss
        rows.append(
            {
                "source": item.source,
                "family": name,
                "task": task,
                "id": item.id,
                "error": (one.final - item.final_loss) * relative,
                "plain": (baseline - item.final_loss) * relative,
                "covered": 100.0 * (lower <= item.final_loss <= upper),
                "width": (upper - lower) * relative,
                "ms": ms,
                "trust": one.trust,
            }
        )
    return rows


def summary(table: pd.DataFrame, by: list[str]) -> pd.DataFrame:
    """Errors, coverage and cost."""
    table = table.assign(size=table.error.abs(), plain_size=table.plain.abs())
    return table.groupby(by, sort=False).agg(
        runs=("id", "size"),
        median=("size", "median"),
        p90=("size", lambda x: x.quantile(0.9)),
        bias=("error", "median"),
        covered=("covered", "mean"),
        width=("width", "median"),
        plain=("plain_size", "median"),
        plain_p90=("plain_size", lambda x: x.quantile(0.9)),
        ms=("ms", "median"),
    )


def report(args: argparse.Namespace) -> Report:
    """Run both tasks and print their tables."""
    rows: list[dict] = []
    for name, runs in families(curves()).items():
        for known, asked in list(left_out(runs))[:: 8 if args.quick else 1]:
            rows += rows_of(name, "left out", known, asked)
        for known, asked in beyond(runs):
            rows += rows_of(name, "beyond", known, asked)
    table = pd.DataFrame(rows)
    proper = table[(table.source == "xlstm_scaling") | table.family.str.endswith("-val")]
    by_source, by_family = summary(proper, ["source", "task"]), summary(table, ["family", "task"])
    documents = {"sources": by_source, "families": by_family}
    out = Report(**documents)
    out.add("errors in % of the final loss; covered: % of runs inside the 90 % interval; plain: those of the baseline")
    out.add(table=by_source, digits=2)
    out.add(table=by_family, digits=2)
    return out


if __name__ == "__main__":
    main(__doc__, report)
