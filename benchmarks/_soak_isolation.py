"""Failures put into the callbacks: each of their functions raises in turn, and each state restored is damaged."""

from __future__ import annotations

import copy
import os
import random
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import CodeType, FrameType
from typing import Any
from unittest.mock import patch

import lightning.pytorch as pl
import torch
from _soak_process import Result, limits
from _soak_training import SAVE_EVERY, callbacks, difference, outcome, train
from torch.utils._python_dispatch import _get_current_dispatch_mode, _pop_mode

import lightning_scaling
from lightning_scaling import report
from lightning_scaling.compute.opcount import OpCounter
from lightning_scaling.laws import run_fit

PACKAGE = os.path.dirname(lightning_scaling.__file__)
ERRORS = (RuntimeError, MemoryError, OSError, TypeError, KeyError, AssertionError, StopIteration, RecursionError)


def named(code: CodeType) -> str:
    """File and name of a function, as a key that holds for other processes."""
    return f"{os.path.relpath(code.co_filename, PACKAGE)}:{code.co_firstlineno} {code.co_qualname}"


def _in_package(frame: FrameType) -> bool:
    return frame.f_code.co_filename.startswith(PACKAGE)


@contextmanager
def _profiled(function: Any) -> Iterator[None]:
    threading.setprofile(function)
    sys.setprofile(function)
    try:
        yield
    finally:
        sys.setprofile(None)
        threading.setprofile(None)  # type: ignore[arg-type]


def reachable(folder: Path) -> tuple[list[CodeType], list[CodeType]]:
    """Functions of the package that a training calls, and of those the entries.

    An entry is called by Lightning, torch or a thread with nothing of the package above it in the stack. It is a guard
    itself, and so cannot be made to raise at its call.
    """
    seen: dict[CodeType, bool] = {}

    def note(frame: FrameType, event: str, _: Any) -> None:
        if event == "call" and _in_package(frame):
            above = frame.f_back
            while above is not None and not _in_package(above):
                above = above.f_back
            seen[frame.f_code] = seen.get(frame.f_code, False) or above is None

    watched = callbacks()
    with _profiled(note):
        train(folder, watched)
    return list(seen), [code for code, entry in seen.items() if entry]


class Raise(pl.Callback):
    """Makes one function raise whenever it is called, from a given call on.

    Python ends profiling when a profile function raises; it is set again at the next hook.
    """

    def __init__(self, code: CodeType, error: type[Exception], call: int = 0) -> None:
        self.code, self.error, self.left = code, error, call

    def profile(self, frame: FrameType, event: str, _: Any) -> None:
        if event == "call" and frame.f_code is self.code:
            self.left -= 1
            if self.left < 0:
                raise self.error("put in")

    def _again(self, *_: Any, **__: Any) -> None:
        sys.setprofile(self.profile)

    on_fit_start = on_train_start = on_train_batch_start = on_train_batch_end = _again
    on_train_epoch_end = on_validation_end = on_train_end = on_fit_end = _again


def functions_raise(every: int = 1, seed: int = 0) -> Result:
    """Each function that a training reaches raises in turn; the training must be the one without callbacks."""
    drawing = random.Random(seed)
    lost = []
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        expected = outcome(train(root / "bare"), root / "bare")
        codes, entries = reachable(root / "reached")
        targets = [code for code in codes if code not in entries]
        chosen = targets[drawing.randrange(every) :: every]
        for number, code in enumerate(chosen):
            error = ERRORS[number % len(ERRORS)]
            problem = with_failure(root / f"{number}", code, error, drawing.choice((0, 0, 1, 5)), expected)
            if problem:
                lost.append(f"{named(code)} ({error.__name__}): {problem}")
    return len(chosen), lost


def with_failure(folder: Path, code: CodeType, error: type[Exception], call: int, expected: dict[str, Any]) -> str:
    """What a training loses where a function raises from a given call on; empty if nothing."""
    failing = Raise(code, error, call)
    watched = callbacks()
    whole = any(os.sep + room + os.sep in code.co_filename for room in ("report", "laws"))
    try:
        with nullcontext() if whole else _without_figures(), _profiled(failing.profile):
            trainer = train(folder, [failing, *watched])
    except Exception as caught:
        return f"training ended: {type(caught).__name__}: {caught}"
    finally:
        while isinstance(_get_current_dispatch_mode(), OpCounter):  # of a count whose end was made to raise
            _pop_mode()
    return difference(expected, outcome(trainer, folder))


@contextmanager
def _without_figures() -> Iterator[None]:
    """Figures and the law that is left behind take most of the time of so short a training."""
    drawn = {"forecast_figure": lambda *_, **__: b"", "loss_compute_figure": lambda *_, **__: b""}
    with patch.multiple(report, **drawn), patch.object(run_fit, "fit_run", side_effect=ValueError):
        yield


JUNK: tuple[Any, ...] = (
    *(None, True, 0, -1, 1, 10**30, 10**7, 1e300, float("nan"), float("inf")),
    *("", "x" * 10_000, b"\0", [], {}, [[]] * 5, {"version": 99}, [float("nan")] * 7),
)


def damaged(state: Any, drawing: random.Random) -> Any:
    """A copy of nested builtins with one place in it removed, exchanged or filled with what does not belong there."""
    state = copy.deepcopy(state)
    holder = state
    while True:
        keys = list(holder) if isinstance(holder, dict) else list(range(len(holder)))
        key = drawing.choice(keys)
        inner = holder[key]
        if isinstance(inner, dict | list) and inner and drawing.random() < 0.85:
            holder = inner
            continue
        kind = drawing.randrange(4)
        if kind == 0:
            del holder[key]
        elif kind == 1 and isinstance(inner, list) and inner:
            holder[key] = inner[: drawing.randrange(len(inner))]
        elif kind == 2:
            other = drawing.choice(keys)
            holder[key], holder[other] = holder[other], holder[key]
        else:
            holder[key] = drawing.choice(JUNK) if drawing.random() < 0.9 else _deep(200)
        return state


def _deep(levels: int) -> Any:
    made: Any = []
    for _ in range(levels):
        made = [made]
    return made


def states_damaged(tries: int, seed: int = 0) -> Result:
    """Checkpoints with a damaged state of the callbacks: training goes on as it would without them."""
    drawing = random.Random(seed)
    lost = []
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        with _without_figures():
            train(root / "first", callbacks(), max_epochs=1)
        whole = torch.load(root / "first" / "checkpoints" / f"step={SAVE_EVERY}.ckpt", weights_only=False)
        ours = [key for key in whole["callbacks"] if key.startswith("lightning_scaling") or "Scaling" in key]
        path = root / "damaged.ckpt"
        bare = {**whole, "callbacks": {k: v for k, v in whole["callbacks"].items() if k not in ours}}
        torch.save(bare, path)
        expected = outcome(train(root / "bare", resume=path), root / "bare")
        for number in range(tries):
            key = drawing.choices(ours, [8 if "Monitor" in one else 1 for one in ours])[0]
            folder = root / f"{number}"
            try:
                torch.save(
                    {**whole, "callbacks": {**whole["callbacks"], key: damaged(whole["callbacks"][key], drawing)}}, path
                )
                with limits(60), _without_figures():
                    trainer = train(folder, callbacks(), resume=path)
            except Exception as caught:
                lost.append(f"state {number}: training ended: {type(caught).__name__}: {str(caught)[:200]}")
                continue
            if problem := difference(expected, outcome(trainer, folder)):
                lost.append(f"state {number}: {problem}")
    return tries, lost
