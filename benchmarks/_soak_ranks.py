"""Several processes of one run whose data end at different batches, or that stop or fail on one of them alone."""

from __future__ import annotations

import faulthandler
import json
import os
import random
import signal
import socket
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from _soak_process import Result
from _soak_training import checkpoint, digest
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.utils.data import DataLoader, IterableDataset

from lightning_scaling.callbacks import ResizeAdvisor, ScalingEarlyStopping, ScalingLawMonitor

WITHIN = 25.0  # seconds; a bare training of this size takes two


class Stream(IterableDataset[torch.Tensor]):
    """As many batches as it is given, whose number Lightning does not know."""

    def __init__(self, batches: int) -> None:
        self.batches = batches

    def __iter__(self) -> Iterator[torch.Tensor]:
        draw = torch.Generator().manual_seed(0)
        for _ in range(self.batches):
            yield torch.randn(4, 4, generator=draw)


class Model(pl.LightningModule):
    """Linear; raises, or asks to stop, on one rank at one batch."""

    def __init__(self, case: dict[str, Any]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = torch.nn.Linear(4, 1)
        self.case, self.seen = case, 0

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        self.seen += 1
        if self.case.get("raises") == [self.global_rank, self.seen]:
            raise RuntimeError("a rank fails")
        if self.case.get("stops") == self.seen:
            self.trainer.should_stop = True
        return self.net(batch).square().mean()

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_loss", self.net(batch).square().mean(), sync_dist=True)

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.01)


def draw_case(drawing: random.Random) -> dict[str, Any]:
    """A training on two or four ranks, mostly with streams of different lengths."""
    world = drawing.choice([2, 2, 2, 4])
    shortest = drawing.randrange(3, 12)
    case: dict[str, Any] = {
        "world": world,
        "batches": [shortest + drawing.choice([0, 0, 1, 2, 5]) for _ in range(world)],
        "epochs": drawing.randrange(1, 5),
        "accumulate": drawing.choice([1, 1, 2, 3]),
        "validation": drawing.random() < 0.3,
        "monitor": drawing.choice([None, None, "val_loss"]),
    }
    fault = drawing.choice(["none", "none", "none", "raises", "stops", "steps"])
    if fault == "raises":
        case["raises"] = [drawing.randrange(world), drawing.randrange(1, 2 * shortest)]
    elif fault == "stops":
        case["stops"] = drawing.randrange(1, 2 * shortest)
    elif fault == "steps":
        case["steps"] = drawing.randrange(1, 2 * shortest)
    case["monitor"] = case["monitor"] if case["validation"] else None
    return case


def _rank(case: dict[str, Any], rank: int, port: int, folder: Path, monitored: bool) -> None:
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(case["world"])}
    os.environ |= {"LOCAL_RANK": str(rank), "NODE_RANK": "0", "RANK": str(rank), "GLOO_SOCKET_IFNAME": "lo"}
    watched: list[pl.Callback] = []
    if monitored:
        settings = {"max_overhead": 1.0, "on_advice": "ignore", "monitor": case["monitor"], "target": 1e-9}
        watched = [ScalingLawMonitor(**settings), ScalingEarlyStopping(min_steps=10_000), ResizeAdvisor()]
    saving = ModelCheckpoint(folder / "checkpoints", filename="{step}", every_n_train_steps=2, save_top_k=-1)
    trainer = pl.Trainer(
        accelerator="cpu",
        devices=case["world"],
        strategy="ddp",
        max_epochs=case["epochs"],
        max_steps=case.get("steps", -1),
        accumulate_grad_batches=case["accumulate"],
        callbacks=[*watched, saving],
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
    )
    left: dict[str, Any] = {"error": ""}
    try:
        stream = DataLoader(Stream(case["batches"][rank]), batch_size=None)
        trainer.fit(Model(case), stream, DataLoader(Stream(3), batch_size=None) if case["validation"] else None)
    except Exception as error:
        left["error"] = type(error).__name__
    left |= {"step": trainer.global_step, "weights": digest(trainer.lightning_module.state_dict())}
    (folder / f"{rank}.json").write_text(json.dumps(left))


def outcome(case: dict[str, Any], folder: Path, *, monitored: bool) -> dict[str, Any] | None:
    """What the ranks leave behind; ``None`` if they do not all end."""
    folder.mkdir(parents=True)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    children = []
    for rank in range(case["world"]):
        child = os.fork()
        if not child:
            status = 1
            try:
                torch.set_num_threads(1)  # threads of the parent are not there
                os.setpgid(0, 0)
                sys.stdout = sys.stderr = (folder / f"{rank}.log").open("w")
                faulthandler.dump_traceback_later(WITHIN - 5, file=sys.stderr)
                _rank(case, rank, port, folder, monitored)
                status = 0
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stdout.flush()
                os._exit(status)
        children.append(child)
    until, exits = time.monotonic() + WITHIN, {}
    while len(exits) < len(children) and time.monotonic() < until:
        for rank, child in enumerate(children):
            if rank not in exits:
                done, status = os.waitpid(child, os.WNOHANG)
                if done:
                    exits[rank] = status
        time.sleep(0.02)
    for rank, child in enumerate(children):
        if rank not in exits:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
    if len(exits) < len(children):
        return None
    saved = {path.name: checkpoint(path) for path in sorted((folder / "checkpoints").glob("*.ckpt"))}
    ends = {f"rank {rank}": [exits[rank], _left(folder / f"{rank}.json")] for rank in exits}
    return {**ends, "checkpoints": saved}


def _left(path: Path) -> Any:
    return json.loads(path.read_text()) if path.exists() else None


def uneven(tries: int, seed: int = 0) -> Result:
    """Trainings that end without the callbacks end alike with them: exit code, last step, weights and checkpoints."""
    drawing = random.Random(seed)
    lost, done = [], 0
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        while done < tries:
            case = draw_case(drawing)
            folder = root / f"{drawing.random()}"
            bare = outcome(case, folder / "bare", monitored=False)
            if bare is None:
                continue  # Lightning itself does not end it
            done += 1
            found = outcome(case, folder / "with", monitored=True)
            if found is None:
                lost.append(f"{case}: does not end")
            elif wrong := [key for key, value in bare.items() if found[key] != value]:
                lost.append(f"{case}: {', '.join(wrong)} differ: {found[wrong[0]]} for {bare[wrong[0]]}")
    return done, lost
