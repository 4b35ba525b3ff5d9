"""Small real trainings and ways to break them; `faults.py` runs them all and prints what the monitor said.

Two tasks: the byte-level GPT of `train_bytes.py` on the standard library's source, and scikit-learn's handwritten
digits, moved a little and with new noise each time. Faults begin after two fifths of the run and are announced to
nobody. The causes that count as right stand next to each fault.

The monitor may take all the time it wants here (`max_overhead=1`): in runs of ten seconds, 1 % of the time would leave
room for a fifth of its updates, and for which of them would depend on the machine.
"""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset
from train_bytes import BATCH, ByteGPT, Windows, library_text, rate

from lightning_scaling import Run, RunHistory
from lightning_scaling.callbacks import ScalingLawMonitor

STEPS = 800
BEGINS = 0.4
FEW_WINDOWS = 128
STEEP = 1.6e-2

Batch = dict[str, Tensor]


class Task(pl.LightningModule):
    """What both tasks share: AdamW, warm-up and cosine, and the places where a fault gets hold of the training."""

    blocks: nn.Module

    def __init__(self, warmup: bool = True, peak: float = 4e-3) -> None:
        super().__init__()
        self.warmup, self.peak = warmup, peak
        self.half_scale = 0.0

    def loss(self, batch: Batch) -> Tensor:
        logits = self(batch["inputs"])
        if self.half_scale:
            logits = logits + ((logits * self.half_scale).half().float() / self.half_scale - logits).detach()
        return functional.cross_entropy(logits, batch["labels"].flatten())

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        return self.loss(batch)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self.log("val_loss", self.loss(batch))

    def configure_optimizers(self) -> dict[str, Any]:
        optimizer = torch.optim.AdamW(self.parameters(), lr=self.peak, betas=(0.9, 0.99), weight_decay=0.1, fused=True)
        total = int(self.trainer.max_steps)

        def share(step: int) -> float:
            return rate(step if self.warmup else max(step, round(0.05 * total)), total, "cosine")

        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, share)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


class Bytes(Task):
    """The byte-level GPT of `train_bytes.py`."""

    def __init__(self, warmup: bool = True, peak: float = 4e-3) -> None:
        super().__init__(warmup, peak)
        self.model = ByteGPT(width=32, layers=2, heads=2)
        self.blocks = self.model.blocks

    def forward(self, inputs: Tensor) -> Tensor:
        return self.model(inputs).flatten(0, 1)


class Digits(Task):
    """A small convolutional network."""

    def __init__(self, warmup: bool = True, peak: float = 4e-3) -> None:
        super().__init__(warmup, peak)
        self.blocks = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(16, 32, 3, padding=1), nn.ReLU()
        )
        self.model = nn.Sequential(self.blocks, nn.Flatten(), nn.Linear(32 * 16, 10))

    def forward(self, inputs: Tensor) -> Tensor:
        return self.model(inputs)


class Stretches(Dataset[Batch]):
    """Windows of text under the names of this example; the model reads `inputs`."""

    def __init__(self, text: Tensor, start: int = 0) -> None:
        self.windows = Windows(text, start)

    def __len__(self) -> int:
        return len(self.windows)

    def __getitem__(self, index: int) -> Batch:
        item = self.windows[index]
        return {"inputs": item["input_ids"], "labels": item["labels"]}


class MovedDigits(Dataset[Batch]):
    """Digits moved by up to a pixel, with some noise on top: another image each time, so none is learned by heart."""

    def __init__(self, held_out: bool, seed: int = 0, count: int = 10**6) -> None:
        digits = load_digits()
        images, labels = torch.tensor(digits.images, dtype=torch.float32) / 16, torch.tensor(digits.target)
        mine = torch.arange(len(labels)) % 5 == 0
        chosen = mine if held_out else ~mine
        self.images, self.labels = functional.pad(images[chosen], (1, 1, 1, 1)), labels[chosen]
        self.seed, self.count = seed, count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Batch:
        chance = torch.Generator().manual_seed(self.seed * self.count + index)
        which, down, right = (int(torch.randint(n, (), generator=chance)) for n in (len(self.labels), 3, 3))
        image = self.images[which, down : down + 8, right : right + 8]
        return {
            "inputs": (image + 0.3 * torch.randn(8, 8, generator=chance)).unsqueeze(0),
            "labels": self.labels[which],
        }


class Broken(pl.Callback):
    """Does something to the training from one step on, and tells nobody.

    Args:
        at: The step.
        data: What to do to a batch, given the batch and how many batches came since.
        step: What to do to the module and its optimizer right before a step, given how many came since.
    """

    def __init__(
        self,
        at: int,
        data: Callable[[Batch, int], None] | None = None,
        step: Callable[[Task, torch.optim.Optimizer, int], None] | None = None,
    ) -> None:
        self.at, self.data, self.step = at, data, step

    def on_train_batch_start(self, trainer: pl.Trainer, module: Any, batch: Batch, batch_idx: int) -> None:
        if self.data is not None and trainer.global_step >= self.at:
            self.data(batch, trainer.global_step - self.at)

    def on_before_optimizer_step(self, trainer: pl.Trainer, module: Any, optimizer: torch.optim.Optimizer) -> None:
        if self.step is not None and trainer.global_step >= self.at:
            self.step(module, optimizer, trainer.global_step - self.at)


@dataclass(frozen=True)
class Fault:
    """A way to break a training.

    Attributes:
        title: What is broken, for the table.
        causes: Likely causes that count as right.
        task: What is trained.
        data: What happens to the batches, from the random numbers of the seed.
        step: What happens before each optimizer step.
        unseen: Whether it happens after the monitor has looked at the learning rate.
        metric: What the monitor follows.
        warmup: Whether the learning rate warms up.
        peak: Its peak.
        resumed: Whether the run is resumed where the fault begins, without its optimizer state.
        with_history: Whether the monitor knows healthy runs of the same recipe.
    """

    title: str
    causes: tuple[str, ...]
    task: str = "bytes"
    data: Callable[[torch.Generator], Callable[[Batch, int], None]] | None = None
    step: Callable[[Task, torch.optim.Optimizer, int], None] | None = None
    unseen: bool = False
    metric: str | None = None
    warmup: bool = True
    peak: float = 4e-3
    resumed: bool = False
    with_history: bool = False


def scale_rate(factor: float) -> Callable[[Task, torch.optim.Optimizer, int], None]:
    """Multiply the rate of this one step; the scheduler sets it anew for the next."""

    def step(module: Task, optimizer: torch.optim.Optimizer, since: int) -> None:
        for group in optimizer.param_groups:
            group["lr"] *= factor

    return step


def scale_schedule(factor: float) -> Callable[[Task, torch.optim.Optimizer, int], None]:
    """Multiply the peak that the scheduler works from, once."""

    def step(module: Task, optimizer: torch.optim.Optimizer, since: int) -> None:
        scheduler: Any = module.lr_schedulers()
        if since == 0:
            scheduler.base_lrs = [base * factor for base in scheduler.base_lrs]

    return step


def freeze(module: Task, optimizer: torch.optim.Optimizer, since: int) -> None:
    """Train only what lies outside the blocks from here on."""
    for parameter in module.blocks.parameters():
        parameter.requires_grad_(False)
        parameter.grad = None


def shuffle_labels(chance: torch.Generator) -> Callable[[Batch, int], None]:
    """Labels of other samples."""

    def data(batch: Batch, since: int) -> None:
        batch["labels"][:] = batch["labels"][torch.randperm(len(batch["labels"]), generator=chance)]

    return data


def shuffle_some_labels(chance: torch.Generator) -> Callable[[Batch, int], None]:
    """Labels of other samples for a fifth of the batch."""

    def data(batch: Batch, since: int) -> None:
        some = len(batch["labels"]) // 5
        batch["labels"][:some] = batch["labels"][:some].roll(1, 0)

    return data


def repeat_few(chance: torch.Generator) -> Callable[[Batch, int], None]:
    """The same few batches again and again."""
    kept: list[Batch] = []

    def data(batch: Batch, since: int) -> None:
        size = len(batch["labels"])
        if len(kept) * size < FEW_WINDOWS:
            kept.append({name: part.clone() for name, part in batch.items()})
            return
        for name, part in kept[since % len(kept)].items():
            batch[name][:] = part

    return data


def corrupt(chance: torch.Generator) -> Callable[[Batch, int], None]:
    """For a tenth of the run a quarter of each batch is random bytes, inputs and labels."""

    def data(batch: Batch, since: int) -> None:
        if since < 0.1 * STEPS:
            for part in batch.values():
                bad = part[: len(part) // 4]
                bad[:] = torch.randint(0, 256, bad.shape, generator=chance)

    return data


def not_normalised(chance: torch.Generator) -> Callable[[Batch, int], None]:
    """Images as they came, from 0 to 16, instead of 0 to 1."""

    def data(batch: Batch, since: int) -> None:
        batch["inputs"] *= 16

    return data


def overflow(module: Task, optimizer: torch.optim.Optimizer, since: int) -> None:
    """Half precision whose loss scale grows until it overflows; steps with such a gradient are left out."""
    module.half_scale = 8000.0 * 1.002**since
    gradients = [parameter.grad for parameter in module.parameters() if parameter.grad is not None]
    if not all(bool(gradient.isfinite().all()) for gradient in gradients):
        for gradient in gradients:
            gradient.zero_()


def leak(chance: torch.Generator) -> Callable[[Batch, int], None]:
    """Half of each batch comes from the text held out for validation."""
    windows = Stretches(texts()[1])

    def data(batch: Batch, since: int) -> None:
        for row in range(len(batch["labels"]) // 2):
            item = windows[int(torch.randint(FEW_WINDOWS, (), generator=chance))]
            for name, part in item.items():
                batch[name][row] = part

    return data


RATE, DATA = "learning_rate", "data"

FAULTS = {
    "rate-x10": Fault("learning rate x 10", (RATE,), step=scale_rate(10)),
    "rate-/10": Fault("learning rate / 10", (RATE,), step=scale_rate(0.1)),
    "schedule-x10": Fault("peak of the schedule x 10", (RATE,), step=scale_schedule(10)),
    "unseen-x10": Fault("rate x 10 where nobody sees", (RATE, "precision"), step=scale_rate(10), unseen=True),
    "labels": Fault("labels shuffled", (DATA,), data=shuffle_labels),
    "some-labels": Fault("a fifth of the labels wrong", (DATA,), data=shuffle_some_labels, task="digits"),
    "frozen": Fault("blocks frozen", ("frozen_layers",), step=freeze),
    "repeats": Fault("few batches again and again", ("repeated_data",), data=repeat_few),
    "corrupted": Fault("a shard corrupted", (DATA,), data=corrupt),
    "normalisation": Fault("input not normalised", (DATA,), data=not_normalised, task="digits"),
    "overflow": Fault("half precision overflows", ("precision",), step=overflow),
    "optimizer": Fault("optimizer state lost at resume", ("optimizer_state",), resumed=True),
    "warm-up": Fault("no warm-up", ("warmup",), warmup=False, peak=STEEP, with_history=True),
    "leak": Fault("validation text leaks", ("leak",), data=leak, metric="val_loss"),
}
HEALTHY = {
    "bytes": Fault("healthy: bytes", ()),
    "digits": Fault("healthy: digits", (), task="digits"),
    "val_loss": Fault("healthy: bytes, val_loss", (), metric="val_loss"),
    "steep": Fault("healthy: bytes, high rate", (), peak=STEEP),
    "relatives": Fault("healthy: the same with history", (), peak=STEEP, with_history=True),
    "resumed": Fault("healthy: bytes, resumed", (), resumed=True),
}


@cache
def texts() -> tuple[Tensor, Tensor]:
    return library_text()


def loaders(task: str, seed: int) -> tuple[DataLoader[Batch], DataLoader[Batch]]:
    """Data to train on and to validate on."""
    if task == "digits":
        return DataLoader(MovedDigits(False, seed), BATCH), DataLoader(MovedDigits(True, count=512), BATCH)
    training, held_out = texts()
    return DataLoader(Stretches(training, start=seed * 4999), BATCH, drop_last=True), DataLoader(
        Stretches(held_out), BATCH
    )


def trainer_of(callbacks: list[pl.Callback], steps: int, total: int, fault: Fault, out: str) -> pl.Trainer:
    validated = fault.metric is not None
    trainer = pl.Trainer(
        max_steps=total,
        callbacks=callbacks,
        logger=False,
        val_check_interval=total // 80,
        check_val_every_n_epoch=None,
        limit_val_batches=FEW_WINDOWS // BATCH if validated else 0,
        num_sanity_val_steps=0,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        gradient_clip_val=1.0,
        accelerator="cpu",
        default_root_dir=out,
    )
    return trainer


class StopAt(pl.Callback):
    """Ends a fit early, as a machine that is taken away; leaves a checkpoint."""

    def __init__(self, at: int, path: Path) -> None:
        self.at, self.path = at, path

    def on_train_batch_end(self, trainer: pl.Trainer, *others: Any) -> None:
        if trainer.global_step == self.at:
            trainer.save_checkpoint(self.path)
            trainer.should_stop = True


def train(
    name: str, fault: Fault, seed: int, steps: int, history: RunHistory | None = None
) -> tuple[dict[str, Any], Run | None]:
    """Train once, broken as told, and say what the monitor said."""
    pl.seed_everything(seed, verbose=False)
    begun = time.perf_counter()
    at = 1 if not fault.warmup else round(BEGINS * steps)
    module: Task = {"bytes": Bytes, "digits": Digits}[fault.task](fault.warmup, fault.peak)
    chance = torch.Generator().manual_seed(seed)
    data = None if fault.data is None else fault.data(chance)
    broken = [Broken(at, data, fault.step)] if data or fault.step else []
    known = history if fault.with_history and history is not None else False

    def new_monitor() -> ScalingLawMonitor:
        return ScalingLawMonitor(fault.metric, history=known, on_advice="ignore", journal=False, max_overhead=1)

    monitor = new_monitor()
    callbacks = [monitor, *broken] if fault.unseen else [*broken, monitor]
    with tempfile.TemporaryDirectory() as out:
        training, held_out = loaders(fault.task, seed)
        if fault.resumed:
            path = Path(out) / "half.ckpt"
            trainer_of([*callbacks, StopAt(at, path)], at, steps, fault, out).fit(module, training, held_out)
            if name in FAULTS:
                kept = torch.load(path, weights_only=False)
                kept["optimizer_states"] = []
                torch.save(kept, path)
            module, monitor = type(module)(fault.warmup, fault.peak), new_monitor()
            training, held_out = loaders(fault.task, seed + 1000)
            trainer_of([monitor], steps, steps, fault, out).fit(module, training, held_out, ckpt_path=path)
        else:
            trainer_of(callbacks, steps, steps, fault, out).fit(module, training, held_out)
    told = [advice for advice in monitor.advice_log if advice.action in ("investigate", "stop")]
    after = [advice for advice in told if advice.step >= at]
    first = after[0] if after else None
    kinds = [row for row in monitor.forecast_log if first is not None and row["step"] == first.step]
    run = monitor.run
    return {
        "name": name,
        "title": fault.title,
        "seed": seed,
        "steps": steps,
        "began": at,
        "flagged": None if first is None else first.step,
        "delay": None if first is None else (first.step - at) / steps,
        "early": [advice.step for advice in told if advice.step < at],
        "kind": None if first is None else first.evidence.get("kind"),
        "cause": None if first is None else first.evidence.get("cause"),
        "reason": "" if first is None else first.reason,
        "said": [[advice.step, advice.action, advice.reason] for advice in monitor.advice_log],
        "final": float(run.loss[-1]) if run is not None else math.nan,
        "e_value": kinds[0]["e_value"] if kinds else None,
        "seconds": time.perf_counter() - begun,
    }, run
