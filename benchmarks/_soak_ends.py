"""Ends of trainings: exceptions, signals and work that does not return."""

from __future__ import annotations

import json
import os
import signal
import socket
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import lightning.pytorch as pl
import torch
from _soak_process import Result, forked
from _soak_training import checkpoint
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.loggers import Logger
from torch.utils.data import DataLoader

from lightning_scaling import report
from lightning_scaling.callbacks import ScalingLawMonitor
from lightning_scaling.engine.monitor import Monitor
from lightning_scaling.laws import run_fit

STEPS, FAILS_AT = 60, 41
SLACK = 0.5  # seconds that a busy machine may add to a deadline
INTERRUPTED_WITHIN, ENDED_WITHIN = 1.0, 8.0  # as the callback states them
FOREVER = 120.0


class Model(pl.LightningModule):
    """Linear; one batch raises, or has the process interrupted."""

    def __init__(self, fault: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net, self.fault = torch.nn.Linear(8, 4), fault
        self.marks: dict[str, float] = {}

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        if self.global_step == FAILS_AT and self.fault:
            self.marks["raised"] = time.monotonic()
            if self.fault == "SIGTERM":
                os.kill(os.getpid(), signal.SIGTERM)
            else:
                raise {"RuntimeError": RuntimeError, "KeyboardInterrupt": KeyboardInterrupt}[self.fault]("a fault")
        return self.net(batch).square().mean()

    def on_train_batch_end(self, *_: Any) -> None:
        self.marks["last"] = time.monotonic()

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.01)


class Emergency(Checkpoint):
    """Saves a checkpoint at an exception, as Lightning's ``OnExceptionCheckpoint`` does, and notes when."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_exception(self, trainer: pl.Trainer, module: pl.LightningModule, exception: BaseException) -> None:
        trainer.save_checkpoint(self.path)
        module.marks["saved"] = time.monotonic()


class MLFlowLogger(Logger):
    """A logger that names a server and sends nothing itself: only the monitor talks to it."""

    name, version = "silent", "0"

    def __init__(self, uri: str, run_id: str = "1" * 32) -> None:
        super().__init__()
        self._tracking_uri, self._run_id, self.run_id = uri, run_id, run_id

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        pass

    def log_hyperparams(self, *_: Any, **__: Any) -> None:
        pass


@contextmanager
def silent_server() -> Iterator[str]:
    """A server that takes connections and never answers."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen(50)
        yield f"http://127.0.0.1:{taken.getsockname()[1]}"


def _hang(*_: Any, **__: Any) -> Any:
    time.sleep(FOREVER)


HANGS: dict[str, Callable[[], Any]] = {
    "figure": lambda: patch.object(report, "forecast_figure", _hang),
    "law": lambda: patch.object(run_fit, "fit_run", _hang),
    "update at the end": lambda: patch.object(Monitor, "finish", _hang),
}


def _train(folder: Path, fault: str, hang: str, *, monitored: bool) -> dict[str, Any]:
    folder.mkdir()
    model, emergency = Model(fault), Emergency(folder / "emergency.ckpt")
    data = DataLoader(torch.randn(STEPS * 4, 8, generator=torch.Generator().manual_seed(0)), batch_size=4)
    monitor = ScalingLawMonitor(journal=folder / "journals", on_advice="ignore", max_overhead=1.0)
    left: dict[str, Any] = {"error": ""}
    with ExitStack() as stack:
        logger: Any = False
        if hang == "server":
            logger = MLFlowLogger(stack.enter_context(silent_server()))
        elif hang:
            stack.enter_context(HANGS[hang]())
        trainer = pl.Trainer(
            max_epochs=1,
            accelerator="cpu",
            callbacks=[monitor, emergency] if monitored else [emergency],
            logger=logger,
            enable_progress_bar=False,
            enable_model_summary=False,
            default_root_dir=folder,
        )
        begun = time.monotonic()
        try:
            trainer.fit(model, data)
        except BaseException as error:
            left["error"] = type(error).__name__
        ended = time.monotonic()
    left["end"] = ended - model.marks.get("raised", model.marks.get("last", begun))
    if "saved" in model.marks:
        left["emergency"] = model.marks["saved"] - model.marks["raised"]
        left["checkpoint"] = checkpoint(emergency.path)
    return left


def _both(root: Path, fault: str, hang: str) -> tuple[dict[str, Any], dict[str, Any], str]:
    found = []
    for monitored in (False, True):
        folder = root / f"{fault or 'end'}-{hang or 'plain'}-{monitored}"
        result = folder.with_suffix(".json")
        if said := forked(lambda to=folder, on=monitored: _train(to, fault, hang, monitored=on), result):
            return {}, {}, said
        found.append(json.loads(result.read_text()))
    return found[0], found[1], ""


def interrupted(faults: list[str], hangs: list[str]) -> tuple[Result, dict[str, float]]:
    """An exception or a signal: the emergency checkpoint, the error and the end come as without the callback."""
    lost, ratios = [], {}
    cases = [(fault, hang) for fault in faults for hang in hangs]
    with tempfile.TemporaryDirectory() as name:
        for fault, hang in cases:
            bare, found, said = _both(Path(name), fault, hang)
            case = f"{fault}, {hang or 'nothing'} hangs"
            if said:
                lost.append(f"{case}: {said}")
                continue
            ratios[case] = found["emergency"] / bare["emergency"]
            if wrong := [key for key in ("error", "checkpoint") if found[key] != bare[key]]:
                lost.append(f"{case}: {', '.join(wrong)} differ")
            elif found["emergency"] > bare["emergency"] + INTERRUPTED_WITHIN + SLACK:
                lost.append(f"{case}: checkpoint after {found['emergency']:.2f} s, {bare['emergency']:.2f} s without")
    return (len(cases), lost), ratios


def ended(hangs: list[str]) -> tuple[Result, dict[str, float]]:
    """Work that does not return at the end of a training is left behind at the deadline."""
    lost, seconds = [], {}
    with tempfile.TemporaryDirectory() as name:
        for hang in hangs:
            bare, found, said = _both(Path(name), "", hang)
            if said:
                lost.append(f"{hang}: {said}")
                continue
            seconds[hang or "nothing"] = found["end"]
            if found["error"] != bare["error"] or found["end"] > bare["end"] + ENDED_WITHIN + SLACK:
                lost.append(f"{hang} hangs: ended after {found['end']:.1f} s {found['error']}")
    return (len(hangs), lost), seconds
