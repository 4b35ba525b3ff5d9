"""Error, coverage and cost of the live forecast of the final loss on recorded runs.

At fractions of each healthy run with a known schedule, the final loss is forecast from the losses up to there and the
whole plan, and compared with the outcome: alone, and with the other healthy runs of its family as past runs, without
those of the same size, schedule and length. Baseline on every run: a power law in steps with a constant, blind to the
schedule. With --baselines also a broken power law, and Tissue's and the Multi-Power law with all parameters from the
run itself.

    python benchmarks/forecast.py [--source multipowerlaw] [--json] [--quick] [--baselines [EVERY]] [--calibrate]
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd
from _cli import Report, main
from _data import Recorded, curves, scored
from scipy import optimize, stats

from lightning_scaling import laws
from lightning_scaling.forecast import PUBLISHED, Family, Forecaster, PastRun, ShapePrior
from lightning_scaling.forecast.config import DEFAULT, ForecastConfig
from lightning_scaling.forecast.forecaster import Mixture
from lightning_scaling.forecast.law_grid import before
from lightning_scaling.forecast.priors.family import nearest_in_size
from lightning_scaling.runs.curve import Curve

FRACTIONS = (0.25, 0.5, 0.75)
CONFIG = replace(DEFAULT, family=replace(DEFAULT.family, fractions=FRACTIONS))
"""Corrects forecasts at the fractions of the task alone, which is all that makes it differ from `family_prior`."""
BASELINES = ("bnsl", "tissue", "multi_power")
GRID = 1500


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


def whole_law(name: str, item: Recorded, step: np.ndarray, loss: np.ndarray) -> float:
    """A law of the catalogue with all its parameters from the losses seen, at the end of the run.

    Steps are counted in 1,500ths of the run: what is per step in the law is free anyway.
    """
    unit = item.run.total_steps / GRID
    plan = item.run.plan
    options = {} if name == "bnsl" else {"rates": plan.at(np.arange(1, GRID + 1) * unit) / plan.peak}
    law = laws.get(name, **options)
    at = np.maximum(np.rint(step / unit), 1)
    try:
        fit = law.fit({"steps": at, "loss": loss})
        return float(law.evaluate(fit.params, steps=np.array([float(GRID)]))[0])
    except (ValueError, FloatingPointError, np.linalg.LinAlgError):
        return float("nan")


def key(item: Recorded) -> tuple:
    """What must differ in a relative."""
    return item.run.params, item.schedule, item.run.total_steps


@dataclass
class Histories:
    """Families of the recorded runs, each run prepared once."""

    items: list[Recorded]
    past_runs: dict[str, PastRun] = field(default_factory=dict)
    families: dict[tuple, Family | None] = field(default_factory=dict)

    config: ForecastConfig = CONFIG

    def family_of(self, item: Recorded) -> Family | None:
        """The past runs of this run; ``None`` with fewer than two finished ones."""
        size = (item.run.params, item.run.tokens_per_step)
        ids = [i.id for i in self.items if i.family == item.family and key(i) != key(item)]
        known = (item.family, tuple(ids), size)
        if known not in self.families:
            for i in self.items:
                if i.id in ids and i.id not in self.past_runs:
                    self.past_runs[i.id] = PastRun(i.run)
            used = [self.past_runs[name] for name in ids if self.past_runs[name].is_usable]
            enough = sum(r.finished for r in used) > 1
            nearest = nearest_in_size(used, size[0])
            self.families[known] = Family(nearest, *size, with_final_loss=used, config=self.config) if enough else None
        return self.families[known]

    def of(self, item: Recorded) -> Family | ShapePrior:
        """The prior of this run."""
        return self.family_of(item) or PUBLISHED


def rows_of(
    item: Recorded, fractions: tuple[float, ...], histories: Histories | None = None, baselines: bool = False
) -> list[dict]:
    """Forecasts of one run at the given fractions."""
    run = item.run
    seen = np.isfinite(run.loss)
    step, loss = run.step[seen].astype(float), run.loss[seen]
    curve = Curve(run.plan)
    curve.add(step, loss)
    forecasters = {"alone": Forecaster(run.plan)}
    if histories is not None:
        forecasters["family"] = Forecaster(run.plan, histories.of(item))
    rows = []
    for fraction in fractions:
        now = int(fraction * run.total_steps)
        points = before(curve.points, now)
        kept = (step <= now) & (step > 0.03 * run.total_steps)
        predicted: dict[str, float] = {}
        if kept.sum() > 3:
            predicted["blind"] = blind(step[kept], loss[kept], run.total_steps)
        if baselines and kept.sum() > 3:
            used = points.last > max(0.03 * run.total_steps, min(run.plan.warmup_end, 0.5 * now))
            for name in BASELINES:
                predicted[name] = whole_law(name, item, points.step[used], points.loss[used])
        relative = 100 / item.final_loss
        others = {name: (value - item.final_loss) * relative for name, value in predicted.items()}
        for mode, forecaster in forecasters.items():
            began = time.perf_counter()
            forecast = forecaster.fit(points, now)
            prediction = forecast.at(forecast.horizon)
            took = time.perf_counter() - began
            row = {"id": item.id, "source": item.source, "mode": mode, "fraction": fraction, "trust": forecast.trust}
            row |= {name: others.get(name, np.nan) for name in ("blind", *BASELINES)}
            if forecast.path is not None:
                lower, upper = prediction.interval(0.9)
                row |= {
                    "error": (prediction - item.final_loss) * relative,
                    "covered": lower <= item.final_loss <= upper,
                    "width": (upper - lower) * relative,
                    "ms": took * 1e3,
                }
                if isinstance(forecast.path, Mixture):
                    mixture, change = forecast.path.spread(forecast.horizon)
                    row |= {
                        "mixture": mixture * relative,
                        "change": change * relative,
                        "doubt": forecast.path.level_error * relative,
                    }
            rows.append(row)
    return rows


def summary(table: pd.DataFrame) -> pd.DataFrame:
    """Per mode, source and fraction, and the mean over sources."""
    table = table.assign(size=table.error.abs(), blind_size=table.blind.abs())
    grouped = table.groupby(["mode", "source", "fraction"]).agg(
        runs=("id", "size"),
        given=("error", lambda x: x.notna().mean()),
        median=("size", "median"),
        p90=("size", lambda x: x.quantile(0.9)),
        bias=("error", "median"),
        covered=("covered", lambda x: x.astype(float).mean()),
        width=("width", "median"),
        blind=("blind_size", "median"),
        ms=("ms", "median"),
    )
    mean = grouped.groupby(["mode", "fraction"]).mean()
    mean.index = pd.MultiIndex.from_tuples(
        [(mode, "mean over sources", f) for mode, f in mean.index], names=grouped.index.names
    )
    return pd.concat([grouped, mean])


def compared(table: pd.DataFrame) -> pd.DataFrame:
    """Median sizes of the errors of all methods on the runs that the baselines were fitted to, mean over sources."""
    same = table[table[list(BASELINES)].notna().any(axis=1)]
    wide = same.pivot_table(index=["source", "id", "fraction"], columns="mode", values="error")
    baselines = same.drop_duplicates(["id", "fraction"]).set_index(["source", "id", "fraction"])[["blind", *BASELINES]]
    grouped = wide.join(baselines).abs().groupby(["source", "fraction"])
    counted = {"median": grouped.median(), "p90": grouped.quantile(0.9)}
    return pd.concat({name: part.groupby("fraction").mean() for name, part in counted.items()}, names=["what"])


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


def report(args: argparse.Namespace) -> Report:
    """Run the task and print its table."""
    recorded = curves(args.source)
    items = scored(recorded)[:: 6 if args.quick else 1]
    fractions = tuple(np.round(np.arange(0.1, 0.95, 0.1), 2)) if args.calibrate else FRACTIONS
    if args.calibrate:
        histories = None
    else:
        kept = [r for r in recorded if r.source != "haegele_schaipp" or r.id.endswith("-val")]
        histories = Histories([r for r in kept if r.label == "healthy"])
    table = pd.DataFrame(
        [
            row
            for number, item in enumerate(items)
            for row in rows_of(item, fractions, histories, bool(args.baselines) and number % args.baselines == 0)
        ]
    )
    if args.calibrate:
        constants = calibrate(table)
        return Report(**constants).add("\n".join(f"{k}: {v:.3f}" for k, v in constants.items()))
    result = summary(table)
    trust = (
        table.assign(size=table.error.abs())
        .groupby(["mode", "fraction", "trust"])
        .agg(runs=("id", "size"), median=("size", "median"), covered=("covered", lambda x: x.astype(float).mean()))
    )
    overall = table.assign(size=table.error.abs()).groupby(["mode", "trust"])["size"].agg(["size", "median"])
    baselines = compared(table) if args.baselines else None
    document = {"runs": result, "trust": trust, "trust_overall": overall} | (
        {} if baselines is None else {"baselines": baselines}
    )
    out = Report(**document)
    out.add(
        "errors in % of the final loss; given: share of runs with a forecast at all, the rest\n"
        "counts in no other column; covered: share of runs inside the 90 % interval; blind: median of the baseline"
    )
    out.add(table=result, digits=2)
    out.add(table=trust, digits=3)
    out.add(table=overall, digits=3)
    if baselines is not None:
        out.add("all methods on the runs that the baselines were fitted to, mean over sources")
        out.add(table=baselines, digits=2)
    return out


if __name__ == "__main__":
    main(
        __doc__,
        report,
        source={"help": "only the runs of this source"},
        calibrate={"action": "store_true", "help": "print the maximum-likelihood constants of the error"},
        baselines={
            "type": int,
            "nargs": "?",
            "const": 12,
            "help": "fit the slower baselines to every 12th (or so many-th) run",
        },
    )
