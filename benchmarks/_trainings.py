"""Small trainings whose accuracies and losses are recorded: scikit-learn's digits, bytes of the standard library."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional

POINTS = 100
SCHEDULES: dict[str, Callable[[float], float]] = {
    "constant": lambda x: 1.0,
    "cosine": lambda x: 0.5 * (1 + np.cos(np.pi * x)),
    "wsd": lambda x: min(1.0, (1 - x) / 0.2),
    "step": lambda x: 0.1 ** sum(x >= turn for turn in (0.5, 0.75)),
    "restarts": lambda x: 0.5 * (1 + np.cos(np.pi * (3 * x % 1))) if x < 1 else 0.0,
}


@dataclass(frozen=True)
class Training:
    """One recorded training: ``step`` and, per metric, its values there; the rate of every step."""

    name: str
    schedule: str
    step: np.ndarray
    values: dict[str, np.ndarray]
    lr: np.ndarray


@dataclass(frozen=True)
class Task:
    """A data set with its networks: training and validation parts, and how many of the latter are looked at."""

    x: Tensor
    y: Tensor
    held_x: Tensor
    held_y: Tensor
    network: Callable[[], nn.Module]
    steps: int
    rate: float
    batch: int = 64
    momentum: float = 0.9


def digits(kind: str, seed: int) -> Task:
    """Digits with an MLP or a convolution; ``few`` overfits, ``plateau`` stays at chance for a while."""
    images, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(seed).permutation(len(labels))
    x = torch.tensor(images[order] / 16, dtype=torch.float32)
    y = torch.tensor(labels[order])
    held = slice(1437, 1797)
    count = 300 if kind == "few" else 1437
    width = {"mlp16": 16, "mlp128": 128, "few": 64}.get(kind, 32)

    def network() -> nn.Module:
        if kind == "conv":
            return nn.Sequential(
                nn.Unflatten(1, (1, 8, 8)),
                nn.Conv2d(1, 8, 3, padding=1),
                nn.ReLU(),
                nn.MaxPool2d(2),
                nn.Conv2d(8, 16, 3, padding=1),
                nn.ReLU(),
                nn.Flatten(),
                nn.Linear(256, 10),
            )
        if kind == "plateau":
            deep = [nn.Linear(64, width), nn.Sigmoid(), nn.Linear(width, width), nn.Sigmoid(), nn.Linear(width, 10)]
            return nn.Sequential(*deep)
        return nn.Sequential(nn.Linear(64, width), nn.ReLU(), nn.Linear(width, 10))

    steps, rate = {"plateau": (2000, 0.1), "few": (1500, 0.05), "conv": (800, 0.01)}.get(kind, (1500, 0.01))
    return Task(x[:count], y[:count], x[held], y[held], network, steps, rate)


def text(width: int, seed: int) -> Task:
    """The next byte of Python's standard library from the eight before it."""
    folder = Path(argparse.__file__).parent
    files = ("argparse", "ast", "calendar", "csv", "inspect", "logging/__init__", "pathlib/__init__", "textwrap")
    raw = b"".join(path.read_bytes() for name in files if (path := folder / f"{name}.py").exists())
    data = torch.tensor(np.minimum(np.frombuffer(raw, dtype=np.uint8), 127).astype(np.int64))
    windows = data.unfold(0, 9, 1)
    cut = int(0.9 * len(windows))
    order = torch.randperm(len(windows) - cut, generator=torch.Generator().manual_seed(seed))[:1500] + cut

    def network() -> nn.Module:
        return nn.Sequential(
            nn.Embedding(128, 16), nn.Flatten(), nn.Linear(128, width), nn.ReLU(), nn.Linear(width, 128)
        )

    held = windows[order]
    return Task(windows[:cut, :8], windows[:cut, 8], held[:, :8], held[:, 8], network, 1500, 0.1, batch=128)


def train(name: str, task: Task, schedule: str, seed: int) -> Training:
    """Train and record about 100 times; training values are means since the time before."""
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    model = task.network()
    optimizer = torch.optim.SGD(model.parameters(), lr=task.rate, momentum=task.momentum)
    order = torch.Generator().manual_seed(seed)
    every = task.steps // POINTS
    rates = task.rate * np.array([SCHEDULES[schedule](s / task.steps) for s in range(task.steps)])
    rows, loss_sum, right = [], 0.0, 0.0
    for step in range(1, task.steps + 1):
        chosen = torch.randint(len(task.y), (task.batch,), generator=order)
        optimizer.param_groups[0]["lr"] = float(rates[step - 1])
        logits = model(task.x[chosen])
        loss = functional.cross_entropy(logits, task.y[chosen])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        loss_sum += loss.item()
        right += float((logits.argmax(1) == task.y[chosen]).float().mean())
        if step % every == 0:
            with torch.no_grad():
                logits = model(task.held_x)
                val = float(functional.cross_entropy(logits, task.held_y))
                accuracy = float((logits.argmax(1) == task.held_y).float().mean())
            rows.append((step, loss_sum / every, right / every, val, accuracy))
            loss_sum = right = 0.0
    table = np.array(rows)
    values = dict(zip(("train_loss", "train_acc", "val_loss", "val_acc"), table[:, 1:].T, strict=True))
    return Training(name, schedule, table[:, 0].astype(int), values, rates)


def trainings(*, whole: bool = False) -> Iterator[Training]:
    """The reduced set, or the whole one that constants were chosen on: other seeds and more sizes."""
    kinds = ("mlp16", *(["mlp128"] if whole else []), "conv", "few", "plateau")
    widths = (32, 128) if whole else (64,)
    for seed in range(10, 13) if whole else (1,):
        for schedule in SCHEDULES:
            for kind in kinds:
                yield train(f"digits-{kind}", digits(kind, seed), schedule, seed)
            for width in widths if seed < 12 else ():
                yield train(f"bytes-{width}", text(width, seed), schedule, seed)
