"""How the models of the zoo are trained: schedules, optimizers, the loop, and what is recorded."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
import torch

VALIDATIONS = 40
MOST_POINTS = 1500

Metrics = dict[str, float]


@dataclass
class Task:
    """A model with its data.

    Attributes:
        model: Everything that is trained.
        loss: Loss of the next batch, of a generator for all that is random.
        evaluate: Held-out figures by name.
        epoch_steps: Steps that the data last for.
        step: In place of backward pass and step of one optimizer: from the optimizers and the generator to the loss.
        parts: Parameters of each optimizer, where there are several.
    """

    model: torch.nn.Module
    loss: Callable[[torch.Generator], torch.Tensor]
    evaluate: Callable[[], Metrics] | None = None
    epoch_steps: int = 0
    step: Callable[[list[torch.optim.Optimizer], torch.Generator], float] | None = None
    parts: list[list[torch.nn.Parameter]] = field(default_factory=list)


@dataclass(frozen=True)
class Training:
    """One training of the zoo.

    Attributes:
        name: Its name.
        source: The kind of model and data; trainings of one source are alike.
        task: Makes the task from a seed.
        steps: Length.
        rate: Peak learning rate.
        schedule: Name of the schedule.
        optimizer: Name of the optimizer.
        options: Of the optimizer.
        seed: Of weights and batches.
    """

    name: str
    source: str
    task: Callable[[int], Task]
    steps: int
    rate: float
    schedule: str
    optimizer: str
    options: tuple[tuple[str, float], ...] = ()
    seed: int = 0

    def settings(self) -> dict[str, object]:
        """All that decides the numbers, for the cache."""
        names = ("name", "source", "steps", "rate", "schedule", "optimizer", "options", "seed")
        return {name: getattr(self, name) for name in names}


def factor(schedule: str, done: float) -> float:
    """Rate over the peak when a share of the steps is done."""
    if schedule.startswith("warmup_"):
        warmup = 0.08
        if done < warmup:
            return max(done / warmup, 0.01)
        return factor(schedule.removeprefix("warmup_"), (done - warmup) / (1 - warmup))
    if schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * done))
    if schedule == "linear":
        return 1 - done
    if schedule == "step":
        return 0.1 ** (int(done > 0.5) + int(done > 0.8))
    if schedule == "exponential":
        return 0.01**done
    if schedule == "wsd":
        return 1.0 if done < 0.8 else (1 - done) / 0.2
    if schedule == "restarts":
        return 0.5 * (1 + math.cos(math.pi * (done * 3 % 1)))
    if schedule == "one_cycle":
        return max(done / 0.3, 0.04) if done < 0.3 else 0.5 * (1 + math.cos(math.pi * (done - 0.3) / 0.7))
    if schedule == "inverse_root":
        return 1 / math.sqrt(1 + 50 * done)
    return 1.0


def _optimizer(training: Training, parameters: list[torch.nn.Parameter]) -> torch.optim.Optimizer:
    return getattr(torch.optim, training.optimizer)(parameters, lr=training.rate, **dict(training.options))


def train(training: Training) -> dict[str, pd.DataFrame]:
    """Train once.

    Returns:
        For each metric the columns step, lr and loss.
    """
    torch.manual_seed(training.seed)
    np.random.seed(training.seed)
    task = training.task(training.seed)
    generator = torch.Generator().manual_seed(training.seed + 1)
    parts = task.parts or [[p for p in task.model.parameters() if p.requires_grad]]
    optimizers = [_optimizer(training, part) for part in parts]
    plateau = _Plateau() if training.schedule == "plateau" else None
    every = max(training.steps // VALIDATIONS, 1)
    rows: dict[str, list[tuple[int, float, float]]] = {"train_loss": []}
    for step in range(1, training.steps + 1):
        share = plateau.factor if plateau else factor(training.schedule, (step - 1) / training.steps)
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = training.rate * share
        task.model.train()
        loss = (task.step or _step(task))(optimizers, generator)
        rows["train_loss"].append((step, training.rate * share, loss))
        if task.evaluate is not None and step % every == 0:
            task.model.eval()
            with torch.no_grad():
                found = task.evaluate()
            for name, value in found.items():
                rows.setdefault(name, []).append((step, training.rate * share, value))
            if plateau and "val_loss" in found:
                plateau.see(found["val_loss"])
    return {name: _thinned(pd.DataFrame(part, columns=["step", "lr", "loss"])) for name, part in rows.items()}


def _step(task: Task) -> Callable[[list[torch.optim.Optimizer], torch.Generator], float]:
    def step(optimizers: list[torch.optim.Optimizer], generator: torch.Generator) -> float:
        (optimizer,) = optimizers

        def closure() -> torch.Tensor:
            optimizer.zero_grad()
            loss = task.loss(generator)
            loss.backward()
            return loss

        return float(optimizer.step(closure).detach())

    return step


class _Plateau:
    """A tenth of the rate after five validations without a better loss."""

    def __init__(self) -> None:
        self.factor, self._best, self._bad = 1.0, math.inf, 0

    def see(self, loss: float) -> None:
        self._best, self._bad = (loss, 0) if loss < self._best * (1 - 1e-4) else (self._best, self._bad + 1)
        if self._bad > 5:
            self.factor, self._bad = max(self.factor * 0.1, 1e-4), 0


def _thinned(table: pd.DataFrame) -> pd.DataFrame:
    return table if len(table) <= MOST_POINTS else table.iloc[:: math.ceil(len(table) / MOST_POINTS)]
