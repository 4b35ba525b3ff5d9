"""Extrapolation of single curves without a known schedule: laws and their median on 92 public learning curves.

The curves are those of Alabdulmohsin et al. 2022 (arXiv 2209.06640). Each law is fitted to the training part of a
curve, to its first half and to its first quarter (by examples seen), and scored by the root mean square error of the
logarithm on the test points, which lie about 1.6, 3.5 and 6.9 times beyond the last point fitted (geometric mean).
Baselines: the forms M1 to M4 and BNSL with one break by least squares on the logarithm, and the median of M2, M3,
M4 and BNSL. A curve counts where at least seven points are left; the five of language models always.

    python benchmarks/extrapolation.py [--json] [--quick]
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import pandas as pd
from _cli import Report, main
from _data import folder

from lightning_scaling import laws
from lightning_scaling.laws.ensemble import DEFAULT, combine

FRACTIONS = {"x1.6": 1.0, "x3.5": 0.5, "x6.9": 0.25}
SINGLE = ("m1", "m2", "m3", "m4", "bnsl")
LEAST = 7
TARGET = {"x1.6": 0.026, "x3.5": 0.039, "x6.9": 0.057}


def curves() -> list[dict]:
    """The curves, each with its points to fit and to score."""
    base = folder() / "points" / "revisiting_nsl"
    rows = pd.concat([pd.read_csv(base / f"benchmark.{part}.csv") for part in ("vision", "lang")])
    found = []
    for (domain, task, model), curve in rows.drop_duplicates().groupby(["Domain", "Task", "Model"], sort=False):
        curve = curve.sort_values("Seen Examples")
        seen, later = curve[curve.Training == 1], curve[curve.Training == 0]
        found.append(
            {
                "domain": domain,
                "data": task.rsplit("_", 1)[0] if domain == "IC" else domain,
                "task": task,
                "model": model,
                "x": seen["Seen Examples"].to_numpy(),
                "y": seen.Loss.to_numpy(),
                "x_test": later["Seen Examples"].to_numpy(),
                "y_test": later.Loss.to_numpy(),
            }
        )
    return found


def rmsle(predicted: np.ndarray, observed: np.ndarray) -> float:
    """Root mean square error of the logarithm."""
    return float(np.sqrt(np.mean((np.log(predicted) - np.log(observed)) ** 2)))


def plain(name: str, data: dict) -> laws.Fit | None:
    """A law by least squares on the logarithm; None with more parameters than points."""
    try:
        return laws.get(name).fit(data, objective="least_squares")
    except ValueError:
        return None


def rows_of(curve: dict, horizon: str, fraction: float) -> list[dict]:
    """The errors of every method on one curve; nothing where too few points are left."""
    kept = curve["x"] <= fraction * curve["x"][-1]
    if kept.sum() < LEAST and curve["domain"] != "LM":
        return []
    data = {"steps": curve["x"][kept], "loss": curve["y"][kept]}
    x, y = curve["x_test"], curve["y_test"]
    about = {key: curve[key] for key in ("domain", "data", "task", "model")} | {"horizon": horizon}
    predicted = {name: fit.predict(steps=x) for name in SINGLE if (fit := plain(name, data)) is not None}
    rows = [about | {"method": name, "error": rmsle(values, y)} for name, values in predicted.items()]
    together = np.exp(np.median([np.log(predicted[name]) for name in DEFAULT if name in predicted], axis=0))
    rows.append(about | {"method": "median", "error": rmsle(together, y)})
    began = time.perf_counter()
    fit = combine().fit(data)
    took = time.perf_counter() - began
    lower, upper = fit.interval(0.9, steps=x)
    covered = float(np.mean((lower <= y) & (y <= upper)))
    rows.append(about | {"method": "ours", "error": rmsle(fit.predict(steps=x), y), "covered": covered, "s": took})
    return rows


def summary(table: pd.DataFrame) -> pd.DataFrame:
    """Mean and 90th percentile over curves, by method and horizon."""
    grouped = table.groupby(["method", "horizon"]).error
    result = pd.concat({"mean": grouped.mean().unstack(), "p90": grouped.quantile(0.9).unstack()}, axis=1)
    return result.loc[[*SINGLE, "median", "ours"]]


def report(args: argparse.Namespace) -> Report:
    """Run the task and print its table."""
    chosen = curves()[:: 12 if args.quick else 1]
    table = pd.DataFrame([row for name, f in FRACTIONS.items() for curve in chosen for row in rows_of(curve, name, f)])
    result = summary(table)
    ours = table[table.method == "ours"]
    covered = ours.groupby("horizon").covered.mean()
    counts = ours.groupby("horizon").size()
    by_data = table[table.method.isin(["median", "ours"])].groupby(["data", "method", "horizon"]).error.mean().unstack()
    seconds = float(ours.s.median())
    document = {
        "methods": {m: {p: result[p].loc[m].to_dict() for p in ("mean", "p90")} for m in result.index},
        "curves": counts.to_dict(),
        "covered_90": covered.to_dict(),
        "target": TARGET,
        "by_data": by_data.reset_index().to_dict("records"),
        "seconds_per_fit": seconds,
    }
    out = Report(**document)
    out.add(f"RMSLE on the test points; curves: {', '.join(f'{k} {v}' for k, v in counts.items())}")
    out.add(table=result, digits=4)
    out.add(f"target (mean): {', '.join(f'{k} {v}' for k, v in TARGET.items())}")
    out.add(f"ours: points inside the 90 % interval: {', '.join(f'{k} {100 * v:.0f} %' for k, v in covered.items())}")
    out.add(f"ours: {1000 * seconds:.0f} ms a curve (median)")
    out.add(table=by_data, digits=4)
    return out


if __name__ == "__main__":
    main(__doc__, report)
