"""The journal of a run: an append-only JSONL file that holds all that is sent anywhere, and the curve itself.

Each line is one JSON object with ``op`` (what it is), ``n`` (its number within its segment) and ``t`` (milliseconds
since 1970). A segment begins with a ``header``; a resumed run appends a new one to the same file. Lines are written
whole, with one system call for all that is ready, straight to the file descriptor: what a killed process had written
stays, and a forked child holds no buffer that it could write a second time.

| `op` | fields |
|---|---|
| `header` | `format`, `version`, `segment`, `pid`, `targets`, `data` (what the run is) |
| `points` | columns of a :class:`~lightning_scaling.runs.curve.LossBlock`: `step`, `loss`, and where known others |
| `update` | `data`: an update of the monitor |
| `mark` | `reason`, `step`, `data`: something that happened; its `kind` is an :class:`EventKind` |
| `metrics` | `step`, `values` |
| `params`, `tags` | `values` |
| `note` | `text` |
| `artifact` | `path`, `bytes`; the file lies in the folder `<name>.files` next to the journal |
| `end` | what was known at the end |

A column is a list, or ``{"from", "by", "count"}`` where ``from + by * i`` is exactly its i-th number.

What a replay needs is here exactly: points in the blocks in which the monitor took them, each followed by the updates
it made of them. The header of a resumed run says which row (``resumed``: ``segment`` and ``rows``, the number of rows
of it before the checkpoint) the monitor went on from, or holds its state (``state``) where this journal does not.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import re
import time
import uuid
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lightning_scaling._utils.enums import StrEnum
from lightning_scaling._utils.serialization import atomic_write, to_builtins
from lightning_scaling.runs.curve import LossBlock

try:
    import fcntl
except ImportError:  # pragma: no cover  (Windows: no advisory locks; file names are unique all the same)
    fcntl = None  # type: ignore[assignment]

FORMAT = "lightning-scaling-journal"
VERSION = 1
_HELD_BACK = 4 * 2**20
_TAKEN = {errno.EACCES, errno.EAGAIN}
_logger = logging.getLogger(__name__)


class EventKind(StrEnum):
    """Kinds of events that a journal marks."""

    CHANGE = "change"
    DIAGNOSTICS = "diagnostics"
    PLAN = "plan"
    POINTS_STOPPED = "points_stopped"
    PRIOR = "prior"
    RESIZE = "resize"
    RESUME = "resume"
    ROWS_LOST = "rows_lost"
    STOP = "stop"


def new_journal_path(folder: Path | str, name: str = "scaling") -> Path:
    """A path for a new journal in a folder, different for every process and call: ``<name>-<UTC time>-<id>.jsonl``."""
    stamp = time.strftime("%Y%m%dT%H%M%S", time.gmtime())
    plain = re.sub(r"[^\w.-]+", "-", name)[:80].strip("-.") or "scaling"
    return Path(folder) / f"{plain}-{stamp}-{uuid.uuid4().hex[:8]}.jsonl"


def pack(column: NDArray[np.float64]) -> Any:
    """A column as a list, or as ``{"from", "by", "count"}`` where that gives the same numbers to the bit."""
    if column.size > 2 and np.isfinite(column[:2]).all():
        with np.errstate(over="ignore", invalid="ignore"):
            packed = {"from": float(column[0]), "by": float(column[1] - column[0]), "count": column.size}
            if np.array_equal(unpack(packed), column):
                return packed
    return to_builtins(column)


def unpack(column: Any) -> NDArray[np.float64]:
    """A column as :func:`pack` made it; ``null`` is NaN."""
    if isinstance(column, dict):
        return np.asarray(column["from"] + column["by"] * np.arange(column["count"]), dtype=np.float64)
    return np.array(column, dtype=np.float64)


class Journal:
    """Writes the journal of one run. A disk that fails raises nothing: it is reported once, and tried at each flush.

    Args:
        path: The file. An existing one is continued with a new segment; when another process is writing it, a file
            next to it with a name of its own is used instead (see :attr:`path` after the first write).
        header: What a reader needs to understand the run (plan, law, counts, ...), builtins.
        targets: Where the rows are sent, as ``describe()`` of each target gives it, without secrets.
        max_bytes: Size beyond which no more curve points are written; all else goes on. ``None`` sets no limit.
        say: Called with one sentence when something goes wrong; by default a warning in the log.
    """

    def __init__(
        self,
        path: Path | str,
        *,
        header: Mapping[str, Any] | None = None,
        targets: list[dict[str, Any]] | None = None,
        max_bytes: int | None = 64 * 2**20,
        say: Callable[[str], None] | None = None,
    ) -> None:
        self.path = Path(path).absolute()
        self.header = dict(header or {})
        self.targets = list(targets or [])
        self.max_bytes = max_bytes
        self.segment = uuid.uuid4().hex[:8]
        self.error = ""
        self.nonfinite = self.lost = self.points_left_out = 0
        self._say = say or _logger.warning
        self._pid = os.getpid()
        self._fd: int | None = None
        self._n = self._size = self._held_bytes = 0
        self._torn = self._closed = False
        self._held: list[bytes] = []

    def __getstate__(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in ("path", "header", "targets", "max_bytes")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]

    @property
    def rows(self) -> int:
        """Rows made so far in this segment, the header included."""
        return self._n

    def write(self, op: str, fields: Mapping[str, Any]) -> tuple[int, int]:
        """Make a row ready; :meth:`flush` puts it on disk.

        Args:
            op: What the row is.
            fields: Its contents. Numbers that are not finite are written as ``null`` and counted.

        Returns:
            The number of the row in this segment, and its time in milliseconds since 1970.
        """
        if self._n == 0 and op != "header":
            known = {"format": FORMAT, "version": VERSION, "segment": self.segment, "pid": self._pid}
            described = {"targets": to_builtins(self.targets), "data": to_builtins(self.header)}
            self.write("header", {**known, **described})
        n, now = self._n, time.time_ns() // 1_000_000
        self._n += 1
        row = {"op": op, "n": n, "t": now, **fields}
        try:
            text = json.dumps(row, separators=(",", ":"), allow_nan=False)
        except (TypeError, ValueError):
            clean = to_builtins(row)
            self.nonfinite += _nones(clean) - _nones(row)
            text = json.dumps(clean, separators=(",", ":"), allow_nan=False)
        line = text.encode() + b"\n"
        if self._held_bytes > _HELD_BACK:
            self.lost += 1
        else:
            self._held.append(line)
            self._held_bytes += len(line)
        return n, now

    def points(self, step: ArrayLike, loss: ArrayLike, **columns: ArrayLike | None) -> None:
        """Write a block of curve points, exactly as a replay needs them.

        Args:
            step: Optimizer steps, shape ``(k,)``, strictly increasing.
            loss: Loss of each step, shape ``(k,)``; values that are not finite come back as NaN.
            **columns: Further columns of a :class:`~lightning_scaling.runs.curve.LossBlock`, shape ``(k,)``.

        Raises:
            ValueError: If the shapes differ.
        """
        block = LossBlock.of(step, loss, **columns)
        if not len(block):
            return
        if self.max_bytes is not None and self._size + self._held_bytes > self.max_bytes:
            if not self.points_left_out:
                self._mark(EventKind.POINTS_STOPPED, int(block.step[0]))
                self._say(
                    f"The journal {self.path} has reached {self.max_bytes} bytes: no more curve points are written to "
                    "it from here on. Metrics and updates go on."
                )
            self.points_left_out += len(block)
            return
        given = block.columns()
        self.nonfinite += sum(int(np.sum(~np.isfinite(column))) for column in given.values())
        self.write("points", {name: pack(column) for name, column in given.items()})

    def store(self, path: str, content: bytes) -> bool:
        """Keep an artifact next to the journal, in ``<name>.files/``; the last version of a path is the one kept."""
        target = self.files / path
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            atomic_write(target, content)
        except OSError as error:
            self._failed(error)
            return False
        return True

    @property
    def files(self) -> Path:
        """The folder of the artifacts."""
        return self.path.with_suffix(".files")

    @property
    def waiting(self) -> int:
        """Rows that are not on disk (a disk that fails), those given up included."""
        return len(self._held) + self.lost

    def flush(self) -> bool:
        """Put all rows that are ready on disk; ``True`` when that worked."""
        if os.getpid() != self._pid:
            self._held, self._held_bytes = [], 0
            return False
        if self._closed and self._fd is None and not self._held:
            return True
        try:
            if self._fd is None:
                self._fd = self._open()
            self._write_held(self._fd)
            if self.lost:
                lost, self.lost = self.lost, 0
                self._mark(EventKind.ROWS_LOST, None, rows=lost)
                self._write_held(self._fd)
        except OSError as error:
            self._failed(error)
            return False
        return True

    def close(self, **end: Any) -> None:
        """Write the ``end`` row and let go of the file."""
        if self._closed or os.getpid() != self._pid:
            return
        if self._n:
            self.write("end", end)
            self.flush()
        self._closed = True
        fd, self._fd = self._fd, None
        if fd is not None:
            with suppress(OSError):
                if fcntl is not None:  # a forked worker may hold the same open file, and with it the lock
                    fcntl.flock(fd, fcntl.LOCK_UN)
                os.close(fd)

    def _mark(self, kind: EventKind, step: int | None, **data: Any) -> None:
        self.write("mark", {"reason": kind.value, "step": step, "data": {"kind": kind.value, **data}})

    def _open(self) -> int:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
        fd = os.open(self.path, flags, 0o644)
        if not _lock(fd):
            os.close(fd)
            self.path = self.path.with_name(f"{self.path.stem}-{os.getpid()}-{uuid.uuid4().hex[:8]}.jsonl")
            fd = os.open(self.path, flags, 0o644)
            _lock(fd)
        self._size = os.fstat(fd).st_size
        if self._size:
            os.lseek(fd, -1, os.SEEK_END)
            self._torn = os.read(fd, 1) != b"\n"
        return fd

    def _write_held(self, fd: int) -> None:
        data = (b"\n" if self._torn else b"") + b"".join(self._held)
        done = 0
        try:
            while done < len(data):
                done += os.write(fd, data[done:])
        finally:
            self._size += done
            if done:  # drop the lines of which all bytes were written; one cut short is written again on its own line
                written = done - self._torn
                while self._held and len(self._held[0]) <= written:
                    line = len(self._held.pop(0))
                    written, self._held_bytes = written - line, self._held_bytes - line
                self._torn = written > 0

    def _failed(self, error: OSError) -> None:
        first = not self.error
        self.error = f"The journal {self.path} cannot be written ({error.strerror or type(error).__name__})."
        if first:
            self._say(f"{self.error} Training goes on; make room or choose another folder for it.")


def being_written(path: Path) -> bool:
    """Whether a process holds the journal open for writing; ``False`` where locks do not exist."""
    try:
        with path.open("rb") as file:
            return not _lock(file.fileno(), shared=True)
    except OSError:
        return False


def _lock(fd: int, *, shared: bool = False) -> bool:
    """Whether no other process is writing the file, as far as is known; this one is from now on unless `shared`."""
    if fcntl is None:  # pragma: no cover
        return True
    try:
        fcntl.flock(fd, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno not in _TAKEN
    return True


def _nones(value: Any) -> int:
    if isinstance(value, Mapping):
        value = value.values()
    elif not isinstance(value, (list, tuple)):
        return int(value is None)
    return sum(map(_nones, value))
