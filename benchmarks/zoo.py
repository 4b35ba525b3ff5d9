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
import gzip
import hashlib
import time
from pathlib import Path

import pandas as pd
import torch
from _cli import Report, main
from _zoo_catalogue import trainings
from _zoo_training import Training, train

from lightning_scaling._utils.serialization import atomic_write

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


def _cached(training: Training, folder: Path) -> Path:
    """Where a training is kept: what was made by other code than today's is not taken for it."""
    parts = sorted(Path(__file__).parent.glob("_zoo_*.py"))
    made_by = hashlib.sha256(b"".join(part.read_bytes() for part in parts)).hexdigest()[:12]
    return folder / "trainings" / made_by / f"{training.name}.csv.gz"


def record(training: Training, folder: Path) -> float:
    """Train unless it is in the cache; returns the seconds it took."""
    path = _cached(training, folder)
    if path.exists():
        return 0.0
    begun = time.perf_counter()
    curves = train(training)
    path.parent.mkdir(parents=True, exist_ok=True)
    _write(path, pd.concat(table.assign(run_id=f"{training.name}/{metric}") for metric, table in curves.items()))
    return time.perf_counter() - begun


def _write(path: Path, table: pd.DataFrame) -> None:
    text = table.to_csv(index=False).encode()
    atomic_write(path, gzip.compress(text) if path.suffix == ".gz" else text)


def collect(folder: Path) -> pd.DataFrame:
    """Write the tables of all trainings in the cache; returns that of the runs."""
    curves, runs = [], []
    for training in trainings():
        path = _cached(training, folder)
        if not path.exists():
            continue
        table = pd.read_csv(path)
        curves.append(table)
        for run_id, part in table.groupby("run_id"):
            metric = str(run_id).split("/")[1]
            known = {"run_id": run_id, "source": training.source, "kind": kind_of(metric), "metric": metric}
            known |= {"total_steps": training.steps, "schedule": training.schedule, "optimizer": training.optimizer}
            runs.append({**known, "final": part.loss.iloc[-1], "n_points": len(part)})
    table = pd.DataFrame(runs)
    _write(folder / "runs.csv", table)
    _write(folder / "curves.csv.gz", pd.concat(curves)[["run_id", "step", "lr", "loss"]])
    return table


def measure(arguments: argparse.Namespace) -> Report:
    """Train what is missing and write the tables."""
    torch.set_num_threads(1)
    folder = Path(arguments.out).expanduser()
    chosen = [one for one in trainings() if arguments.only in one.name]
    if arguments.quick:
        chosen = [one for one in chosen if one.steps <= 400][:QUICK]
    if not chosen:
        raise SystemExit(f"No training of the zoo has {arguments.only!r} in its name.")
    seconds = sum(record(one, folder) for one in chosen)
    runs = collect(folder)
    count = runs.run_id.str.split("/").str[0].nunique()
    counts = runs.groupby("kind").agg(curves=("run_id", "size"), sources=("source", "nunique"))
    report = Report(trainings=count, sources=runs.source.nunique(), curves=len(runs), seconds=seconds)
    report.add(f"{count} trainings of {runs.source.nunique()} sources in {folder}; trained now: {seconds:.0f} s")
    return report.add(table=counts.reset_index())


if __name__ == "__main__":
    main(
        __doc__,
        measure,
        only={"metavar": "WORD", "default": "", "help": "only trainings with this in their name"},
        out={"metavar": "DIR", "default": str(DEFAULT), "help": "where they are kept"},
    )
