"""Reading a journal back: the curve as arrays, the updates, the rows that can be sent."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lightning_scaling.tracking.journal import COLUMNS, FORMAT, VERSION

REPLAYED = ("header", "points", "update", "mark")
SENDABLE = ("metrics", "params", "tags", "note", "artifact")
_INT64 = 2**63 - 1


@dataclass(frozen=True)
class Segment:
    """One stretch of a run between two starts.

    Attributes:
        id: Name of the segment, unique among journals.
        time: When it began, milliseconds since 1970.
        targets: Where its rows are sent.
        data: What the header says of the run.
        row: Number of curve points before it, once superseded points are gone.
    """

    id: str
    time: int
    targets: list[dict[str, Any]]
    data: dict[str, Any]
    row: int


@dataclass(frozen=True)
class JournalContents:
    """What a journal holds.

    Attributes:
        path: The file.
        segments: The starts of the run, in order.
        points: The curve: ``step`` (int64), ``loss``, ``lr``, ``seconds`` (float64), ``tokens`` and ``flops`` (int64
            when all are whole and below 2**63, else float64), each of shape ``(n,)``; a column never recorded is
            absent, one recorded only in part has NaN elsewhere. When a resumed run went back to an earlier step, the
            points it made again replace the old ones.
        updates: The updates of the monitor, in order, as builtins.
        marks: Events on the way: ``reason``, ``step``, ``data`` and ``row``, the number of points before it.
        ops: The rows that can be sent, in order: ``op``, ``n``, ``t``, ``segment`` and their fields.
        rows: All that the monitor was given and said, in the order it was written, superseded or not: rows with the
            ``op`` ``"header"``, ``"points"``, ``"update"`` or ``"mark"``, their ``segment`` and their fields; those of
            points hold unpacked columns.
        end: The last row of a run that ended in order, else ``None``.
        damaged: Lines that could not be read; a killed process or a full disk can leave one.
        superseded: Points left out because a resumed run made them again.
    """

    path: Path
    segments: list[Segment] = field(default_factory=list)
    points: dict[str, NDArray[Any]] = field(default_factory=dict)
    updates: list[dict[str, Any]] = field(default_factory=list)
    marks: list[dict[str, Any]] = field(default_factory=list)
    ops: list[dict[str, Any]] = field(default_factory=list)
    rows: list[dict[str, Any]] = field(default_factory=list)
    end: dict[str, Any] | None = None
    damaged: int = 0
    superseded: int = 0

    @property
    def header(self) -> dict[str, Any]:
        """What the first header says of the run."""
        return self.segments[0].data if self.segments else {}

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
    reader = _Reader(path)
    try:
        with path.open("rb") as file:
            for line in file:
                reader.take(line)
    except _NewerError as error:
        raise ValueError(str(error)) from None
    return reader.contents()


class _Reader:
    def __init__(self, path: Path) -> None:
        self.path = path
        self.segments: list[Segment] = []
        self.blocks: list[dict[str, list[Any]]] = []
        self.updates: list[dict[str, Any]] = []
        self.marks: list[dict[str, Any]] = []
        self.ops: list[dict[str, Any]] = []
        self.all: list[dict[str, Any]] = []
        self.end: dict[str, Any] | None = None
        self.damaged = 0
        self.superseded = 0
        self.rows = 0
        self._fresh = False

    def take(self, line: bytes) -> None:
        try:
            row = json.loads(line)
            op = row["op"]
            if op == "header":
                self._header(row)
            elif not self.segments:
                raise KeyError("header")
            elif op == "points":
                self._points(row)
            elif op == "update":
                self.updates.append(row["data"])
            elif op == "mark":
                mark = {"reason": row["reason"], "step": row.get("step"), "data": row.get("data", {})}
                self.marks.append({**mark, "row": self.rows})
            elif op in SENDABLE:
                self.ops.append({**row, "segment": self.segments[-1].id})
            elif op == "end":
                self.end = {key: value for key, value in row.items() if key not in ("op", "n")}
            if op in REPLAYED:
                block = self.blocks[-1] if op == "points" and self.blocks else {}
                self.all.append({**row, **block, "segment": self.segments[-1].id})
        except (ValueError, KeyError, TypeError, AttributeError):
            if line.strip():
                self.damaged += 1

    def _header(self, row: dict[str, Any]) -> None:
        if row.get("format") != FORMAT:
            raise KeyError("format")
        if row["version"] > VERSION:
            raise _NewerError(
                f"The journal {self.path} has format {row['version']}, this version of lightning-scaling reads up to "
                f"{VERSION}: upgrade lightning-scaling to read it."
            )
        segment = Segment(row["segment"], row["t"], row.get("targets", []), row.get("data", {}), self.rows)
        self.segments.append(segment)
        self.end = None
        self._fresh = True

    def _points(self, row: dict[str, Any]) -> None:
        block = {name: _unpacked(row[name]) for name in COLUMNS if name in row}
        steps, losses = block["step"], block["loss"]
        if any(len(column) != len(steps) for column in block.values()) or len(losses) != len(steps):
            raise ValueError("columns of unequal length")
        if self._fresh and steps:
            self._cut(int(steps[0]))
            self._fresh = False
        self.blocks.append(block)
        self.rows += len(steps)

    def _cut(self, first: int) -> None:
        """Leave out the points at ``first`` and later: the resumed run makes them again."""
        before = self.rows
        while self.blocks and self.blocks[-1]["step"][-1] >= first:
            block = self.blocks.pop()
            keep = sum(step < first for step in block["step"])
            self.rows -= len(block["step"]) - keep
            if keep:
                self.blocks.append({name: column[:keep] for name, column in block.items()})
                break
        self.superseded += before - self.rows
        self.marks = [{**mark, "row": min(mark["row"], self.rows)} for mark in self.marks]
        self.segments = [
            Segment(one.id, one.time, one.targets, one.data, min(one.row, self.rows)) for one in self.segments
        ]

    def contents(self) -> JournalContents:
        if not self.segments:
            raise ValueError(
                f"{self.path} is not a journal of lightning-scaling: no line of it is a journal header. "
                "Give the .jsonl file that a run wrote."
            )
        points = {name: self._column(name) for name in COLUMNS if any(name in block for block in self.blocks)}
        return JournalContents(
            path=self.path,
            segments=self.segments,
            points=points,
            updates=self.updates,
            marks=self.marks,
            ops=self.ops,
            rows=self.all,
            end=self.end,
            damaged=self.damaged,
            superseded=self.superseded,
        )

    def _column(self, name: str) -> NDArray[Any]:
        values: list[Any] = []
        for block in self.blocks:
            values += block.get(name, [None] * len(block["step"]))
        if name in ("step", "tokens", "flops") and all(type(v) is int and abs(v) <= _INT64 for v in values):
            return np.array(values, dtype=np.int64)
        return np.array([np.nan if v is None else v for v in values], dtype=np.float64)


class _NewerError(Exception):
    """Carries the sentence past the handling of damaged lines."""


def _unpacked(column: Any) -> list[Any]:
    if isinstance(column, dict):
        start, by, count = column["from"], column["by"], column["count"]
        return [start + by * i for i in range(count)] if by else [start] * count
    if not isinstance(column, list):
        raise ValueError("a column is a list")
    return column
