"""What a step costs with the monitor, next to a bare Trainer and to Lightning's own callbacks.

A tiny model trains on one CPU thread under each configuration. All of them train at once in one process and take turns
of 100 steps, so that whatever else the machine does strikes them alike; costs are means over all steps, refits and
writes included. ``wall`` is the time that the turns took, ``cpu`` the CPU time of the training thread in them. The
thread that writes to MLflow works during anybody's turn, so its CPU time is given apart.

    python benchmarks/overhead.py [--steps 20000] [--quick] [--json]
"""

from __future__ import annotations

import argparse
import logging
import pickle
import random
import tempfile
import threading
import time
import tracemalloc
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _cli import Report, main
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping, ThroughputMonitor
from lightning.pytorch.loggers import CSVLogger, MLFlowLogger
from torch.utils.data import DataLoader

from lightning_scaling.callbacks import ScalingLawMonitor, session
from lightning_scaling.engine.monitor import Monitor
from lightning_scaling.schedule import Plan
from lightning_scaling.tracking import sink

TURN = 100
BATCH, INPUTS, WIDTH = 32, 64, 1024
BASE, JOURNAL, FULL = "no-op callback", "ScalingLawMonitor, journal", "ScalingLawMonitor, journal and MLflow"
TARGET_US, TARGET_SHARE = 15.0, 0.01
TARGET_MEMORY, TARGET_STATE = 5e6, 200e3


class Turns:
    """Lets one thread at a time train, for one turn; its clock stands still while a thread waits."""

    def __init__(self, names: list[str]) -> None:
        self.order = list(names)
        self.random = random.Random(0)
        self.waiting = threading.Condition()
        self.current = 0
        self.spent: dict[str, list[tuple[float, float]]] = {name: [] for name in names}
        self.waited: dict[int, float] = {}

    def wait(self, name: str) -> None:
        begun, thread = time.perf_counter(), threading.get_ident()
        with self.waiting:
            self.waiting.wait_for(lambda: self.order[self.current] == name)
        self.waited[thread] = self.waited.get(thread, 0.0) + time.perf_counter() - begun

    def clock(self) -> float:
        return time.perf_counter() - self.waited.get(threading.get_ident(), 0.0)

    def pass_on(self, name: str, wall: float, cpu: float) -> None:
        with self.waiting:
            self.spent[name].append((wall, cpu))
            self.current = (self.current + 1) % len(self.order)
            if self.current == 0:  # who comes after whom must not matter
                self.random.shuffle(self.order)
            self.waiting.notify_all()


class Tiny(LightningModule):
    """A step of about a millisecond, so that overhead shows; passes the turn on after every 100 steps."""

    def __init__(self, name: str, turns: Turns, steps: int, log: bool) -> None:
        super().__init__()
        self.net = torch.nn.Sequential(torch.nn.Linear(INPUTS, WIDTH), torch.nn.ReLU(), torch.nn.Linear(WIDTH, 1))
        self.label, self.turns, self.steps, self.logs = name, turns, steps, log
        self.seen = 0
        self.began: tuple[float, float] | None = None

    def take_turns(self) -> None:
        now = (time.perf_counter(), time.thread_time())
        if self.began is not None:
            self.turns.pass_on(self.label, now[0] - self.began[0], now[1] - self.began[1])
        self.turns.wait(self.label)
        self.began = (time.perf_counter(), time.thread_time())

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        if self.seen % TURN == 0:
            self.take_turns()
        self.seen += 1
        x, y = batch
        loss = torch.nn.functional.mse_loss(self.net(x), y)
        if self.logs:
            self.log("loss", loss, on_step=False, on_epoch=True)
        return loss

    def on_train_end(self) -> None:
        self.take_turns()

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.parameters(), lr=0.01)
        scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, self.steps)
        return [optimizer], [{"scheduler": scheduler, "interval": "step"}]


def batches() -> DataLoader[Any]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(500, BATCH, INPUTS, generator=generator)
    y = x.mean(2, keepdim=True) + 0.1 * torch.randn(500, BATCH, 1, generator=generator)
    return DataLoader(list(zip(x, y, strict=True)), batch_size=None)


def configurations(folder: Path) -> dict[str, Callable[[], dict[str, Any]]]:
    """Name, and a function that makes the arguments of the Trainer."""
    database = f"sqlite:///{folder / 'mlflow.db'}"
    return {
        "bare Trainer": lambda: {},
        BASE: lambda: {"callbacks": [Callback()]},
        "ThroughputMonitor": lambda: {
            "callbacks": [ThroughputMonitor(batch_size_fn=lambda batch: BATCH)],
            "logger": CSVLogger(folder),
        },
        "self.log": lambda: {"log": True},
        "self.log + EarlyStopping": lambda: {
            "callbacks": [EarlyStopping("loss", patience=10**6, check_on_train_epoch_end=True)],
            "log": True,
        },
        JOURNAL: lambda: {"callbacks": [ScalingLawMonitor(journal=folder / "journals")]},
        FULL: lambda: {
            "callbacks": [ScalingLawMonitor(journal=folder / "journals")],
            "logger": MLFlowLogger("overhead", tracking_uri=database),
        },
    }


def watch_the_writer() -> list[float]:
    """CPU seconds of each attempt to write to MLflow, to be filled while training."""
    spent: list[float] = []
    attempt = sink.Sink._attempt

    def watched(self: sink.Sink, rows: Any) -> bool:
        begun = time.thread_time()
        try:
            return attempt(self, rows)
        finally:
            spent.append(time.thread_time() - begun)

    sink.Sink._attempt = watched  # type: ignore[method-assign]
    return spent


def train(name: str, settings: dict[str, Any], turns: Turns, steps: int, folder: Path) -> None:
    module = Tiny(name, turns, steps, settings.pop("log", False))
    settings.setdefault("logger", False)
    trainer = Trainer(
        max_steps=steps,
        max_epochs=-1,
        accelerator="cpu",
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
        **settings,
    )
    trainer.fit(module, batches())
    turns.pass_on(name, 0.0, 0.0)


def measure_steps(steps: int, folder: Path) -> dict[str, dict[str, float]]:
    """Mean microseconds per step of every configuration, and above the no-op callback, turn by turn."""
    made = {name: make() for name, make in configurations(folder).items()}
    turns = Turns(list(made))
    session.perf_counter = turns.clock  # what the monitor takes for the training time is the time of its own turns
    threads = [
        threading.Thread(target=train, args=(name, dict(settings), turns, steps, folder), name=name)
        for name, settings in made.items()
    ]
    writing = watch_the_writer()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    used = steps // TURN
    spent = {name: np.array(turns.spent[name][:used]) / TURN * 1e6 for name in made}
    table = {}
    for name, each in spent.items():
        above = each - spent[BASE]
        row = {"wall": each[1:, 0].mean(), "cpu": each[1:, 1].mean()}
        row |= {"wall_above": above[1:, 0].mean(), "cpu_above": above[1:, 1].mean()}
        row["cpu_above_error"] = above[1:, 1].std() / np.sqrt(used - 1)
        for callback in made[name].get("callbacks", []):
            if isinstance(callback, ScalingLawMonitor):
                row |= {"share": callback.overhead, "updates": len(callback.forecast_log)}
        table[name] = {key: float(value) for key, value in row.items()}
    if FULL in table:
        table[FULL]["writer"] = sum(writing) / steps * 1e6
    return table


def measure_memory(steps: int) -> dict[str, float]:
    """Feed the engine a run in blocks, as the callback does; bytes that it holds at the end, and of its state."""
    rng = np.random.default_rng(0)
    knots = np.array([1.0, 0.01 * steps, *np.linspace(0.02, 1.0, 200) * steps])
    rates = np.array([1e-6, 3e-4, *3e-4 * (0.55 + 0.45 * np.cos(np.pi * np.linspace(0.02, 1, 200)))])
    block = 1024
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    engine = Monitor(Plan(knots, rates, total_steps=steps))
    for start in range(1, steps + 1, block):
        step = np.arange(start, min(start + block, steps + 1))
        loss = 2 + 8 * step**-0.3 + 0.05 * rng.standard_normal(step.size)
        engine.observe(step, loss, lr=engine.plan.at(step), tokens=step * 8192, flops=step * 1e15, seconds=step * 0.1)
    held, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    state = len(pickle.dumps(engine.state_dict()))
    return {
        "steps": float(steps),
        "held": float(held - before),
        "peak": float(peak - before),
        "state": float(state),
        "updates": float(len(engine.forecast_log)),
    }


def text_of(table: dict[str, dict[str, float]], memory: dict[str, float], steps: int) -> str:
    lines = [
        f"Microseconds per step, means over {steps:,} steps; 'above' is against the no-op callback",
        f"{'':40}{'wall':>8}{'above':>8}{'cpu':>8}{'above':>15}{'own share':>11}{'updates':>9}",
    ]
    for name, row in table.items():
        own = f"{row['share']:11.2%}{row['updates']:9.0f}" if "share" in row else ""
        above = f"{row['cpu_above']:+7.1f} +- {row['cpu_above_error']:.1f}"
        lines.append(f"{name:40}{row['wall']:8.1f}{row['wall_above']:+8.1f}{row['cpu']:8.1f}{above:>15}{own}")
    full = table[FULL]
    lines += [
        "",
        f"target: at most {TARGET_US:.0f} us above the no-op callback: {full['cpu_above']:.1f} us of CPU, and "
        f"{full['writer']:.1f} us in the thread that writes to MLflow",
        f"target: at most {TARGET_SHARE:.0%} of the time by its own account: {full['share']:.2%}",
        f"target: under {TARGET_MEMORY / 1e6:.0f} MB for 10 million steps: {memory['held'] / 1e6:.2f} MB held after "
        f"{memory['steps']:,.0f} steps (at most {memory['peak'] / 1e6:.2f} MB)",
        f"target: state under {TARGET_STATE / 1e3:.0f} kB: {memory['state'] / 1e3:.0f} kB",
    ]
    return "\n".join(lines)


def report(options: argparse.Namespace) -> Report:
    steps = 400 if options.quick else options.steps
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    for name in ("lightning.pytorch", "lightning_scaling", "mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory() as folder:
        table = measure_steps(steps, Path(folder))
    memory = measure_memory(200_000 if options.quick else 10_000_000)
    return Report(steps=steps, per_step=table, memory=memory).add(text_of(table, memory, steps))


if __name__ == "__main__":
    main(__doc__, report, steps={"type": int, "default": 20_000})
