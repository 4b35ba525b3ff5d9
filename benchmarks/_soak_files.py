"""File systems and clocks that fail, and files that are damaged."""

from __future__ import annotations

import errno
import json
import os
import random
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import lightning.pytorch as pl
import numpy as np
from _soak_process import Result, forked, limits
from _soak_training import callbacks, difference, outcome, train

from lightning_scaling import Run, RunHistory, laws
from lightning_scaling.laws.io import dumps
from lightning_scaling.tracking import pending_journals, read_journal


class DeleteFolder(pl.Callback):
    """Removes the folder of the journals in the middle of training."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        if trainer.global_step == 10:
            shutil.rmtree(self.folder, ignore_errors=True)


@contextmanager
def _full_disk() -> Iterator[None]:
    write = os.write

    def full(fd: int, data: bytes) -> int:
        if fd > 2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(fd, data)

    with patch.object(os, "write", full):
        yield


@contextmanager
def _clock_back() -> Iterator[None]:
    now, began = time.time, time.time()
    with (
        patch.object(time, "time", lambda: 2 * began - now()),
        patch.object(time, "time_ns", lambda: int(1e9 * (2 * began - now()))),
    ):
        yield


def _plain(folder: Path, extra: list[pl.Callback] | None = None, **settings: Any) -> dict[str, Any]:
    return outcome(train(folder, [*callbacks(**settings), *(extra or [])]), folder)


def _environment(folder: Path) -> dict[str, Any]:
    for name in ("LIGHTNING_SCALING_CACHE", "XDG_CACHE_HOME"):
        os.environ.pop(name, None)
    os.environ["HOME"] = "/proc/nobody"
    return _plain(folder)


def _under(context: Callable[[], Any]) -> Callable[[Path], dict[str, Any]]:
    def work(folder: Path) -> dict[str, Any]:
        with context():
            return _plain(folder)

    return work


def _remote(folder: Path) -> dict[str, Any]:
    trainer = train(folder, callbacks(), default_root_dir="memory://runs")
    return outcome(trainer, folder)


CASES: dict[str, Callable[[Path], dict[str, Any]]] = {
    "folder of journals that cannot be made": lambda folder: _plain(folder, journal="/proc/journals"),
    "file in place of the folder": lambda folder: _plain(folder, journal="/dev/null"),
    "folder deleted in mid run": lambda folder: _plain(folder, [DeleteFolder(folder / "j")], journal=folder / "j"),
    "no home": _environment,
    "full disk": _under(_full_disk),
    "clock that goes backwards": _under(_clock_back),
    "remote default_root_dir": _remote,
}


def file_systems(names: list[str] | None = None) -> Result:
    """Trainings whose journal cannot be written as it should."""
    lost = []
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        forked(lambda: outcome(train(root / "bare"), root / "bare"), root / "bare.json")
        expected = json.loads((root / "bare.json").read_text())
        for case in names or list(CASES):
            result = root / "result.json"
            if said := forked(lambda at=case: CASES[at](root / at.replace(" ", "-")), result):
                lost.append(f"{case}: {said}")
            elif wrong := difference(expected, json.loads(result.read_text())):
                lost.append(f"{case}: {wrong}")
    return len(names or CASES), lost


# ---------------------------------------------------------------------- readers


def damaged(data: bytes, drawing: random.Random) -> bytes:
    """Bytes with a few places exchanged, removed, repeated or filled with what parsers dislike."""
    made = bytearray(data)
    junk = [b"[" * 5000, b'{"a":' * 3000, *b"NaN 1e999 -1 null \0 \xff\xfe".split(), b"9" * 400, b'"', b",", b"\n"]
    for _ in range(drawing.choice((1, 1, 2, 5))):
        at = drawing.randrange(len(made) + 1)
        kind = drawing.randrange(4)
        if kind == 0:
            made[at:at] = drawing.choice(junk)
        elif kind == 1:
            del made[at : at + drawing.randrange(1, 200)]
        elif kind == 2:
            made[at : at + drawing.randrange(1, 8)] = drawing.choice(junk)
        else:
            made[at:at] = made[at : at + drawing.randrange(1, 300)]
    return bytes(made)


def _samples(root: Path) -> dict[str, tuple[bytes, Callable[[Path], Any]]]:
    train(root / "run", callbacks(journal=root / "journals"))
    (journal,) = (root / "journals").glob("*.jsonl")
    step = np.arange(1, 101)
    curve = "step,loss,lr\n" + "\n".join(f"{s},{2 + 3 * s**-0.4:.5f},0.001" for s in step)
    sizes = np.geomspace(1e6, 1e8, 8)
    tokens = 20 * sizes
    loss = 1.7 + 400 * sizes**-0.34 + 410 * tokens**-0.28
    fit = laws.get("chinchilla").fit({"params": sizes, "tokens": tokens, "loss": loss})
    return {
        "journal": (journal.read_bytes(), lambda path: (read_journal(path), Run.from_journal(path))),
        "journal to send": (journal.read_bytes(), pending_journals),
        "curve.csv": (curve.encode(), Run.from_csv),
        "folder of curves": (curve.encode(), lambda path: RunHistory.from_csv(path.parent)),
        "fit.json": (dumps(fit).encode(), laws.load),
    }


def readers(tries: int, seed: int = 0) -> Result:
    """Damaged files are read, or refused in a sentence; nothing hangs, crashes or takes unbounded memory."""
    drawing = random.Random(seed)
    lost, done = [], 0
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        for kind, (data, read) in _samples(root).items():
            suffix = {"fit.json": ".json"}.get(kind, ".csv" if "curve" in kind else ".jsonl")
            for number in range(tries):
                done += 1
                path = root / kind.replace(" ", "-").replace(".", "-") / f"{number}{suffix}"
                path.parent.mkdir(exist_ok=True)
                path.write_bytes(damaged(data, drawing))
                try:
                    with limits(20):
                        read(path)
                except (ValueError, OSError) as error:
                    if not str(error).strip():
                        lost.append(f"{kind} {number}: {type(error).__name__} without a sentence")
                except BaseException as error:
                    lost.append(f"{kind} {number}: {type(error).__name__}: {str(error)[:200]}")
                path.unlink()
    return done, lost
