"""Curves of runs that have ended, kept on disk: one file per experiment, numbers and JSON, never a pickle."""

from __future__ import annotations

import hashlib
import io
import json
import os
import sys
import zipfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from lightning_scaling._utils.serialization import atomic_write, parse_json
from lightning_scaling.history.mlflow_parse import Series

_VERSION = 2
_DAMAGED = (OSError, ValueError, KeyError, TypeError, AttributeError, EOFError, zipfile.BadZipFile)


def cache_folder() -> Path:
    """``LIGHTNING_SCALING_CACHE``, else the folder for caches that the system has."""
    named = os.environ.get("LIGHTNING_SCALING_CACHE")
    if named:
        return Path(named).expanduser()
    if sys.platform == "win32":
        home = os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local"
    elif sys.platform == "darwin":
        home = Path.home() / "Library" / "Caches"
    else:
        home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "lightning-scaling"


class CurveCache:
    """The curves of one experiment. Never raises: what cannot be read is missing, what cannot be written is not kept.

    A file is replaced as a whole, so readers see the old or the new one; of two writers at once the later one wins.

    Args:
        uri: Where the experiment is kept.
        experiment: Its id.
    """

    def __init__(self, uri: str, experiment: str) -> None:
        key = hashlib.sha256(json.dumps([_VERSION, uri, experiment]).encode()).hexdigest()[:32]
        try:
            self._path: Path | None = cache_folder() / "history" / f"{key}.npz"
        except RuntimeError:  # no home folder
            self._path = None
        self._entries: dict[str, tuple[str, dict[str, Series]]] = self._load()
        self._changed = False

    def get(self, run_id: str, stamp: str) -> dict[str, Series] | None:
        """The curves of a run, if they were kept in this state of the run."""
        kept, series = self._entries.get(run_id, ("", {}))
        return series if kept == stamp else None

    def put(self, run_id: str, stamp: str, series: Mapping[str, Series]) -> None:
        """Keep curves of a run, in addition to those kept in this state of it."""
        self._entries[run_id] = (stamp, {**(self.get(run_id, stamp) or {}), **series})
        self._changed = True

    def save(self) -> None:
        """Put what is new on disk."""
        if not self._changed or self._path is None:
            return
        index: dict[str, Any] = {}
        pieces: list[Series] = []
        for run_id, (stamp, series) in self._entries.items():
            index[run_id] = [stamp, {name: int(column[0].size) for name, column in series.items()}]
            pieces += series.values()
        packed = io.BytesIO()
        np.savez(
            packed,
            index=np.frombuffer(json.dumps(index).encode(), dtype=np.uint8),
            step=np.concatenate([np.empty(0), *(piece[0] for piece in pieces)]),
            value=np.concatenate([np.empty(0), *(piece[1] for piece in pieces)]),
        )
        with suppress(OSError):
            self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            atomic_write(self._path, packed.getvalue())
            self._changed = False

    def _load(self) -> dict[str, tuple[str, dict[str, Series]]]:
        if self._path is None:
            return {}
        try:
            with self._path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
                index = parse_json(stored["index"].tobytes())
                step = stored["step"].astype(np.float64)
                value = stored["value"].astype(np.float64)
            sizes = [size for _, named in index.values() for size in named.values()]
            if not step.shape == value.shape == (sum(sizes),):
                return {}
            ends = np.cumsum(sizes)[:-1]
            curves = zip(np.split(step, ends), np.split(value, ends), strict=True)
            return {
                run_id: (str(stamp), {name: next(curves) for name in named}) for run_id, (stamp, named) in index.items()
            }
        except _DAMAGED:
            return {}
