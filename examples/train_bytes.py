"""Train a small byte-level GPT on Python's own standard library, and know on the way where its loss will land.

    python examples/train_bytes.py                       # a healthy run, about two minutes on two cores
    python examples/train_bytes.py --schedule wsd
    python examples/train_bytes.py --fault lr-spike      # break it part-way and see what is said

The model and the training are ordinary Lightning code; the only line that is about forecasting is
`callbacks=[ScalingLawMonitor()]`. The text is read from the Python that runs this script: nothing is downloaded.
"""

from __future__ import annotations

import argparse
import hashlib
import logging
import math
import os
import sys
import sysconfig
import time
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset

CONTEXT = 32
BATCH = 64
PEAK_RATE = 4e-3
# A run that stops learning shows only by the fall it misses, and late in a run that fall is lost in the noise.
FAULT_AT = {"lr-spike": 0.5, "bad-data": 0.5, "frozen": 0.2}
SKIPPED_FOLDERS = {"site-packages", "dist-packages", "test", "tests", "idle_test", "encodings", "pydoc_data"}


def library_text() -> tuple[Tensor, Tensor]:
    """The standard library's source as bytes in a fixed order, and the one file in twenty that is held out."""
    root = Path(sysconfig.get_paths()["stdlib"])
    parts: tuple[list[bytes], list[bytes]] = ([], [])
    for file in sorted(root.rglob("*.py")):
        name = file.relative_to(root)
        if not SKIPPED_FOLDERS.intersection(name.parts):
            held_out = hashlib.sha256(name.as_posix().encode()).digest()[0] < 13
            parts[held_out].append(file.read_bytes())
    training, held_out_text = (torch.frombuffer(bytearray(b"\n".join(part)), dtype=torch.uint8) for part in parts)
    if len(training) < 2_000_000:
        sys.exit(f"Only {len(training):,} bytes of Python source were found below {root}; this demo needs 2 million.")
    return training, held_out_text


class Windows(Dataset[dict[str, Tensor]]):
    """Stretches of text that do not overlap; the label of every byte is the byte after it.

    They come in strides of the golden ratio through the whole text: none twice in an epoch, and every batch is an even
    sample of all files.
    """

    def __init__(self, text: Tensor, start: int = 0) -> None:
        self.text, self.start = text, start
        self.count = (len(text) - 1) // CONTEXT
        self.stride = round(self.count * (math.sqrt(5) - 1) / 2)
        while math.gcd(self.stride, self.count) > 1:
            self.stride += 1

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        place = (self.start + index * self.stride) % self.count * CONTEXT
        piece = self.text[place : place + CONTEXT + 1].long()
        return {"input_ids": piece[:-1], "labels": piece[1:]}


class Block(nn.Module):
    """Pre-norm causal self-attention, then a pre-norm feed-forward layer."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm_attention = nn.LayerNorm(width)
        self.query_key_value = nn.Linear(width, 3 * width, bias=False)
        self.project = nn.Linear(width, width, bias=False)
        self.norm_feed = nn.LayerNorm(width)
        self.feed = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        batch, length, width = x.shape
        split = self.query_key_value(self.norm_attention(x)).view(batch, length, 3, self.heads, width // self.heads)
        query, key, value = split.permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        x = x + self.project(mixed.transpose(1, 2).reshape(batch, length, width))
        return x + self.feed(self.norm_feed(x))


class ByteGPT(nn.Module):
    """A decoder-only transformer over the 256 bytes, input and output embeddings shared."""

    def __init__(self, width: int, layers: int, heads: int) -> None:
        super().__init__()
        self.bytes = nn.Embedding(256, width)
        self.positions = nn.Embedding(CONTEXT, width)
        self.blocks = nn.Sequential(*(Block(width, heads) for _ in range(layers)))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, 256, bias=False)
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=0.02)
        self.head.weight = self.bytes.weight

    def forward(self, tokens: Tensor) -> Tensor:
        places = torch.arange(tokens.shape[1], device=tokens.device)
        return self.head(self.norm(self.blocks(self.bytes(tokens) + self.positions(places))))


def rate(step: int, total: int, schedule: str) -> float:
    """Share of the peak rate: 5 % warm-up, then a cosine down to a tenth, or steady and a last fifth of decay."""
    warmup = max(1, round(0.05 * total))
    if step < warmup:
        return (step + 1) / warmup
    if schedule == "cosine":
        return 0.1 + 0.45 * (1 + math.cos(math.pi * (step - warmup) / max(1, total - warmup)))
    return min(1.0, 0.1 + 0.9 * (total - step) / (0.2 * total))


def main() -> None:
    options = arguments()
    out = Path(options.out)
    out.mkdir(parents=True, exist_ok=True)
    started = time.perf_counter()
    print("Loading Lightning and MLflow ...", flush=True)

    import mlflow  # noqa: F401  (the first import decides what it logs, so it comes before quiet())
    import pytorch_lightning as pl
    from pytorch_lightning.loggers import MLFlowLogger

    from lightning_scaling.callbacks import ScalingLawMonitor

    quiet()

    class LanguageModel(pl.LightningModule):
        def __init__(self, width: int, layers: int, heads: int) -> None:
            super().__init__()
            self.save_hyperparameters()
            self.model = ByteGPT(width, layers, heads)

        def loss(self, batch: dict[str, Tensor]) -> Tensor:
            return functional.cross_entropy(self.model(batch["input_ids"]).flatten(0, 1), batch["labels"].flatten())

        def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
            loss = self.loss(batch)
            self.log("train_loss", loss)
            return loss

        def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
            self.log("val_loss", self.loss(batch))

        def configure_optimizers(self) -> dict[str, Any]:
            optimizer = torch.optim.AdamW(
                self.parameters(), lr=PEAK_RATE, betas=(0.9, 0.95), weight_decay=0.1, fused=True
            )
            scheduler = torch.optim.lr_scheduler.LambdaLR(
                optimizer, lambda step: rate(step, options.steps, options.schedule)
            )
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    class Fault(pl.Callback):
        """Breaks a healthy run from one step on, in a way that nobody announces to the monitor."""

        def __init__(self, kind: str, at: int) -> None:
            self.kind, self.at = kind, at
            self.noise = torch.Generator().manual_seed(options.seed)

        def on_train_batch_start(
            self, trainer: pl.Trainer, module: pl.LightningModule, batch: dict[str, Tensor], batch_idx: int
        ) -> None:
            if self.kind == "bad-data" and trainer.global_step >= self.at:
                damaged = BATCH // 8
                for part in batch.values():
                    part[:damaged] = torch.randint(0, 256, (damaged, CONTEXT), generator=self.noise)

        def on_before_optimizer_step(
            self, trainer: pl.Trainer, module: pl.LightningModule, optimizer: torch.optim.Optimizer
        ) -> None:
            if trainer.global_step < self.at:
                return
            if self.kind == "lr-spike":
                for group in optimizer.param_groups:
                    group["lr"] *= 30
            elif self.kind == "frozen":
                for parameter in module.parameters():
                    parameter.grad = None

    torch.set_num_threads(1)  # matrices this small are slower when threads share them
    pl.seed_everything(options.seed, verbose=False)
    training, held_out = library_text()
    module = LanguageModel(width=32, layers=2, heads=2)
    size = sum(parameter.numel() for parameter in module.parameters())
    print(
        f"{size:,} parameters, {len(training):,} bytes of Python source, {options.steps:,} steps of {BATCH} x {CONTEXT}"
    )

    print("Preparing the MLflow database (the first time takes some seconds) ...", flush=True)
    logger = MLFlowLogger(
        experiment_name="train-bytes",
        run_name=f"{options.schedule}{'-' + options.fault if options.fault else ''}",
        tracking_uri=f"sqlite:///{out / 'mlflow.db'}",
        artifact_location=(out / "artifacts").resolve().as_uri(),
    )
    monitor = ScalingLawMonitor()
    fault_step = round(FAULT_AT.get(options.fault, 1.0) * options.steps)
    trainer = pl.Trainer(
        max_steps=options.steps,
        callbacks=[*([Fault(options.fault, fault_step)] if options.fault else []), monitor],
        logger=logger,
        val_check_interval=max(1, options.steps // 8),
        check_val_every_n_epoch=None,
        limit_val_batches=8,
        num_sanity_val_steps=0,
        log_every_n_steps=max(1, options.steps // 120),
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        gradient_clip_val=1.0,
        accelerator="cpu",
        default_root_dir=out,
    )
    trainer.fit(
        module,
        DataLoader(Windows(training, start=options.seed), BATCH, drop_last=True),
        DataLoader(Windows(held_out), BATCH),
    )
    close(options, monitor, out, fault_step)
    print(f"\nTook {time.perf_counter() - started:.0f} s. Open it with")
    program = os.path.relpath(Path(sys.executable).parent / "mlflow")
    print(f"    {program} ui --backend-store-uri sqlite:///{out / 'mlflow.db'}")
    page = f"#/experiments/{logger.experiment_id}/runs/{logger.run_id}?workflowType=machine_learning"
    print(f"and go to\n    http://127.0.0.1:5000/{page}")


def close(options: argparse.Namespace, monitor: Any, out: Path, fault_step: int) -> None:
    """What was forecast against what came, what was advised and when, and the figures."""
    from rich.console import Console

    from lightning_scaling.report import forecast_figure, loss_compute_figure

    console = Console(highlight=False)
    notable = [advice for advice in monitor.advice_log if advice.action != "continue"]
    if options.fault:
        console.print(f"\n[bold]The fault `{options.fault}` began at step {fault_step:,}.[/bold]")
        seen = [advice for advice in notable if advice.step >= fault_step]
        if seen:
            late = (seen[0].step - fault_step) / options.steps
            console.print(f"First said at step {seen[0].step:,}, {late:.1%} of the run after it began.")
        else:
            console.print("Nothing was said about it.")
    for advice in notable:
        console.print(f"step {advice.step:,}: [bold]{advice.action}[/bold]. {advice.reason}")
    console.print("\n[bold]Forecasts of the final loss against what came[/bold]")
    if options.fault:
        console.print("(those made before the fault are of the run as it would have been)")
    console.print(ledger_table(monitor.forecast_log))
    if not notable:
        console.print("Advice throughout: continue.")

    folder = Path(options.figures or out)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "forecast.png").write_bytes(forecast_figure(monitor.run, monitor.forecast_log))
    (folder / "loss_vs_compute.png").write_bytes(loss_compute_figure(monitor.run, monitor.forecast_log))
    console.print(f"\nFigures: {folder / 'forecast.png'}, {folder / 'loss_vs_compute.png'}")


def ledger_table(ledger: list[dict[str, Any]]) -> Any:
    """The forecasts made at 25, 50 and 75 % of the run, next to what came."""
    from rich.table import Table

    from lightning_scaling.report.forecast_table import checkpoints, digits, forecasts, known, percent

    table = Table(box=None, header_style="", padding=(0, 3, 0, 0))
    for name in ("seen", "step", "forecast", "90% interval", "came", "error", "trust"):
        table.add_column(name, justify="left" if name == "trust" else "right")
    for row in checkpoints(forecasts(ledger)):
        came = known(row, "outcome")
        table.add_row(
            f"{row['fraction']:.0%}",
            f"{row['step']:,}",
            digits(row["final"]),
            f"{digits(row['lower'])} to {digits(row['upper'])}",
            "nothing" if came is None else digits(came),
            percent(row["error"]),
            row["trust"],
        )
    return table


def quiet() -> None:
    """Let the monitor's own log lines through and leave out what the libraries say about this machine."""
    ours = logging.getLogger("lightning_scaling")
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(logging.Formatter("%(message)s"))
    ours.addHandler(handler)
    ours.setLevel(logging.INFO)
    ours.propagate = False
    for name in ("pytorch_lightning", "lightning_fabric", "lightning.pytorch", "lightning.fabric", "mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="pytorch_lightning")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Train a byte-level GPT and watch where its loss will land.")
    parser.add_argument("--steps", type=int, help="optimizer steps (default 9000; 600 with --quick)")
    parser.add_argument("--schedule", choices=["cosine", "wsd"], default="cosine")
    parser.add_argument("--fault", choices=["lr-spike", "bad-data", "frozen"], help="break the run part-way")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="few steps, to see that it runs")
    parser.add_argument("--out", default="demo-output", help="folder for the MLflow database and the figures")
    parser.add_argument("--figures", help="folder for the two figures instead of --out")
    options = parser.parse_args()
    options.steps = options.steps or (600 if options.quick else 9000)
    if options.steps < 20:
        parser.error(f"--steps must be at least 20, but got {options.steps}.")
    return options


if __name__ == "__main__":
    main()
