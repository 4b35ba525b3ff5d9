"""Error of counterfactual forecasts on pairs of recorded runs that share their past up to a step and then part.

Two runs of one family, size and batch whose learning rates agree up to a step, at least a fifth of the run, have one
past: the final loss of the second is the answer to "what if I follow its plan from here", asked of the first with the
losses it had shown by then. The same runs at the same step answer what the difference of the two ends is.
"""

from __future__ import annotations

import argparse
from itertools import permutations

import numpy as np
import pandas as pd
from _cli import Report, main
from _data import Recorded, curves, scored
from forecast import Histories, key

from lightning_scaling.forecast import PUBLISHED, Forecaster, what_if
from lightning_scaling.forecast.forecaster import PriorSource
from lightning_scaling.runs.curve import Curve

SAME = 0.01
SAME_LOSS = 0.005
LEAST_SHARED = 0.2
LEAST_APART = 0.02


def parting(one: Recorded, other: Recorded) -> int:
    """The last step up to which the planned rates of two runs agree to 1 %."""
    first, second = one.run.plan, other.run.plan
    end = min(one.run.total_steps, other.run.total_steps)
    at = np.unique(np.concatenate([np.linspace(1, end, 2000), first.steps, second.steps]))
    at = at[(at >= 1) & (at <= end)]
    apart = np.abs(first.at(at) - second.at(at)) > SAME * np.maximum(first.at(at), second.at(at))
    return int(at[int(np.flatnonzero(apart)[0]) - 1]) if apart.any() and not apart[0] else 0 if apart.any() else end


def losses_agree(one: Recorded, other: Recorded, step: int) -> bool:
    """Whether two runs showed the same losses on the latter half of their way to a step: the same data and settings."""
    known, mine = np.isfinite(other.run.loss), np.isfinite(one.run.loss)
    at = one.run.step[mine]
    shared = (at > step / 2) & (at <= step)
    theirs = np.interp(at[shared], other.run.step[known], other.run.loss[known])
    return bool(shared.any()) and abs(float(np.mean(theirs / one.run.loss[mine][shared])) - 1) < SAME_LOSS


def pairs(items: list[Recorded]) -> list[tuple[Recorded, Recorded, int]]:
    """Ordered pairs of runs with one past, and the step at which they part."""
    groups: dict[tuple, list[Recorded]] = {}
    for item in items:
        size = (item.source, item.family, item.run.params, item.run.tokens_per_step)
        if item.run.params is not None and item.run.plan.known:
            groups.setdefault(size, []).append(item)
    found = []
    for group in groups.values():
        for one, other in permutations(group, 2):
            step = parting(one, other)
            long = max(one.run.total_steps, other.run.total_steps)
            ahead = (one.run.total_steps - step, other.run.total_steps - step)
            parted = step >= LEAST_SHARED * one.run.total_steps and ahead[1] > LEAST_APART * long
            if parted and losses_agree(one, other, step):
                found.append((one, other, step))
    return found


def prior_of(histories: Histories, one: Recorded, other: Recorded) -> PriorSource:
    """The prior of the first run: its family without the runs like either of the two."""
    left = [item for item in histories.items if key(item) != key(other)]
    return Histories(left, histories.past_runs, histories.families).of(one)


def row_of(one: Recorded, other: Recorded, step: int, mode: str, histories: Histories | None) -> dict | None:
    """The what-if asked of one run at a step about the other's plan, and the outcome."""
    run = one.run
    seen = np.isfinite(run.loss) & (run.step <= step)
    prior = PUBLISHED if histories is None else prior_of(histories, one, other)
    curve = Curve(run.plan)
    curve.add(run.step[seen], run.loss[seen])
    forecast = Forecaster(run.plan, prior).fit(curve.points, step)
    if forecast.path is None:
        return None
    answer = what_if(forecast, run.plan, other.run.plan, points=curve.points, prior=prior)
    outcome, difference = other.final_loss, other.final_loss - one.final_loss
    lower, upper = answer.interval(0.9)
    least, most = answer.difference.interval(0.9)
    relative = 100 / outcome
    return {
        "source": one.source,
        "one": one.id,
        "other": other.id,
        "step": step,
        "mode": mode,
        "seen": step / run.total_steps,
        "longer": other.run.total_steps / step,
        "trust": answer.trust,
        "error": (answer.final - outcome) * relative,
        "covered": lower <= outcome <= upper,
        "width": (upper - lower) * relative,
        "outcome": difference * relative,
        "forecast": float(answer.difference) * relative,
        "off": (float(answer.difference) - difference) * relative,
        "difference_covered": least <= difference <= most,
        "difference_width": (most - least) * relative,
        "carrying_on": (forecast.final - one.final_loss) * relative,
        "last": (float(np.mean(curve.points.loss[-3:])) - outcome) * relative,
    }


def summary(table: pd.DataFrame) -> pd.DataFrame:
    """Per mode and source, and the mean over sources; sizes are medians."""

    def of(part: pd.DataFrame) -> pd.Series:
        return pd.Series(
            {
                "pairs": len(part),
                "error": part.error.abs().median(),
                "p90": part.error.abs().quantile(0.9),
                "bias": part.error.median(),
                "covered": part.covered.mean(),
                "width": part.width.median(),
                "no change": part.outcome.abs().median(),
                "last loss": part["last"].abs().median(),
                "difference": part.off.abs().median(),
                "its p90": part.off.abs().quantile(0.9),
                "its covered": part.difference_covered.mean(),
                "its width": part.difference_width.median(),
                "carrying on": part.carrying_on.abs().median(),
            }
        )

    grouped = table.groupby(["mode", "source"]).apply(of, include_groups=False)
    mean = grouped.groupby("mode").mean()
    mean.index = pd.MultiIndex.from_tuples(
        [(mode, "mean over sources") for mode in mean.index], names=grouped.index.names
    )
    return pd.concat([grouped, mean])


def report(args: argparse.Namespace) -> Report:
    """Ask all questions and print the table."""
    recorded = curves(args.source)
    asked = pairs(scored(recorded))[:: 40 if args.quick else 1]
    made = [row_of(*pair, "alone", None) for pair in asked]
    if not args.alone:
        kept = [r for r in recorded if r.source != "haegele_schaipp" or r.id.endswith("-val")]
        histories = Histories([r for r in kept if r.label == "healthy"])
        made += [row_of(*pair, "family", histories) for pair in asked]
    table = pd.DataFrame([row for row in made if row is not None])
    result = summary(table)
    trust = (
        table.assign(size=table.error.abs())
        .groupby(["mode", "source", "trust"])
        .agg(pairs=("size", "size"), error=("size", "median"), covered=("covered", "mean"))
    )
    document = {"pairs": result, "trust": trust}
    out = Report(**document)
    out.add(
        "errors in % of the outcome; no change: of the own end; last loss: of the loss where the plans part;\n"
        "difference: error of the difference of the two ends; carrying on: error of the run's own forecast"
    )
    out.add(table=result, digits=2)
    out.add(table=trust, digits=3)
    if args.worst:
        worst = table.assign(size=table.error.abs()).sort_values("size", ascending=False)
        out.add(worst.groupby(["mode", "source"]).head(args.worst).drop(columns="size").round(2).to_string())
    return out


if __name__ == "__main__":
    main(
        __doc__,
        report,
        source={"help": "only the runs of this source"},
        alone={"action": "store_true", "help": "without histories, which take most of the time"},
        worst={"type": int, "default": 0, "help": "also print so many of the worst answers of each source"},
    )
