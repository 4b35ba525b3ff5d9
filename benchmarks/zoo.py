"""A zoo of healthy small trainings of every kind, recorded for forecasts and alarms.

About a hundred models, each trained in seconds on one core: classification, detection, segmentation, regression, time
series, autoencoders, diffusion, adversarial, contrastive, language, translation, recommendation, graphs,
reinforcement learning, differential equations, distillation, fine-tuning, experts, several tasks, curricula, densities;
with the usual schedules and optimizers. Training losses and held-out losses and metrics are kept in a cache; what lies
there is not trained again.

    python benchmarks/zoo.py [--quick] [--only WORD] [--out DIR] [--json]
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import time
from pathlib import Path

import pandas as pd
import torch
from _cli import Report, main
from _zoo_catalogue import trainings
from _zoo_training import Training, train

DEFAULT = Path("~/.cache/lightning-scaling/zoo").expanduser()
QUICK = 3
BOUNDED = ("acc", "iou")


def kind_of(metric: str) -> str:
    """Kind of a curve by its metric."""
    if metric == "train_loss":
        return "training"
    if metric == "reward":
        return "reward"
    return "bounded" if metric.endswith(BOUNDED) else "held_out"


def record(training: Training, folder: Path) -> float:
    """Train unless it is in the cache; returns the seconds it took."""
    text = json.dumps(training.settings(), sort_keys=True)
    path = folder / "trainings" / f"{training.name}-{hashlib.sha256(text.encode()).hexdigest()[:12]}.csv.gz"
    if path.exists():
        return 0.0
    begun = time.perf_counter()
    curves = train(training)
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [table.assign(run_id=f"{training.name}/{metric}") for metric, table in curves.items()]
    part = path.with_suffix(".part")
    pd.concat(rows)[["run_id", "step", "lr", "loss"]].to_csv(part, index=False, compression="gzip")
    os.replace(part, path)
    return time.perf_counter() - begun


def collect(chosen: list[Training], folder: Path) -> pd.DataFrame:
    """Write the tables of all trainings in the cache; returns that of the runs."""
    curves, runs = [], []
    for training in chosen:
        for path in sorted((folder / "trainings").glob(f"{training.name}-*.csv.gz"))[:1]:
            table = pd.read_csv(path)
            curves.append(table)
            for run_id, part in table.groupby("run_id"):
                metric = str(run_id).split("/")[1]
                known = {"run_id": run_id, "source": training.source, "kind": kind_of(metric), "metric": metric}
                known |= {"total_steps": training.steps, "schedule": training.schedule, "optimizer": training.optimizer}
                runs.append({**known, "final": part.loss.iloc[-1], "n_points": len(part)})
    table = pd.DataFrame(runs)
    for name, part in (("runs.csv", table), ("curves.csv.gz", pd.concat(curves))):
        compression = "gzip" if name.endswith("gz") else None
        part.to_csv(folder / f".{name}.part", index=False, compression=compression)
        os.replace(folder / f".{name}.part", folder / name)
    return table


def measure(arguments: argparse.Namespace) -> Report:
    """Train what is missing and write the tables."""
    torch.set_num_threads(1)
    folder = Path(arguments.out).expanduser()
    chosen = [one for one in trainings() if arguments.only in one.name]
    if arguments.quick:
        chosen = [one for one in chosen if one.steps <= 400][:QUICK]
    took = {one.name: record(one, folder) for one in chosen}
    runs = collect(chosen, folder)
    counts = runs.groupby("kind").agg(curves=("run_id", "size"), sources=("source", "nunique"))
    report = Report(trainings=len(chosen), sources=runs.source.nunique(), curves=len(runs), seconds=sum(took.values()))
    report.add(f"{len(chosen)} trainings of {runs.source.nunique()} sources in {folder}, {sum(took.values()):.0f} s")
    return report.add(table=counts.reset_index())


if __name__ == "__main__":
    main(
        __doc__,
        measure,
        only={"metavar": "WORD", "default": "", "help": "only trainings with this in their name"},
        out={"metavar": "DIR", "default": str(DEFAULT), "help": "where they are kept"},
    )
