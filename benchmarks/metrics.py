"""Where will an accuracy land? The live monitor on metrics that are not losses, and on losses near zero.

Small networks are trained on the spot (digits, and bytes of the standard library; five schedules), and their
accuracies and losses followed: as what they are, as if they were losses without bounds, and by the last value seen.

    python benchmarks/metrics.py [--json] [--whole] [--scales] [--quick]
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import replace
from itertools import islice
from typing import Any

import numpy as np
import pandas as pd
from _cli import Report, main
from _trainings import Training, trainings

from lightning_scaling.engine.monitor import Monitor
from lightning_scaling.forecast import Forecaster
from lightning_scaling.forecast.law_grid import before
from lightning_scaling.runs.curve import Curve
from lightning_scaling.schedule import Plan

FRACTIONS = (0.25, 0.5, 0.75)
FOLLOWED: dict[str, dict[str, Any]] = {
    "val_acc": {"monitor": "val_acc"},
    "train_acc": {"monitor": "train_acc"},
    "val_loss": {"monitor": "val_loss", "bounds": (0, None)},
    "train_loss": {"monitor": "train_loss", "bounds": (0, None)},
}
SCALES: dict[str, tuple[Callable[[np.ndarray], np.ndarray], Callable[[np.ndarray], np.ndarray]]] = {
    "error": (lambda e: e, lambda u: np.clip(u, 0, 1)),
    "odds": (lambda e: _capped(e) / (1 - _capped(e)), lambda u: np.maximum(u, 0) / (1 + np.maximum(u, 0))),
    "root of the odds": (
        lambda e: np.sqrt(_capped(e) / (1 - _capped(e))),
        lambda u: np.maximum(u, 0) ** 2 / (1 + np.maximum(u, 0) ** 2),
    ),
    "root of the error": (lambda e: np.sqrt(e), lambda u: np.clip(u, 0, 1) ** 2),
    "log of the error plus .01": (
        lambda e: np.log(e + 0.01) - np.log(0.005),
        lambda u: np.clip(0.005 * np.exp(u) - 0.01, 0, 1),
    ),
}


def _capped(error: np.ndarray) -> np.ndarray:
    return np.minimum(error, 0.99)


def rows_of(training: Training, name: str) -> list[dict[str, Any]]:
    """Forecasts of one metric of one training, in both ways."""
    values = training.values[name]
    total = len(training.lr)
    plan = Plan(np.arange(1, total + 1), training.lr, total_steps=total)
    low, high = (0.0, np.inf) if "loss" in name else (0.0, 1.0)
    rows = []
    for way, told in (("its scale", FOLLOWED[name]), ("as a loss", {"mode": "min"})):
        monitor = Monitor(plan, **told)
        began = time.perf_counter()
        updates = monitor.observe(training.step, values, lr=training.lr[training.step - 1]) + monitor.finish()
        took = (time.perf_counter() - began) / len(updates)
        alarm = any(update.deviation.alarm for update in updates)
        stop = any(update.advice.action == "stop" for update in updates)
        for fraction in FRACTIONS:
            made = next(row for row in monitor.forecast_log if row["fraction"] == fraction)
            row = {"metric": name, "way": way, "fraction": fraction, "run": training.name, "trust": made["trust"]}
            row |= {"schedule": training.schedule, "alarm": alarm, "stop": stop, "ms": took * 1e3}
            seen = values[training.step <= fraction * total]
            row["last"] = abs(float(seen[-1]) - made["outcome"])
            if made["final"] is not None:
                lower, upper = made["lower"], made["upper"]
                row |= {
                    "error": abs(made["final"] - made["outcome"]),
                    "covered": lower <= made["outcome"] <= upper,
                    "width": upper - lower,
                    "outside": lower < low or upper > high,
                }
            rows.append(row)
    return rows


def scales_of(training: Training) -> list[dict[str, Any]]:
    """Errors of one law on several scales: how the scale was chosen. The outcome is the mean of the last three."""
    total = len(training.lr)
    forecaster = Forecaster(Plan(np.arange(1, total + 1), training.lr, total_steps=total))
    rows = []
    for metric in ("val_acc", "train_acc"):
        values, curve = training.values[metric], Curve(forecaster.plan)
        curve.add(training.step, values)
        for name, (there, back) in SCALES.items():
            points = replace(curve.points, loss=there(1 - curve.points.loss))
            for fraction in FRACTIONS:
                now = int(fraction * total)
                final = 1 - float(back(np.array(forecaster.fit(before(points, now), now).final)))
                last = float(values[training.step <= now][-1])
                row = {"metric": metric, "scale": name, "fraction": fraction, "run": training.name}
                rows.append(row | {"error": 100 * abs(final - values[-3:].mean())})
                if name == "error":
                    rows.append(row | {"scale": "last value", "error": 100 * abs(last - values[-3:].mean())})
    return rows


def summary(table: pd.DataFrame, by: list[str]) -> pd.DataFrame:
    """Errors in hundredths of the metric's unit."""
    hundredths = table.assign(**{name: 100 * table[name] for name in ("error", "last", "width")})
    return hundredths.groupby(by, sort=False).agg(
        runs=("run", "size"),
        median=("error", "median"),
        p90=("error", lambda x: x.quantile(0.9)),
        last_value=("last", "median"),
        covered=("covered", lambda x: x.astype(float).mean()),
        width=("width", "median"),
        outside=("outside", lambda x: x.astype(float).mean()),
    )


def report(args: argparse.Namespace) -> Report:
    """Train, follow, and print the tables."""
    if args.scales:
        compared = pd.DataFrame([row for training in trainings(whole=args.whole) for row in scales_of(training)])
        grouped = compared.groupby(["metric", "scale", "fraction"], sort=False).error
        found = grouped.agg(runs="size", median="median", mean="mean", p90=lambda x: x.quantile(0.9))
        return Report(scales=found).add(found.round(2).to_string())
    made = islice(trainings(whole=args.whole), 4 if args.quick else None)
    table = pd.DataFrame([row for training in made for name in FOLLOWED for row in rows_of(training, name)])
    main_table = summary(table, ["metric", "way", "fraction"])
    own = table[table.way == "its scale"]
    kinds = summary(own[own.metric == "val_acc"].assign(kind=own.run.str.replace(r"-\d+$", "", regex=True)), ["kind"])
    trust = summary(own, ["metric", "trust"])[["runs", "median", "covered"]]
    once = table.drop_duplicates(["metric", "way", "run", "schedule"])
    once = once.assign(cycles=np.where(once.schedule == "restarts", "restarts", "one cycle"))
    alarms = once.groupby(["metric", "way", "cycles"], sort=False).agg(
        runs=("run", "size"), alarms=("alarm", "sum"), stops=("stop", "sum"), ms=("ms", "median")
    )
    parts = {"metrics": main_table, "val_acc_by_task": kinds, "trust": trust, "alarms": alarms}
    out = Report(**parts)
    out.add(
        "errors and widths in hundredths (points of accuracy, .01 nats) of the last recorded value; covered: share\n"
        "inside the 90 % interval; outside: share of intervals beyond what the metric can be; last_value: the rival"
    )
    out.add(table=main_table, digits=2)
    for title, part in (("val_acc by task, all fractions", kinds), ("trust", trust), ("alarms and stops", alarms)):
        out.add(title, part)
    return out


if __name__ == "__main__":
    main(
        __doc__,
        report,
        whole={"action": "store_true", "help": "three seeds and more sizes: four times as long"},
        scales={"action": "store_true", "help": "compare the scales that the law may hold on instead"},
    )
