"""Contents of a journal: the curve as arrays, the updates, the rows that can be sent."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from lightning_scaling._utils.serialization import parse_json
from lightning_scaling._utils.validation import is_count
from lightning_scaling.runs.curve import LossBlock
from lightning_scaling.tracking.journal import FORMAT, VERSION, unpack

SENDABLE = ("metrics", "params", "tags", "note", "artifact")
_COLUMNS = ("step", "loss", "lr", "tokens", "flops", "seconds")
_FIELDS: dict[str, set[str]] = {
    "header": {"format", "version", "segment"},
    "points": {"step", "loss"},
    "update": {"data"},
    "mark": {"reason"},
    "metrics": {"step", "values"},
    "params": {"values"},
    "tags": {"values"},
    "note": {"text"},
    "artifact": {"path"},
}


@dataclass(frozen=True)
class Segment:
    """One stretch of a run between two starts.

    Attributes:
        id: Name of the segment, unique among journals.
        time: When it began, milliseconds since 1970.
        targets: Where its rows are sent.
        data: What the header says of the run.
    """

    id: str
    time: int
    targets: list[dict[str, Any]]
    data: dict[str, Any]


@dataclass(frozen=True)
class JournalContents:
    """What a journal holds.

    Attributes:
        path: The file.
        segments: The starts of the run, in order.
        rows: All rows, in order, with their ``segment``; those of points hold a ``block`` in place of columns.
        damaged: Lines that could not be read; a killed process or a full disk can leave one.
    """

    path: Path
    segments: list[Segment]
    rows: list[dict[str, Any]]
    damaged: int = 0

    @property
    def header(self) -> dict[str, Any]:
        """What the first header says of the run."""
        return self.segments[0].data

    @property
    def updates(self) -> list[dict[str, Any]]:
        """The updates of the monitor, in order, as builtins."""
        return [row["data"] for row in self.rows if row["op"] == "update"]

    @property
    def marks(self) -> list[dict[str, Any]]:
        """Events on the way, in order: ``reason``, ``step`` and ``data``."""
        marks = [{"step": None, "data": {}, **row} for row in self.rows if row["op"] == "mark"]
        return [{name: mark[name] for name in ("reason", "step", "data")} for mark in marks]

    @property
    def ops(self) -> list[dict[str, Any]]:
        """The rows that can be sent, in order: ``op``, ``n``, ``t``, ``segment`` and their fields."""
        return [row for row in self.rows if row["op"] in SENDABLE]

    @property
    def end(self) -> dict[str, Any] | None:
        """The last row of a run that ended in order, else ``None``."""
        return self.rows[-1] if self.rows[-1]["op"] == "end" else None

    @cached_property
    def current(self) -> list[dict[str, Any]]:
        """The rows that led to where the run is now; those that a resumed run made again, or gave up, are left out.

        A header that says where its segment goes on (``resumed``) is followed back; any other begins the run.
        """
        rows: list[dict[str, Any]] = []
        at, until = len(self.segments) - 1, math.inf
        while True:
            segment = self.segments[at]
            rows = [row for row in self.rows if row["segment"] == segment.id and row["n"] < until] + rows
            origin = segment.data.get("resumed", {})
            before = [i for i, one in enumerate(self.segments[:at]) if one.id == origin.get("segment")]
            if not before:
                return rows
            at, until = before[-1], origin["rows"]

    @cached_property
    def points(self) -> LossBlock:
        """The curve, those points left out that a resumed run made again; NaN where a value was not recorded."""
        return _joined(self.current)

    @property
    def superseded(self) -> int:
        """Points left out because a resumed run made them again."""
        return len(_joined(self.rows)) - len(self.points)

    @property
    def files(self) -> Path:
        """The folder that holds the artifacts of the run."""
        return self.path.with_suffix(".files")

    def artifact(self, op: Mapping[str, Any]) -> bytes | None:
        """Contents of the artifact an ``artifact`` row speaks of, or ``None`` when its file is gone."""
        folder = self.files.resolve()
        file = (folder / str(op["path"])).resolve()
        if not file.is_relative_to(folder):  # a link, or "..", must not make a file from elsewhere be sent
            return None
        try:
            return file.read_bytes()
        except OSError:
            return None


def is_journal(path: Path) -> bool:
    """Whether the file begins as a journal does; looks at its first line only."""
    try:
        with path.open("rb") as file:
            first = file.readline(200)
    except OSError:
        return False
    return first.startswith(b'{"op":"header"') and FORMAT.encode() in first


def read_journal(path: Path | str) -> JournalContents:
    """Read a journal, also one that a crash cut short.

    Args:
        path: The ``.jsonl`` file.

    Returns:
        Its contents.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is not a journal, or was written by a newer version.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"There is no journal at {path}.")
    segments: list[Segment] = []
    rows: list[dict[str, Any]] = []
    damaged = 0
    with path.open("rb") as file:
        for line in filter(bytes.strip, file):
            row = _row(line)
            if row is not None and row["op"] == "header":
                if row["version"] > VERSION:
                    raise ValueError(
                        f"The journal {path} has format {row['version']}, this version of lightning-scaling reads up "
                        f"to {VERSION}: upgrade lightning-scaling to read it."
                    )
                segments.append(Segment(row["segment"], row["t"], row.get("targets", []), row.get("data", {})))
            if row is None or not segments:
                damaged += 1
            else:
                rows.append({**row, "segment": segments[-1].id})
    if not segments:
        raise ValueError(
            f"{path} is not a journal of lightning-scaling: no line of it is a journal header. "
            "Give the .jsonl file that a run wrote."
        )
    return JournalContents(path, segments, rows, damaged)


def _row(line: bytes) -> dict[str, Any] | None:
    """The row that a line holds; ``None`` where it makes no sense."""
    try:
        row: dict[str, Any] = parse_json(line)
        if not row.keys() >= {"n", "t"} | _FIELDS.get(row["op"], set()):
            return None
        if row["op"] == "header" and (row["format"] != FORMAT or not is_count(row["version"])):
            return None
        if row["op"] == "points":
            row["block"] = LossBlock.of(**{name: unpack(row.pop(name)) for name in _COLUMNS if name in row})
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
    return row


def _joined(rows: Sequence[Mapping[str, Any]]) -> LossBlock:
    """The blocks of rows as one, of ``nan`` where one of them lacks a column that another has."""
    blocks: list[LossBlock] = [row["block"] for row in rows if row["op"] == "points"]
    names = {"step", "loss"}.union(*(block.columns() for block in blocks))
    return LossBlock(**{name: np.concatenate([np.empty(0), *(one.filled(name) for one in blocks)]) for name in names})
