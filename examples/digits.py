"""Scikit-learn's handwritten digits with a small convolutional network; the monitor is one added line.

    python examples/digits.py

Nothing is downloaded: the 1,797 images come with scikit-learn. Metrics go to a local MLflow database in demo-output/.
"""

from __future__ import annotations

import argparse
import logging
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers import MLFlowLogger
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset, random_split

from lightning_scaling.callbacks import ScalingLawMonitor


class Digits(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.model = nn.Sequential(
            nn.Conv2d(1, 32, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(32, 64, 3, padding=1),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(64 * 16, 10),
        )
        self.criterion = nn.CrossEntropyLoss(label_smoothing=0.1)

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        images, labels = batch
        return self.criterion(self.model(images), labels)

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        images, labels = batch
        self.log("val_accuracy", (self.model(images).argmax(1) == labels).float().mean())

    def configure_optimizers(self) -> dict[str, Any]:
        optimizer = torch.optim.SGD(self.parameters(), lr=0.05, momentum=0.9)
        steps = int(self.trainer.estimated_stepping_batches)
        scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


def main() -> None:
    parser = argparse.ArgumentParser(description="Train a small network on handwritten digits, watched.")
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--out", type=Path, default=Path("demo-output"))
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    logging.basicConfig(format="%(message)s")
    logging.getLogger("lightning_scaling").setLevel(logging.INFO)

    pl.seed_everything(0, verbose=False)
    digits = load_digits()
    images = torch.tensor(digits.images, dtype=torch.float32).unsqueeze(1) / 16
    training, held_out = random_split(TensorDataset(images, torch.tensor(digits.target)), [0.8, 0.2])
    trainer = pl.Trainer(
        max_epochs=options.epochs,
        callbacks=[ScalingLawMonitor()],  # the one added line
        logger=MLFlowLogger("digits", tracking_uri=f"sqlite:///{options.out / 'mlflow.db'}"),
        accelerator="cpu",
        log_every_n_steps=10,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        default_root_dir=options.out,
    )
    trainer.fit(Digits(), DataLoader(training, 64, shuffle=True), DataLoader(held_out, 256))
    print(f"held-out accuracy {float(trainer.callback_metrics['val_accuracy']):.1%}")


if __name__ == "__main__":
    main()
