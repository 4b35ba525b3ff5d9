"""Compute saved and loss given up by stopping runs of recorded sweeps, and against a fixed target.

Sweeps run side by side: the six isoFLOP groups of the xlstm runs (one schedule), and runs of one family, size and
length under at least two schedules. Every 2.5 % of the plan, from 10 % on, the runs left are compared, and those are
stopped that will not be the best with 95 % probability. Baselines see the same losses: halving on raw losses at 25, 50
and 75 %; forecasts of each run alone, stopped where it would be the best with less than 2 %, were they independent;
Lightning's EarlyStopping; Optuna's pruners, where it is installed. Parts of the sweeps, drawn at random, often have
another best run than the whole: how often is it lost? Third case: one run against a fixed target, alone.

    python benchmarks/decisions.py [--json] [--quick] [--probability .95]
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
from _cli import Report, main
from _data import Recorded, curves, scored
from _sweeps import mixed_schedules, parts, same_schedule
from scipy import stats

from lightning_scaling import Update, replay
from lightning_scaling.advice import RunState, StopRule
from lightning_scaling.advice.config import DEFAULT, RankingConfig
from lightning_scaling.advice.ranking import Candidate, rank
from lightning_scaling.forecast import Forecaster
from lightning_scaling.forecast.law_grid import before

CHECKS = np.round(np.arange(0.1, 0.999, 0.025), 3)
WINDOW = 0.03
BLOCK = 0.025
OFF = (-0.02, -0.01, -0.005, -0.003, 0.003, 0.005, 0.01, 0.02)
PARTS = {"same schedule": (240, 5), "mixed schedules": (130, 3)}

Stops = dict[str, float]


def level(item: Recorded, fraction: float, window: float = WINDOW) -> float:
    """Mean loss over a window before a fraction of the plan, 3 % of it wide, or the last one before."""
    run = item.run
    seen = np.isfinite(run.loss) & (run.step <= fraction * run.total_steps)
    late = seen & (run.step > (fraction - window) * run.total_steps)
    if late.any():
        return float(run.loss[late].mean())
    return float(run.loss[seen][-1]) if seen.any() else np.inf


def ours(group: list[Recorded], probability: float, config: RankingConfig = DEFAULT.ranking) -> Stops:
    """The ranking of the package."""
    candidates = {item.id: Candidate(item.run) for item in group}
    alive, stopped = [item.id for item in group], Stops()
    for fraction in CHECKS:
        found = rank([candidates[one] for one in alive], float(fraction), config) if len(alive) > 1 else None
        for index in found.dominated(probability) if found else ():
            stopped[alive[index]] = float(fraction)
        alive = [one for one in alive if one not in stopped]
    return stopped


def halving(group: list[Recorded]) -> Stops:
    """The better half on the raw loss goes on at 25, 50 and 75 %."""
    alive, stopped = list(group), Stops()
    for fraction in (0.25, 0.5, 0.75):
        alive.sort(key=lambda item, at=fraction: level(item, at))
        kept = -(-len(alive) // 2)
        stopped |= {item.id: fraction for item in alive[kept:]}
        alive = alive[:kept]
    return stopped


def naive(group: list[Recorded]) -> Stops:
    """Each run forecast alone; stopped where P(best) < 2 %, were the errors independent."""
    draws = np.random.default_rng(0).random((len(group), 2000))
    made = {item.id: (Forecaster(item.run.plan), Candidate(item.run).points) for item in group}
    alive, stopped = list(group), Stops()
    for fraction in CHECKS:
        ends, judged = [], []
        for n, item in enumerate(alive):
            forecaster, points = made[item.id]
            now = round(fraction * item.run.total_steps)
            forecast = forecaster.fit(before(points, now), now)
            if forecast.path is not None:
                judged.append(item)
                ends.append(forecast.final + forecast.final_distribution.scale * stats.t.ppf(draws[n], forecast.df))
        if len(judged) > 1:
            best = np.bincount(np.argmin(ends, axis=0), minlength=len(judged)) / draws.shape[1]
            stopped |= {item.id: float(fraction) for item, p in zip(judged, best, strict=True) if p < 0.02}
        alive = [item for item in alive if item.id not in stopped]
    return stopped


def patience(least: float) -> Callable[[list[Recorded]], Stops]:
    """Lightning's EarlyStopping on the losses of each run at every 2.5 %, with patience 3."""

    def rule(group: list[Recorded]) -> Stops:
        return {item.id: at for item in group if (at := waited(item, least)) is not None}

    return rule


def waited(item: Recorded, least: float) -> float | None:
    """Where EarlyStopping with patience 3 stops a run whose recorded losses are its checks; None if nowhere."""
    run = item.run
    best, waiting = np.inf, 0
    for step, loss in zip(run.step, run.loss, strict=True):
        if not np.isnan(loss):
            waiting = 0 if loss < best - least else waiting + 1
            best = min(best, loss) if loss < best - least else best
            if waiting >= 3 and step < run.total_steps:
                return float(step / run.total_steps)
    return None


def one_after_other(group: list[Recorded], pruner: Any, block: float | None = None) -> Stops:
    """A pruner of Optuna that learns from trials that are complete, given the level or the mean loss of a block."""
    import optuna

    study = optuna.create_study(pruner=pruner)
    stopped = Stops()
    for item in group:
        trial = study.ask()
        for n, fraction in enumerate(CHECKS):
            trial.report(level(item, fraction) if block is None else level(item, fraction, block), n)
            if trial.should_prune():
                stopped[item.id] = float(fraction)
                break
        if item.id in stopped:
            study.tell(trial, state=optuna.trial.TrialState.PRUNED)
        else:
            study.tell(trial, item.final_loss)
    return stopped


def optuna_median(group: list[Recorded]) -> Stops:
    """Optuna's median pruner, which learns from trials that are complete: one run after the other."""
    import optuna

    return one_after_other(group, optuna.pruners.MedianPruner(n_startup_trials=min(5, len(group) // 2)))


def optuna_halving(group: list[Recorded]) -> Stops:
    """Optuna's successive-halving pruner, factor 2 from a quarter of the plan on, side by side."""
    import optuna

    pruner = optuna.pruners.SuccessiveHalvingPruner(min_resource=10, reduction_factor=2)
    study = optuna.create_study(pruner=pruner)
    trials = {item.id: study.ask() for item in group}
    stopped = Stops()
    for fraction in CHECKS:
        for item in group:
            if item.id not in stopped:
                trials[item.id].report(level(item, fraction), round(40 * fraction))
        for item in group:
            if item.id not in stopped and trials[item.id].should_prune():
                stopped[item.id] = float(fraction)
                study.tell(trials[item.id], state=optuna.trial.TrialState.PRUNED)
    return stopped


def optuna_wilcoxon(group: list[Recorded]) -> Stops:
    """Optuna's Wilcoxon pruner at its own p-threshold of .1, one run after the other.

    It tests paired values of the run and of the best run complete so far. It is made for repeated evaluations; the
    pairs it gets here are the mean losses of both in blocks of 2.5 % of their plans, each at equal progress, from the
    first check on.
    """
    import optuna

    return one_after_other(group, optuna.pruners.WilcoxonPruner(), BLOCK)


def rules(probability: float) -> dict[str, Callable[[list[Recorded]], Stops]]:
    """All rules by name."""
    found: dict[str, Callable[[list[Recorded]], Stops]] = {
        "ours": lambda group: ours(group, probability),
        "halving": halving,
        "naive": naive,
        "EarlyStopping": patience(0.0),
        "EarlyStopping, min_delta .001": patience(1e-3),
    }
    try:
        import optuna
    except ImportError:
        return found
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
    return found | {
        "Optuna median": optuna_median,
        "Optuna halving": optuna_halving,
        "Optuna Wilcoxon": optuna_wilcoxon,
    }


def row_of(kind: str, name: str, group: list[Recorded], rule: str, stopped: Stops, half: int) -> dict:
    """What a rule did to a sweep."""
    best = min(group, key=lambda item: item.final_loss)
    kept = [item.final_loss for item in group if item.id not in stopped]
    worst = max(item.final_loss for item in group)
    left = min(kept) if kept else worst
    return {
        "kind": kind,
        "sweep": name,
        "rule": rule,
        "half": half,
        "runs": len(group),
        "saved": 100 * float(np.mean([1 - stopped.get(item.id, 1.0) for item in group])),
        "regret": 100 * (left / best.final_loss - 1),
        "best_stopped": best.id in stopped,
    }


def sweeps(items: list[Recorded], probability: float, quick: bool) -> pd.DataFrame:
    """Every rule on every sweep."""
    mixed = mixed_schedules(items)
    kinds = {
        "same schedule": same_schedule(items),
        "mixed schedules": {name: group for name, group in mixed.items() if len(group) > 2},
        "mixed schedules, pairs": {name: group for name, group in mixed.items() if len(group) == 2},
    }
    for kind, (count, least) in PARTS.items():
        kinds[f"parts of {kind}"] = parts(kinds[kind], count // (12 if quick else 1), least)
    few = ("ours", "halving")
    rows = [
        row_of(kind, name, group, rule, stop(group), n % 2)
        for kind, groups in kinds.items()
        for n, (name, group) in enumerate(groups.items())
        if not quick or n % 6 == 0
        for rule, stop in rules(probability).items()
        if rule in few or not kind.startswith("parts")
    ]
    return pd.DataFrame(rows)


def summary(table: pd.DataFrame) -> pd.DataFrame:
    """Means over the sweeps of a kind."""
    grouped = table.groupby(["kind", "rule"], sort=False)
    return grouped.agg(
        sweeps=("sweep", "size"),
        saved=("saved", "mean"),
        regret=("regret", "mean"),
        worst=("regret", "max"),
        best_stopped=("best_stopped", "sum"),
    )


def single(items: list[Recorded], probability: float) -> pd.DataFrame:
    """One run after the other against targets it misses or reaches by so much of its final loss."""
    rows = []
    for item in items:
        updates = replay(item.run)
        for off in OFF:
            rule = StopRule(target=item.final_loss * (1 + off), probability=probability)
            at = next((u for u in updates if u.step < item.run.total_steps and rule.decide(state_of(u))), None)
            rows.append({"source": item.source, "off": off, "at": None if at is None else at.fraction})
    return pd.DataFrame(rows)


def state_of(update: Update) -> RunState:
    """The state that a decision rests on, of a replayed update."""
    known = ("step", "fraction", "loss", "forecast", "deviation")
    return RunState(**{name: getattr(update, name) for name in known})


def verdicts(table: pd.DataFrame) -> pd.DataFrame:
    """Shares of runs stopped per target, as a factor of the final loss: below 1 it is missed, above it is reached."""
    stopped = table["at"].notna()
    table = table.assign(
        target=1 + table["off"],
        rightly=stopped.where(table["off"] < 0),
        wrongly=stopped.where(table["off"] > 0),
        saved=1 - table["at"].astype(float).fillna(1.0),
    )
    shares = {"rightly": "mean", "wrongly": "mean", "saved": "mean"}
    found = table.astype({"rightly": float, "wrongly": float}).groupby("target").agg({"source": "size", **shares})
    found[list(shares)] *= 100
    return found.rename(columns={"source": "runs"})


def report(args: argparse.Namespace) -> Report:
    """Run the task and print its tables."""
    recorded = [r for r in curves() if r.label == "healthy" and r.rate_known]
    recorded = [r for r in recorded if r.source != "haegele_schaipp" or r.id.endswith("-val")]
    table = sweeps(recorded, args.probability, args.quick)
    whole = summary(table)
    own = table[table.rule == "ours"]
    halves = own.groupby(["kind", "half"], sort=False)[["saved", "regret", "best_stopped"]].mean()
    alone = verdicts(single(scored(recorded)[:: 40 if args.quick else 4], args.probability))
    parts = {"sweeps": whole, "halves": halves, "target": alone, "each": own}
    out = Report(**parts)
    out.add("compute saved (%), regret (% of the final loss of the best run), sweeps whose best run was stopped")
    out.add(table=whole, digits=3)
    out.add("ours, on every other sweep and on the rest")
    out.add(table=halves, digits=3)
    out.add("one run against a target, as a factor of its final loss: stopped rightly, stopped wrongly, saved (%)")
    out.add(alone.round(1).to_string(na_rep="-"))
    return out


if __name__ == "__main__":
    main(
        __doc__, report, probability={"type": float, "default": 0.95, "help": "of not being the best, at which to stop"}
    )
