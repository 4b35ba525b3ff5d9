"""Sensitivity of the ranking of runs to its constants and to noise.

First, the three constants that matter most are chosen anew for each of the six sweeps under one schedule, on random
parts of the other five alone: of the settings that lose the fewest best runs there, the one that saves the most. Then
the losses are made noisier, or thinned out.

    python benchmarks/sweep_stress.py [--json] [--quick]
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import replace
from itertools import product

import numpy as np
import pandas as pd
from _cli import Report, main
from _data import Recorded, curves
from _sweeps import mixed_schedules, parts, same_schedule
from decisions import ours, row_of

from lightning_scaling import Run
from lightning_scaling.advice.config import DEFAULT, RankingConfig

GRID = {
    "settled_ratio": (1.1, 1.2, 1.35, 1.5),
    "trend_error": (0.2, 0.25, 0.35),
    "max_log_steepness": (0.5, 0.7, 1.0),
}
SETTING = list(GRID)
PER_GROUP = 12
RESULTS = ["saved", "regret", "best_stopped"]


def judged(groups: dict[str, list[Recorded]], config: RankingConfig = DEFAULT.ranking) -> pd.DataFrame:
    """The effect of the ranking on sweeps."""
    return pd.DataFrame(
        [row_of("", name, group, "ours", ours(group, 0.95, config), 0) for name, group in groups.items()]
    )


def settings(groups: dict[str, list[Recorded]], per_group: int, grid: dict[str, tuple[float, ...]]) -> pd.DataFrame:
    """Every setting of the constants on every sweep, and on random parts of it."""
    drawn = {name: parts({name: group}, per_group, 5) for name, group in groups.items()}
    rows = []
    for values in product(*grid.values()):
        config = replace(DEFAULT.ranking, **dict(zip(SETTING, values, strict=True)))
        for name, group in groups.items():
            whole, some = judged({name: group}, config).iloc[0], judged(drawn[name], config)
            of_parts = {"parts_saved": some.saved.mean(), "parts_stopped": some.best_stopped.sum()}
            rows.append({**dict(zip(SETTING, values, strict=True)), "sweep": name, **whole[RESULTS], **of_parts})
    return pd.DataFrame(rows)


def left_out(table: pd.DataFrame) -> pd.DataFrame:
    """Each sweep under the setting chosen on random parts of the others."""
    chosen = []
    for sweep in table.sweep.unique():
        others = table[table.sweep != sweep].groupby(SETTING)[["parts_saved", "parts_stopped"]].mean()
        safe = others[others.parts_stopped == others.parts_stopped.min()]
        best = safe.parts_saved.idxmax()
        chosen.append(table[(table.sweep == sweep) & (table[SETTING] == list(best)).all(axis=1)])
    return pd.concat(chosen)


def altered(item: Recorded, how: Callable[[np.ndarray, np.ndarray, float], np.ndarray] | None) -> Recorded:
    """The run with noisier losses; ``None`` keeps every third loss."""
    run = item.run
    loss, keep = run.loss.copy(), np.ones(run.loss.size, dtype=bool)
    steps = np.diff(loss[np.isfinite(loss)])
    usual = 1.05 * float(np.median(np.abs(steps - np.median(steps))))
    if how is None:
        keep = np.arange(loss.size) % 3 == 2
        keep[-1] = True
    else:
        seed = int.from_bytes(item.id.encode()[-6:], "big")
        loss += how(run.step / run.total_steps, np.random.default_rng(seed).standard_normal(loss.size), usual)
    plan = (run.plan.steps, run.plan.lr)
    lr = None if run.lr is None else run.lr[keep]
    known = {"params": run.params, "tokens_per_step": run.tokens_per_step, "family": run.family, "name": run.name}
    return replace(item, run=Run(run.step[keep], loss[keep], lr, total_steps=run.total_steps, planned_lr=plan, **known))


ALTERED = {
    "as recorded": lambda at, noise, usual: 0.0 * noise,
    "three times the noise": lambda at, noise, usual: 2.8 * usual * noise,
    "six times, up to 40 %": lambda at, noise, usual: 6 * usual * noise * (at < 0.4),
    "four times, from 50 % on": lambda at, noise, usual: 4 * usual * noise * (at > 0.5),
    "every third loss": None,
}


def stressed(kinds: dict[str, dict[str, list[Recorded]]], names: list[str]) -> pd.DataFrame:
    """The comparison on noisier and on thinner losses."""
    rows = []
    for kind, groups in kinds.items():
        for name in names:
            how = ALTERED[name]
            found = judged({sweep: [altered(item, how) for item in group] for sweep, group in groups.items()})
            sums = {"saved": found.saved.mean(), "regret": found.regret.mean(), "worst": found.regret.max()}
            rows.append({"kind": kind, "losses": name, **sums, "best_stopped": found.best_stopped.sum()})
    return pd.DataFrame(rows)


def report(args: argparse.Namespace) -> Report:
    """Run the task and print its tables."""
    recorded = [r for r in curves() if r.label == "healthy" and r.rate_known]
    recorded = [r for r in recorded if r.source != "haegele_schaipp" or r.id.endswith("-val")]
    same = same_schedule(recorded)
    mixed = {name: group for name, group in mixed_schedules(recorded).items() if len(group) > 2}
    grid, names, per_group = GRID, list(ALTERED), PER_GROUP
    if args.quick:
        grid = {name: values[1:2] for name, values in GRID.items()} | {
            "max_log_steepness": GRID["max_log_steepness"][:2]
        }
        same, mixed = dict(list(same.items())[:3]), dict(list(mixed.items())[:2])
        names, per_group = names[:2], 1
    table = settings(same, per_group, grid)
    sums = {"saved": "mean", "regret": "mean", "best_stopped": "sum", "parts_saved": "mean", "parts_stopped": "sum"}
    whole = table.groupby(SETTING).agg(sums).astype(float)
    chosen = left_out(table)
    noisy = stressed({"same schedule": same, "mixed schedules": mixed}, names)
    found = {"settings": whole.reset_index(), "left_out": chosen, "noise": noisy}
    out = Report(**{name: part.to_dict("records") for name, part in found.items()})
    out.add("sweeps under one schedule, and random parts of them, by the constants")
    out.add(table=whole, digits=3)
    out.add("each sweep under the constants chosen on parts of the other five")
    out.add(chosen.round(3).to_string(index=False))
    out.add(f"mean: saved {chosen.saved.mean():.1f} %, regret {chosen.regret.mean():.3f} %")
    out.add("noisier and thinner losses")
    out.add(noisy.round(3).to_string(index=False))
    return out


if __name__ == "__main__":
    main(__doc__, report)
