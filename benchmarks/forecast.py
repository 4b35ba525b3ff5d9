"""Where will this run land? Error, coverage and cost of the live forecast on recorded runs.

At fractions of each healthy run with a known schedule, the final loss is forecast from the losses up to there and the
whole plan, and compared with what came. Rival: a power law in steps with a constant, blind to the schedule.

    python benchmarks/forecast.py [--source multipowerlaw] [--json] [--quick] [--calibrate]
"""

from __future__ import annotations

import argparse
import json
import time

import numpy as np
import pandas as pd
from _data import Recorded, curves, scored
from scipy import optimize, stats

from lightning_scaling.curve import Curve
from lightning_scaling.forecast import Forecaster

FRACTIONS = (0.25, 0.5, 0.75)


def blind(step: np.ndarray, loss: np.ndarray, total: int) -> float:
    """``L = L0 + A * step ** -alpha`` by least squares, exact in L0 and A, alpha on a grid."""
    best, final = np.inf, float(loss[-1])
    for alpha in np.geomspace(0.05, 1.5, 40):
        x = np.stack([np.ones_like(loss), (step / total) ** -alpha], 1)
        solution, *_ = np.linalg.lstsq(x, loss, rcond=None)
        error = float(np.sum((loss - x @ solution) ** 2))
        if error < best:
            best, final = error, float(solution.sum())
    return final


def rows_of(item: Recorded, fractions: tuple[float, ...]) -> list[dict]:
    """Forecasts of one run at the given fractions."""
    run = item.run
    seen = np.isfinite(run.loss)
    step, loss = run.step[seen].astype(float), run.loss[seen]
    curve, forecaster, done, rows = Curve(run.plan), Forecaster(run.plan), 0, []
    for fraction in fractions:
        now = int(fraction * run.total_steps)
        reached = int(np.searchsorted(step, now, side="right"))
        curve.add(step[done:reached], loss[done:reached])
        done = reached
        began = time.perf_counter()
        forecast = forecaster.fit(curve.points, now)
        prediction = forecast.at(forecast.horizon)
        took = time.perf_counter() - began
        if forecast.path is None:
            rows.append({"id": item.id, "source": item.source, "fraction": fraction, "trust": forecast.trust})
            continue
        lower, upper = prediction.interval(0.9)
        keep = step[:reached] > 0.03 * run.total_steps
        mixture, change = forecast.path.spread(forecast.horizon)
        relative = 100 / item.final_loss
        rows.append(
            {
                "id": item.id,
                "source": item.source,
                "fraction": fraction,
                "trust": forecast.trust,
                "error": (prediction - item.final_loss) * relative,
                "blind": (blind(step[:reached][keep], loss[:reached][keep], run.total_steps) - item.final_loss)
                * relative
                if keep.sum() > 3
                else np.nan,
                "covered": lower <= item.final_loss <= upper,
                "width": (upper - lower) * relative,
                "ms": took * 1e3,
                "mixture": mixture * relative,
                "change": change * relative,
                "doubt": forecast.path.doubt * relative,
            }
        )
    return rows


def summary(table: pd.DataFrame) -> pd.DataFrame:
    """Per source and fraction, and the mean over sources."""
    table = table.assign(size=table.error.abs(), blind_size=table.blind.abs())
    grouped = table.groupby(["source", "fraction"]).agg(
        runs=("id", "size"),
        median=("size", "median"),
        p90=("size", lambda x: x.quantile(0.9)),
        bias=("error", "median"),
        covered=("covered", lambda x: x.astype(float).mean()),
        width=("width", "median"),
        blind=("blind_size", "median"),
        ms=("ms", "median"),
    )
    mean = grouped.groupby("fraction").mean()
    mean.index = pd.MultiIndex.from_tuples([("mean over sources", f) for f in mean.index], names=grouped.index.names)
    return pd.concat([grouped, mean])


def calibrate(table: pd.DataFrame) -> dict[str, float]:
    """Constants of the forecast error's scale by maximum likelihood of a Student t, every source counting the same."""
    table = table.dropna(subset=["error"])
    weight = 1 / table.groupby("source").error.transform("size").to_numpy()
    error, mixture, change, doubt = (table[c].to_numpy() for c in ("error", "mixture", "change", "doubt"))

    def loss(x: np.ndarray) -> float:
        scale = np.sqrt((np.exp(x[0]) * mixture) ** 2 + (np.exp(x[1]) * change) ** 2 + (np.exp(x[2]) * doubt) ** 2)
        return -float(np.sum(weight * (stats.t.logpdf(error / scale, 1 + np.exp(x[3])) - np.log(scale))))

    found = optimize.minimize(loss, [np.log(0.5), np.log(0.1), np.log(1.5), 1.0], method="Nelder-Mead").x
    return {
        "of_mixture": float(np.exp(found[0])),
        "of_change": float(np.exp(found[1])),
        "of_doubt": float(np.exp(found[2])),
        "df": float(1 + np.exp(found[3])),
    }


def main() -> None:
    """Run the task and print its table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--source", help="only the runs of this source")
    parser.add_argument("--json", action="store_true", help="one JSON document instead of a table")
    parser.add_argument("--quick", action="store_true", help="every sixth run only")
    parser.add_argument("--calibrate", action="store_true", help="print the maximum-likelihood constants of the error")
    args = parser.parse_args()
    items = scored(curves(args.source))[:: 6 if args.quick else 1]
    fractions = tuple(np.round(np.arange(0.1, 0.95, 0.1), 2)) if args.calibrate else FRACTIONS
    table = pd.DataFrame([row for item in items for row in rows_of(item, fractions)])
    if args.calibrate:
        constants = calibrate(table)
        print(json.dumps(constants) if args.json else "\n".join(f"{k}: {v:.3f}" for k, v in constants.items()))
        return
    result = summary(table)
    trust = (
        table.assign(size=table.error.abs())
        .groupby(["fraction", "trust"])
        .agg(runs=("id", "size"), median=("size", "median"), covered=("covered", lambda x: x.astype(float).mean()))
    )
    if args.json:
        print(
            json.dumps(
                {"runs": result.reset_index().to_dict("records"), "trust": trust.reset_index().to_dict("records")}
            )
        )
        return
    print(
        "errors in % of the final loss; covered: share of runs inside the 90 % interval; blind: median of the rival\n"
    )
    print(result.round(2).to_string())
    print()
    print(trust.round(2).to_string())


if __name__ == "__main__":
    main()
