"""Advice on repeated data in recorded runs: named where they do harm, and only there.

Replays the 48 validation losses of Muennighoff et al. 2023 (huggingface/datablations): models of 2.8, 4.2 and 8.7
billion parameters on C4 and OSCAR, each on one budget of tokens made of 1 to 44 passes over fewer and fewer unique
ones. The recipe's cosine is the plan; the unique tokens are given. Counted are the runs with the hint at the start,
those with any advice to investigate or stop, those in which repeated data became the likely cause, and at which pass.

    python benchmarks/repeats.py [--json] [--said]
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
from _cli import Report, main
from _data import folder

from lightning_scaling import Run, replay

STEP_TOKENS = 2**20
PEAK, LAST, WARMUP = 2e-4, 0.1, 0.01
FEW = 5


def runs() -> Iterator[tuple[Run, int, float]]:
    """Each run with its number of passes and its unique tokens."""
    base = folder() / "points" / "datablations"
    table = pd.read_csv(base / "runs.csv").sort_values(["epochs", "run_id"])
    curves = dict(tuple(pd.read_csv(base / "curves.csv.gz").groupby("run_id")))
    for meta in table.itertuples():
        rows = curves[meta.run_id]
        steps = np.maximum(np.rint(rows.tokens.to_numpy() / STEP_TOKENS), 1)
        kept = np.concatenate([[True], np.diff(steps) > 0])
        total = int(max(meta.total_tokens / STEP_TOKENS, steps[-1]))
        knots = np.linspace(1, total, 400)
        fall = LAST + (1 - LAST) / 2 * (1 + np.cos(np.pi * (knots - WARMUP * total) / (total - WARMUP * total)))
        run = Run(
            steps[kept],
            rows.val_loss.to_numpy()[kept],
            total_steps=total,
            planned_lr=(knots, PEAK * np.where(knots < WARMUP * total, knots / (WARMUP * total), fall)),
            params=int(meta.N_params),
            tokens_per_step=STEP_TOKENS,
            name=meta.run_id,
            meta={"metric": "val_loss"},
        )
        yield run, int(meta.epochs), float(meta.unique_tokens)


def advised(run: Run, passes: int, unique: float) -> dict[str, Any]:
    """The advice on a run."""
    said = replay(run, unique_tokens=unique)
    off = [update.advice for update in said if update.advice.action != "continue"]
    named = [advice for advice in off if advice.evidence.get("cause") == "repeated_data"]
    return {
        "name": run.name,
        "passes": passes,
        "hint": any("A hint: the plan goes" in update.advice.reason for update in said),
        "flagged": bool(off),
        "named": bool(named),
        "at_pass": float(named[0].step * STEP_TOKENS / unique) if named else None,
        "risen": float(run.loss[-1] - np.min(run.loss)),
        "reason": named[0].reason if named else "",
    }


def report(options: argparse.Namespace) -> Report:
    """Replay the runs and count what was said of repeats."""
    rows = [advised(*one) for one in list(runs())[:: 4 if options.quick else 1]]
    table = []
    for passes in sorted({row["passes"] for row in rows}):
        mine = [row for row in rows if row["passes"] == passes]
        at = [row["at_pass"] for row in mine if row["named"]]
        sums = {key: sum(row[key] for row in mine) for key in ("hint", "flagged", "named")}
        above = f"{min(row['risen'] for row in mine):.3f} to {max(row['risen'] for row in mine):.3f}"
        span = f"{min(at):.0f} to {max(at):.0f}" if at else ""
        table.append({"passes": passes, "runs": len(mine), **sums, "at pass": span, "end above best": above})
    few = [row for row in rows if row["passes"] <= FEW]
    informed = sum(row["named"] or row["hint"] for row in few)
    out = Report(runs=rows).add(table=table, index=False)
    out.add(f"{informed} of {len(few)} runs of at most {FEW} passes hear of repeats.")
    for row in rows if options.said else []:
        if row["named"]:
            out.add(f"{row['name']}: {row['reason']}")
    return out


if __name__ == "__main__":
    main(
        __doc__,
        report,
        said={"action": "store_true", "help": "also print what was said where repeats were named"},
    )
