"""Trainings killed at any moment: what the run knows after a resume, and what its journal holds."""

from __future__ import annotations

import json
import random
import tempfile
import time
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from _soak_process import Result, forked
from _soak_training import digest, past_runs
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.utils.data import DataLoader, TensorDataset

from lightning_scaling import Run
from lightning_scaling.callbacks import ScalingLawMonitor
from lightning_scaling.tracking import read_journal

EPOCHS, BATCHES, SIZE, SAVE_EVERY = 60, 5, 16, 3


class Regression(pl.LightningModule):
    """Without randomness, so that a resumed training is the uninterrupted one to the bit."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.net = torch.nn.Sequential(torch.nn.Linear(8, 32), torch.nn.Tanh(), torch.nn.Linear(32, 1))

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        return torch.nn.functional.mse_loss(self.net(batch[0]), batch[1])

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.AdamW(self.parameters(), lr=0.01)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, EPOCHS * BATCHES)
        return [optimizer], [{"scheduler": schedule, "interval": "step"}]


def _data() -> DataLoader[Any]:
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(BATCHES * SIZE, 8, generator=draw)
    y = torch.sin(x @ torch.randn(8, 1, generator=draw)) + 0.1 * torch.randn(len(x), 1, generator=draw)
    return DataLoader(TensorDataset(x, y), batch_size=SIZE)


def train(folder: Path, *, resume: Path | None = None) -> dict[str, Any]:
    """Train to the end; what is known of the run afterwards."""
    monitor = ScalingLawMonitor(max_overhead=1.0, on_advice="ignore", history=past_runs(), journal=folder / "journals")
    saving = ModelCheckpoint(folder / "checkpoints", every_n_epochs=SAVE_EVERY, save_top_k=-1, filename="{step:06d}")
    trainer = pl.Trainer(
        max_epochs=EPOCHS,
        callbacks=[monitor, saving],
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
    )
    trainer.fit(Regression(), _data(), ckpt_path=resume)
    return known(monitor) | {"weights": digest(trainer.lightning_module.state_dict())}


def known(monitor: ScalingLawMonitor) -> dict[str, Any]:
    """What a monitor knows of a run, but for the clock."""
    run, forecast = monitor.run, monitor.forecast
    return {
        "curve": digest([np.asarray(run.step), np.asarray(run.loss), np.asarray(run.lr)]),
        "counters": digest([run.tokens_per_step, run.flops_per_step, run.params, run.total_steps]),
        "forecast": [float(forecast.final), *map(float, forecast.interval(0.9)), forecast.trust],
        "forecasts": digest([repr(monitor.forecast_log)]),
        "evidence": monitor.deviation.e_value,
        "advice": [[one.step, one.action, str(one.code)] for one in monitor.advice_log],
    }


def _newest(folder: Path) -> Path | None:
    for path in sorted((folder / "checkpoints").glob("*.ckpt"), reverse=True):
        try:
            torch.load(path, weights_only=False)
        except Exception:  # killed while Lightning wrote it
            continue
        return path
    return None


def killed(tries: int, seed: int = 0) -> Result:
    """Kill at random moments, resume from the last checkpoint: what is known is what the uninterrupted run knows.

    Its words need not be the same: a resume shortly before a fault is named as a likely cause.
    """
    drawing = random.Random(seed)
    lost = []
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        begun = time.monotonic()
        if said := forked(lambda: train(root / "whole"), root / "whole.json"):
            return tries, [f"the uninterrupted run: {said}"] * tries
        duration = time.monotonic() - begun
        whole, journal = json.loads((root / "whole.json").read_text()), _journal(root / "whole")
        done = 0
        while done < tries:
            folder, result = root / f"{done}", root / f"{done}.json"
            if forked(lambda to=folder: train(to), result, drawing.uniform(0, duration)) != "killed":
                continue  # it had ended
            done += 1
            last = _newest(folder)
            # Of a run killed after its last checkpoint nothing is trained again: the journal may end before.
            final = folder / "checkpoints" / f"step={EPOCHS * BATCHES:06d}.ckpt"
            if said := forked(lambda to=folder, at=last: train(to, resume=at), result):
                lost.append(f"kill {done}: {said}")
                continue
            found = json.loads(result.read_text())
            wrong = [f"{key} {value} for {whole[key]}" for key, value in found.items() if value != whole[key]]
            rows = _journal(folder)
            if rows != journal and not (last == final and rows == journal[: len(rows)]):
                wrong.append("curve of the journal")
            if wrong:
                lost.append(f"kill {done} (resumed from {last and last.name}): {'; '.join(wrong)}")
    return tries, lost


def _journal(folder: Path) -> list[list[float]]:
    """The curve that the newest journal holds; nothing if more than its last line is cut."""
    newest = max((folder / "journals").glob("*.jsonl"), key=lambda path: path.stat().st_mtime)
    contents = read_journal(newest)
    if contents.damaged > 1:
        return []
    run = Run.from_journal(newest)
    return np.stack([run.step, run.loss, run.lr], axis=1).tolist()
