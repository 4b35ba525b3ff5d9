"""Sends rows to a slow or dead target from a thread of its own, so that training never waits for it."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

_logger = logging.getLogger(__name__)
_ROWS_PER_CALL = 200
_REFUSALS = 3


class RefusedError(Exception):
    """The target answered, and will never take this row; the message is one sentence."""


class GoneError(Exception):
    """The target answered, and will take no row at all until somebody mends it; the message is one sentence."""


@dataclass(frozen=True)
class Point:
    """One value of one metric: ``time`` in milliseconds since 1970, ``step`` in optimizer steps."""

    key: str
    value: float
    time: int
    step: int


@dataclass(frozen=True)
class Op:
    """One row to be sent.

    Attributes:
        n: Its number in the journal.
        kind: ``"metrics"``, ``"params"``, ``"tags"``, ``"note"`` or ``"artifact"``.
        time: Milliseconds since 1970.
        data: Metric values, params or tags; ``{"text"}`` of a note; ``{"path", "content"}`` of an artifact.
        step: Optimizer step of the metrics.
    """

    n: int
    kind: str
    time: int
    data: Mapping[str, Any]
    step: int = 0


class SinkTarget(Protocol):
    """Where a :class:`Sink` sends. All methods but ``describe`` run in the sink's thread, and may block or raise."""

    inline: ClassVar[bool]
    kind: ClassVar[str]
    title: ClassVar[str]

    @classmethod
    def from_logger(cls, logger: Any) -> SinkTarget | None:
        """The run that a Lightning logger writes to; ``None`` for a logger of another tracker. May raise."""

    @classmethod
    def active(cls) -> SinkTarget | None:
        """The run that is active in this thread without a logger; ``None`` if there is none. May raise."""

    @property
    def key(self) -> str:
        """What identifies the target in the record of sent rows."""

    @property
    def name(self) -> str:
        """What to call the target in a sentence."""

    def describe(self) -> dict[str, Any]:
        """What a later ``sync`` needs to find the target again, without secrets."""

    def open(self) -> None:
        """Connect; called once before the first row, and again after it failed."""

    def write(
        self, *, metrics: list[Point] | None = None, params: dict[str, str] | None = None, tags: Any = None
    ) -> None:
        """Store metrics, params and tags (a mapping of strings)."""

    def note(self, text: str) -> None:
        """Set the description of the run."""

    def artifact(self, path: str, content: bytes) -> None:
        """Store a file under the run."""


class Breaker:
    """Decides when a target that failed is tried again: each failure in a row makes the pause longer.

    Args:
        first: Pause after the first failure, in seconds.
        factor: Growth of the pause with each further failure.
        longest: Longest pause, in seconds.

    Example:
        >>> breaker = Breaker(first=5, factor=3, longest=300)
        >>> breaker.failed(now=100.0)
        >>> breaker.until, breaker.open(now=104.0), breaker.open(now=105.0)
        (105.0, True, False)
    """

    def __init__(self, first: float = 5.0, factor: float = 3.0, longest: float = 300.0) -> None:
        self.first, self.factor, self.longest = first, factor, longest
        self.failures = 0
        self.until = float("-inf")

    def failed(self, now: float) -> None:
        """A call failed at this time."""
        pause = min(self.first * self.factor ** min(self.failures, 50), self.longest)
        self.failures += 1
        self.until = now + pause

    def succeeded(self) -> None:
        """A call worked: the next failure starts from the shortest pause."""
        self.failures = 0
        self.until = float("-inf")

    def open(self, now: float) -> bool:
        """Whether the target is to be left alone at this time."""
        return now < self.until


class Sink:
    """A bounded queue, and a daemon thread that empties it into one target in batches.

    The thread starts with the first row. A failing target is left alone for growing pauses; rows wait. In a forked
    child the sink does nothing; a pickled sink comes back empty and not started.

    Args:
        target: Where the rows go.
        interval: Shortest time between two batches, in seconds.
        limit: Most rows that wait in memory; beyond it the oldest metrics leave the queue (the journal keeps them).
        on_sent: Called in the sink's thread with the numbers of the rows that are done with.
        on_trouble: Called with what happened (``"failure"``, ``"refused"``, ``"gone"`` or ``"thread"``) and one
            sentence: once for each spell of failures, once in all for the others.
        breaker: When to try a failing target again.
        clock: Seconds from any origin.
    """

    def __init__(
        self,
        target: SinkTarget,
        *,
        interval: float = 5.0,
        limit: int = 2000,
        on_sent: Callable[[list[int]], None] | None = None,
        on_trouble: Callable[[str, str], None] | None = None,
        breaker: Breaker | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.target = target
        self.interval = interval
        self.limit = limit
        self.sent = 0
        self.refused = 0
        self.overflowed = 0
        self.error = ""
        self._on_sent = on_sent or (lambda rows: None)
        self._on_trouble = on_trouble or (lambda kind, sentence: _logger.warning(sentence))
        self._breaker = breaker or Breaker()
        self._clock = clock
        self._pid = os.getpid()
        self._condition = threading.Condition()
        self._rows: dict[int, Op] = {}
        self._thread: threading.Thread | None = None
        self._finished = threading.Event()
        self._next = float("-inf")
        self._busy_since: float | None = None
        self._opened = False
        self._gone = False
        self._closing = False
        self._left = False
        self._superseded: list[int] = []
        self._told: set[str] = set()

    @property
    def waiting(self) -> int:
        """Rows in memory that have not been sent."""
        return len(self._rows)

    @property
    def gone(self) -> bool:
        """Whether the target takes no more rows."""
        return self._gone

    def blocked(self) -> float:
        """Seconds since the call now under way began; 0 when none is."""
        since = self._busy_since
        return 0.0 if since is None else self._clock() - since

    def put(self, op: Op) -> None:
        """Queue a row. Takes microseconds; never waits for the target."""
        if self._closing or os.getpid() != self._pid:
            return
        with self._condition:
            for n in self._replaced_by(op):
                del self._rows[n]
                self._superseded.append(n)
            self._rows[op.n] = op
            if len(self._rows) > self.limit:
                self._overflow()
            if self._thread is None:
                self._start()
            self._condition.notify()

    def close(self, deadline: float) -> None:
        """Give the thread until the deadline (seconds) to send what waits, then leave it behind."""
        if os.getpid() != self._pid:
            return
        with self._condition:
            self._closing = True
            self._condition.notify()
            started = self._thread is not None
        if started:
            self._finished.wait(max(deadline, 0.0))
        with self._condition:
            self._left = True

    def _start(self) -> None:
        thread = threading.Thread(target=self._run, name="lightning-scaling-sink", daemon=True)
        try:
            thread.start()
        except RuntimeError as error:  # no threads while the interpreter shuts down
            self._trouble("thread", f"No thread could be started to send to {self.target.name} ({error}).")
        else:
            self._thread = thread

    def _replaced_by(self, op: Op) -> list[int]:
        """Waiting rows of which nothing would be left once this one is sent."""
        if op.kind == "tags":
            return [
                n for n, other in self._rows.items() if other.kind == "tags" and other.data.keys() <= op.data.keys()
            ]
        if op.kind == "note":
            return [n for n, other in self._rows.items() if other.kind == "note"]
        if op.kind == "artifact":
            path = op.data["path"]
            return [n for n, other in self._rows.items() if other.kind == "artifact" and other.data["path"] == path]
        return []

    def _overflow(self) -> None:
        oldest = next((n for n, op in self._rows.items() if op.kind == "metrics"), next(iter(self._rows)))
        del self._rows[oldest]
        self.overflowed += 1

    def _run(self) -> None:
        try:
            while True:
                with self._condition:
                    while not self._due():
                        if self._closing and (not self._rows or self._gone):
                            return
                        self._condition.wait(self._pause())
                    rows = list(self._rows.values())
                    closing = self._closing
                worked = self._attempt(rows)
                if self._left or (closing and not worked):
                    return
        finally:
            self._finished.set()

    def _due(self) -> bool:
        if not self._rows or self._gone:
            return False
        return self._closing or self._pause() is None

    def _pause(self) -> float | None:
        """Seconds until rows may be sent, or ``None`` when they may be now (or there is nothing to wait for)."""
        now = self._clock()
        wait = max(self._next, self._breaker.until) - now
        return wait if self._rows and wait > 0 else None

    def _attempt(self, rows: list[Op]) -> bool:
        self._busy_since = self._clock()
        try:
            if not self._opened:
                self.target.open()
                self._opened = True
            self._deliver(rows)
        except GoneError as error:
            self._gone = True
            self._trouble("gone", str(error))
        except Exception as error:
            self._breaker.failed(self._clock())
            self._trouble("failure", f"{self.target.name} does not take what is sent ({_brief(error)}).")
        else:
            self._breaker.succeeded()
            self._told.discard("failure")
        finally:
            self._busy_since = None
            self._next = self._clock() + self.interval
        return not self._gone and self._breaker.failures == 0

    def _deliver(self, rows: list[Op]) -> None:
        target = self.target
        for part in _parts([op for op in rows if op.kind == "metrics"]):
            self._stage(part, lambda ops: target.write(metrics=_metric_points(ops)))
        self._stage(
            [op for op in rows if op.kind == "params"], lambda ops: target.write(params=_merged(ops, last=False))
        )
        self._stage([op for op in rows if op.kind == "tags"], lambda ops: target.write(tags=_merged(ops, last=True)))
        for op in rows:
            if op.kind == "note":
                self._stage([op], lambda ops: target.note(str(ops[0].data["text"])))
            elif op.kind == "artifact":
                self._stage([op], lambda ops: target.artifact(str(ops[0].data["path"]), ops[0].data["content"]))

    def _stage(self, ops: list[Op], send: Callable[[list[Op]], None]) -> None:
        """Send the rows together; when that is refused, one by one, so that one bad row does not hold up the others."""
        if not ops:
            return
        try:
            send(ops)
        except RefusedError as error:
            if len(ops) == 1:
                self._done(ops, refused=True)
                self._trouble("refused", str(error))
                return
        else:
            self._done(ops)
            return
        refused: list[Op] = []
        for op in ops:
            try:
                send([op])
            except RefusedError as error:
                refused.append(op)
                if len(refused) == _REFUSALS == ops.index(op) + 1:
                    raise GoneError(f"{self.target.name} refuses every row: {error}") from error
                self._trouble("refused", str(error))
            else:
                self._done([op])
        self._done(refused, refused=True)

    def _done(self, ops: Iterable[Op], *, refused: bool = False) -> None:
        numbers = [op.n for op in ops]
        with self._condition:
            present = sum(self._rows.pop(n, None) is not None for n in numbers)
            superseded, self._superseded = self._superseded, []
        if refused:
            self.refused += present
        else:
            self.sent += present
        if numbers or superseded:
            self._on_sent(numbers + superseded)

    def _trouble(self, kind: str, sentence: str) -> None:
        self.error = sentence
        if kind not in self._told:
            self._told.add(kind)
            self._on_trouble(kind, sentence)


def _parts(ops: list[Op]) -> list[list[Op]]:
    return [ops[at : at + _ROWS_PER_CALL] for at in range(0, len(ops), _ROWS_PER_CALL)]


def _metric_points(ops: list[Op]) -> list[Point]:
    return [Point(key, value, op.time, op.step) for op in ops for key, value in op.data.items()]


def _merged(ops: list[Op], *, last: bool) -> dict[str, str]:
    merged: dict[str, str] = {}
    for op in ops if last else reversed(ops):
        merged.update(op.data)
    return merged


def _brief(error: BaseException) -> str:
    text = str(error).strip().splitlines()
    first = text[0] if text else ""
    return f"{type(error).__name__}: {first[:200]}" if first else type(error).__name__
