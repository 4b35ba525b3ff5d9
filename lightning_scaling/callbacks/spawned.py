"""Results of a training in processes that Lightning starts and ends, for the process that called ``fit``."""

from __future__ import annotations

import json
import os
import tempfile
import uuid
from contextlib import suppress
from pathlib import Path
from typing import Any

from lightning_scaling._utils.serialization import parse_json, to_builtins, with_nonfinite


class SpawnedResults:
    """A temporary file, private to the user, from rank zero of ``ddp_spawn``, ``ddp_fork`` or ``ddp_notebook``.

    Under these strategies the callback that trains is a copy in another process; of what it knows Lightning brings back
    only weights and logged metrics.
    """

    def __init__(self) -> None:
        self._process = os.getpid()
        self._path = Path(tempfile.gettempdir()) / f"lightning-scaling-{uuid.uuid4().hex}.json"

    def send(self, trainer: Any, state: Any) -> None:
        """Write a state where this is rank zero in a process that the Trainer has started."""
        launcher = type(getattr(trainer.strategy, "launcher", None)).__name__
        if launcher != "_MultiProcessingLauncher" or os.getpid() == self._process or not trainer.is_global_zero:
            return
        part = self._path.with_suffix(".part")
        text = json.dumps(to_builtins(state, nonfinite="text"))
        with open(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(text)
        os.replace(part, self._path)

    def receive(self) -> Any:
        """The state sent since the last call, in the process where the callback was made; ``None`` without any."""
        if os.getpid() != self._process or not self._path.exists():
            return None
        try:
            return with_nonfinite(parse_json(self._path.read_bytes()))
        finally:
            with suppress(OSError):
                self._path.unlink()
