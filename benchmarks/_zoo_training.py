"""How the models of the zoo are trained: schedules, optimizers, the loop, and what is recorded."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
import torch
from torch.optim import Optimizer, lr_scheduler
from torch.optim.lr_scheduler import LRScheduler

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
    step: Callable[[list[Optimizer], torch.Generator], float] | None = None
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


def scheduler(name: str, optimizer: Optimizer, steps: int) -> LRScheduler:
    """The schedule of a name, over all steps from the rate of the optimizer."""
    if name.startswith("warmup_"):
        warmup = max(round(0.08 * steps), 1)
        rest = scheduler(name.removeprefix("warmup_"), optimizer, steps - warmup)
        return lr_scheduler.SequentialLR(
            optimizer, [lr_scheduler.LinearLR(optimizer, 0.01, 1.0, warmup), rest], [warmup]
        )
    match name:
        case "cosine":
            return lr_scheduler.CosineAnnealingLR(optimizer, steps)
        case "linear":
            return lr_scheduler.LinearLR(optimizer, 1.0, 0.0, steps)
        case "step":
            return lr_scheduler.MultiStepLR(optimizer, [round(0.5 * steps), round(0.8 * steps)])
        case "exponential":
            return lr_scheduler.ExponentialLR(optimizer, 0.01 ** (1 / steps))
        case "restarts":
            return lr_scheduler.CosineAnnealingWarmRestarts(optimizer, max(steps // 3, 1))
        case "one_cycle":
            peak = optimizer.param_groups[0]["lr"]
            return lr_scheduler.OneCycleLR(optimizer, peak, steps + 1, cycle_momentum=False)
        case "wsd":
            return lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, (steps - step) / (0.2 * steps)))
        case "inverse_root":
            return lr_scheduler.LambdaLR(optimizer, lambda step: (1 + 50 * step / steps) ** -0.5)
        case "plateau":
            return lr_scheduler.ReduceLROnPlateau(optimizer, patience=5)
    return lr_scheduler.ConstantLR(optimizer, 1.0)


def _optimizer(training: Training, parameters: list[torch.nn.Parameter]) -> Optimizer:
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
    schedulers = [scheduler(training.schedule, optimizer, training.steps) for optimizer in optimizers]
    by_validation = training.schedule == "plateau"
    every = max(training.steps // VALIDATIONS, 1)
    rows: dict[str, list[tuple[int, float, float]]] = {"train_loss": []}
    for step in range(1, training.steps + 1):
        rate = optimizers[0].param_groups[0]["lr"]
        task.model.train()
        rows["train_loss"].append((step, rate, (task.step or _step(task))(optimizers, generator)))
        found: Metrics = {}
        if task.evaluate is not None and step % every == 0:
            task.model.eval()
            with torch.no_grad():
                found = task.evaluate()
            for name, value in found.items():
                rows.setdefault(name, []).append((step, rate, value))
        for one in schedulers:
            if not by_validation:
                one.step()
            elif found:
                one.step(found["val_loss"])
    return {name: _thinned(pd.DataFrame(part, columns=["step", "lr", "loss"])) for name, part in rows.items()}


def _step(task: Task) -> Callable[[list[Optimizer], torch.Generator], float]:
    def step(optimizers: list[Optimizer], generator: torch.Generator) -> float:
        (optimizer,) = optimizers

        def closure() -> torch.Tensor:
            optimizer.zero_grad()
            loss = task.loss(generator)
            loss.backward()
            return loss

        return float(optimizer.step(closure).detach())

    return step


def _thinned(table: pd.DataFrame) -> pd.DataFrame:
    return table if len(table) <= MOST_POINTS else table.iloc[:: math.ceil(len(table) / MOST_POINTS)]
