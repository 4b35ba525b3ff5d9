"""How long it takes to read the history of an experiment, and how much memory.

Makes a sqlite MLflow with 2,000 runs, not timed: half of them as this package writes them (ten metrics, 100 points
each), half foreign (three metrics, 400 points each), one in fifty broken or still running. Then reads it in a process
of its own each time: cold (no cache), warm (nothing has changed since), and changed (one run was added since). Seconds
are those of ``RunHistory.from_mlflow``, with what it imports; memory is the peak of the process.

    python benchmarks/history.py [--runs 2000] [--quick] [--json]
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import sqlite3
import subprocess
import sys
import tempfile
import time
import uuid
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from _cli import Report, main

EXPERIMENT = "many"
RUNS, QUICK = 2000, 100
OURS, FOREIGN = 100, 400
COLD_SECONDS, WARM_SECONDS, MEMORY = 60.0, 1.0, 500e6
SERIES = (
    "scaling/loss",
    "scaling/lr",
    "scaling/tokens",
    "scaling/samples",
    "scaling/flops",
    "scaling/seconds",
    "scaling/overhead",
    "scaling/forecast/final",
    "scaling/forecast/lower",
    "scaling/forecast/upper",
)
READ = """
import json, pathlib, resource, sys, time
from lightning_scaling import RunHistory
begun = time.perf_counter()
history = RunHistory.from_mlflow(sys.argv[2], tracking_uri=sys.argv[1])
seconds = time.perf_counter() - begun
status = pathlib.Path("/proc/self/status")
if status.exists():  # unlike ru_maxrss, not inherited from the process that started this one
    peak = 1024 * int(status.read_text().split("VmHWM:")[1].split()[0])
else:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(json.dumps({"seconds": seconds, "memory": peak, "runs": len(history), "said": history.summary()}))
"""


def new_store(path: Path) -> str:
    """An empty sqlite MLflow with one experiment; returns the experiment's id."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # mlflow and sqlalchemy warn of each other while they are imported
        from mlflow.tracking import MlflowClient

        logging.getLogger("alembic").setLevel(logging.WARNING)
        client = MlflowClient(tracking_uri=f"sqlite:///{path}")
        return str(client.create_experiment(EXPERIMENT, artifact_location=str(path.parent / "artifacts")))


def fill(path: Path, experiment: str, first: int, count: int) -> None:
    """Add runs to the tables of MLflow; through its client this would take most of an hour."""
    database = sqlite3.connect(path)
    with database:
        for index in range(first, first + count):
            add_run(database, experiment, index)
    database.close()


def add_run(database: sqlite3.Connection, experiment: str, index: int) -> None:
    run_id, begun = uuid.UUID(int=index).hex, 1_700_000_000_000 + index * 60_000
    broken = index % 50 == 7
    status, end = ("RUNNING", None) if broken and index % 100 == 7 else ("FINISHED", begun + 50_000)
    database.execute(
        "INSERT INTO runs (run_uuid, name, source_type, user_id, status, start_time, end_time, lifecycle_stage, "
        "artifact_uri, experiment_id) VALUES (?, ?, 'UNKNOWN', 'somebody', ?, ?, ?, 'active', '/nowhere', ?)",
        (run_id, f"run-{index}", status, begun, end, int(experiment)),
    )
    points = list(ours(index, begun) if index % 2 else foreign(index, begun))
    if broken and status == "FINISHED":
        points = [point for point in points if "loss" not in point[0]]
    database.executemany(
        "INSERT INTO metrics (key, step, value, timestamp, run_uuid, is_nan) VALUES (?, ?, ?, ?, ?, 0)",
        [(*point, run_id) for point in points],
    )
    database.executemany(
        "INSERT INTO latest_metrics (key, step, value, timestamp, run_uuid, is_nan) VALUES (?, ?, ?, ?, ?, 0)",
        [(*point, run_id) for point in {point[0]: point for point in points}.values()],
    )
    params = ours_params(index) if index % 2 else {"n_params": 10_000 * (1 + index % 9), "max_steps": FOREIGN * 10}
    params |= {f"option_{number}": f"value {number}" for number in range(12)}
    database.executemany(
        "INSERT INTO params (key, value, run_uuid) VALUES (?, ?, ?)",
        [(key, str(value), run_id) for key, value in params.items()],
    )
    tags = {"mlflow.runName": f"run-{index}", "mlflow.user": "somebody", "family": f"recipe-{index % 4}"}
    database.executemany(
        "INSERT INTO tags (key, value, run_uuid) VALUES (?, ?, ?)", [(*t, run_id) for t in tags.items()]
    )


def curve(steps: np.ndarray, total: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    fraction = steps / total
    lr = 3e-4 * 0.5 * (1 + np.cos(np.pi * fraction))
    noise = np.random.default_rng(seed).normal(0, 0.01, steps.size)
    return 2.5 + 0.8 * np.maximum(fraction, 1e-3) ** -0.3 + noise, lr


def ours(index: int, begun: int) -> Iterator[tuple[str, int, float, int]]:
    total = 50 * OURS
    steps = np.arange(1, OURS + 1) * 50
    loss, lr = curve(steps, total, index)
    columns = {"scaling/loss": loss, "scaling/lr": lr}
    for name in SERIES:
        values = columns.get(name, steps * 4096.0)
        for step, value in zip(steps, values, strict=True):
            yield name, int(step) - 1, float(value), begun + int(step)


def ours_params(index: int) -> dict[str, Any]:
    count = 12_345 * (1 + index % 9)
    return {"scaling.params.total": count, "scaling.plan.total_steps": 50 * OURS, "scaling.unit": "tokens"}


def foreign(index: int, begun: int) -> Iterator[tuple[str, int, float, int]]:
    steps = np.arange(9, FOREIGN * 10, 10)
    loss, lr = curve(steps, FOREIGN * 10, index)
    for name, values in (("train_loss", loss), ("lr-AdamW", lr), ("epoch", steps // 100)):
        for step, value in zip(steps, values, strict=True):
            yield name, int(step), float(value), begun + int(step)


def read(uri: str, cache: Path) -> dict[str, Any]:
    environment = {**os.environ, "LIGHTNING_SCALING_CACHE": str(cache), "PYTHONWARNINGS": "ignore"}
    done = subprocess.run(
        [sys.executable, "-c", READ, uri, EXPERIMENT], env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(done.stderr)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def measure(runs: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "mlflow.db"
        begun = time.perf_counter()
        experiment = new_store(path)
        fill(path, experiment, 0, runs)
        made = time.perf_counter() - begun
        uri, cache = f"sqlite:///{path}", Path(folder) / "cache"
        found = {name: read(uri, cache) for name in ("cold", "warm")}
        fill(path, experiment, runs, 1)
        found["changed"] = read(uri, cache)
        stored = sum(file.stat().st_size for file in cache.rglob("*") if file.is_file())
        return {"runs": runs, "made_seconds": made, "database": path.stat().st_size, "cache": stored, **found}


def report(arguments: argparse.Namespace) -> Report:
    found = measure(QUICK if arguments.quick else arguments.runs)
    peak = max(found[name]["memory"] for name in ("cold", "warm", "changed"))
    found["targets"] = {
        "cold_seconds": found["cold"]["seconds"] < COLD_SECONDS,
        "warm_seconds": found["warm"]["seconds"] < WARM_SECONDS,
        "memory": peak < MEMORY,
    }
    out = Report(**found)
    out.add(f"{found['runs']:,} runs, database {found['database'] / 1e6:.0f} MB, made in {found['made_seconds']:.0f} s")
    names = ("cold", "warm", "changed")
    measured = {name: (found[name]["seconds"], found[name]["memory"] / 1e6, found[name]["runs"]) for name in names}
    out.add(table=pd.DataFrame(measured, index=["seconds", "peak MB", "runs"]).T)
    out.add(found["cold"]["said"])
    out.add(f"cache on disk {found['cache'] / 1e6:.1f} MB; targets met: {found['targets']}")
    return out


if __name__ == "__main__":
    main(__doc__, report, runs={"type": int, "default": RUNS, "help": f"runs in the experiment; default {RUNS}"})
