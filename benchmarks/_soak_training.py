"""A small training that draws from every random generator and keeps checkpoints, and what is left of it."""

from __future__ import annotations

import hashlib
import logging
import pickle
import random
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from torch.utils.data import DataLoader, TensorDataset

from lightning_scaling import Run, RunHistory
from lightning_scaling.callbacks import ResizeAdvisor, ScalingEarlyStopping, ScalingLawMonitor

EPOCHS, BATCH, SAMPLES, SAVE_EVERY = 2, 8, 96, 8
STEPS = EPOCHS * SAMPLES // BATCH


def quiet() -> None:
    """One thread, and no output but the table."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    for name in ("lightning.pytorch", "pytorch_lightning", "lightning.fabric", "lightning_scaling"):
        logging.getLogger(name).setLevel(logging.CRITICAL)


class Net(pl.LightningModule):
    """Dropout, and noise from the global generators of Python, NumPy and torch."""

    def __init__(self) -> None:
        super().__init__()
        self.net = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Dropout(0.1), torch.nn.Linear(8, 2))

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        noise = 1 + 0.01 * random.random() + 0.01 * np.random.rand()
        loss = self.net(batch[0] + 0.01 * torch.randn_like(batch[0])).square().mean() * noise
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_loss", self.net(batch[0]).square().mean())

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.parameters(), lr=0.05, momentum=0.9)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
        return [optimizer], [{"scheduler": schedule, "interval": "step"}]


def loader() -> DataLoader[Any]:
    """The data, in a fixed order."""
    samples = torch.randn(SAMPLES, 4, generator=torch.Generator().manual_seed(0))
    return DataLoader(TensorDataset(samples), batch_size=BATCH)


def past_runs() -> RunHistory:
    """A few finished runs, so that the code that learns from them is reached."""
    step = np.arange(1, 201)
    curves = [2 + 3 * step**-0.4 * (1 + 0.01 * i) for i in range(4)]
    lr = np.full(step.size, 0.05)
    return RunHistory(
        [
            Run(step, loss, lr, total_steps=200, name=f"r{i}", params=50 + i, tokens_per_step=8)
            for i, loss in enumerate(curves)
        ]
    )


def callbacks(**settings: Any) -> list[pl.Callback]:
    """All three callbacks, with everything on."""
    settings = {"target": 0.01, "max_overhead": 1.0, "history": past_runs(), "on_advice": "log", **settings}
    return [ScalingLawMonitor(**settings), ScalingEarlyStopping(min_steps=10 * STEPS), ResizeAdvisor()]


def train(
    folder: Path, extra: Sequence[pl.Callback] = (), *, resume: Path | None = None, **settings: Any
) -> pl.Trainer:
    """Train in a folder; checkpoints lie in its ``checkpoints``."""
    torch.manual_seed(0)
    random.seed(0)
    np.random.seed(0)
    saving = ModelCheckpoint(
        dirpath=folder / "checkpoints", every_n_train_steps=SAVE_EVERY, save_top_k=-1, filename="{step}"
    )
    usual = {"logger": CSVLogger(folder / "csv"), "max_epochs": EPOCHS, "log_every_n_steps": 4}
    settings = {**usual, "default_root_dir": folder, **settings}
    trainer = pl.Trainer(
        callbacks=[*extra, saving],
        accelerator="cpu",
        enable_progress_bar=False,
        enable_model_summary=False,
        **settings,
    )
    data = loader()
    trainer.fit(Net(), data, data, ckpt_path=resume)
    return trainer


def digest(value: Any) -> str:
    """A short hash of tensors, arrays and builtins."""
    return hashlib.sha256(pickle.dumps(_plain(value))).hexdigest()[:16]


def _plain(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return (str(value.dtype), tuple(value.shape), value.detach().cpu().contiguous().numpy().tobytes())
    if isinstance(value, np.ndarray):
        return (str(value.dtype), value.shape, value.tobytes())
    if isinstance(value, dict):
        return [(str(key), _plain(part)) for key, part in value.items()]
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    return repr(value)


def generators() -> dict[str, str]:
    """The states of the global generators."""
    return {
        "python": digest(random.getstate()),
        "numpy": digest(np.random.get_state()),
        "torch": digest(torch.get_rng_state()),
    }


def checkpoint(path: Path) -> str:
    """A hash of a checkpoint without what callbacks keep in it."""
    contents = torch.load(path, weights_only=False)
    kept = {key: value for key, value in contents.items() if key != "callbacks"}
    return digest(kept)


def outcome(trainer: pl.Trainer, folder: Path) -> dict[str, Any]:
    """What a user has after a training: equal with and without the callbacks."""
    saved = {path.name: checkpoint(path) for path in sorted((folder / "checkpoints").glob("*.ckpt"))}
    return {
        "step": trainer.global_step,
        "stopped": trainer.should_stop,
        "weights": digest(trainer.lightning_module.state_dict()),
        "optimizer": digest([one.state_dict() for one in trainer.optimizers]),
        "checkpoints": saved,
        **generators(),
    }


def difference(expected: dict[str, Any], found: dict[str, Any]) -> str:
    """Names of what differs, for the table; empty if nothing does."""
    return ", ".join(name for name, value in expected.items() if found.get(name) != value)
