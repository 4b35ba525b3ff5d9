"""Sends rows to a slow or dead target from a thread of its own, so that training never waits for it."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from lightning_scaling.tracking.backends.base import GoneError, Point, RefusedError, RunTarget, cause_of
from lightning_scaling.tracking.backends.lightning_logger import LoggerTarget

_logger = logging.getLogger(__name__)
_ROWS_PER_CALL = 200
_REFUSALS = 3


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

    def replaces(self, other: Op) -> bool:
        """Whether nothing would be left of an earlier row once this one is sent."""
        if self.kind != other.kind or self.kind not in ("tags", "note", "artifact"):
            return False
        if self.kind == "tags":
            return other.data.keys() <= self.data.keys()
        return self.kind == "note" or bool(other.data["path"] == self.data["path"])


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
        self.succeeded()

    def failed(self, now: float) -> None:
        """A call failed at this time."""
        self.until = now + min(self.first * self.factor ** min(self.failures, 50), self.longest)
        self.failures += 1

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
    child the sink does nothing.

    Args:
        target: Where the rows go.
        interval: Shortest time between two batches, in seconds.
        limit: Most rows that wait in memory; beyond it the oldest metrics leave the queue (the journal keeps them).
        on_sent: Called in the sink's thread with the numbers of the rows that the target has taken.
        on_trouble: Called with what happened (``"failure"``, ``"refused"``, ``"gone"`` or ``"thread"``) and one
            sentence: once for each spell of failures, once in all for the others.
        breaker: When to try a failing target again.
        clock: Seconds from any origin.

    Attributes:
        sent: Rows that the target has taken.
        refused: Rows that it has refused.
        overflowed: Rows that have left a full queue.
        error: The last thing that went wrong, one sentence, or ``""``.
        gone: Whether the target takes no more rows.
    """

    def __init__(
        self,
        target: RunTarget,
        *,
        interval: float = 5.0,
        limit: int = 2000,
        on_sent: Callable[[list[int]], None] | None = None,
        on_trouble: Callable[[str, str], None] | None = None,
        breaker: Breaker | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.target, self.interval, self.limit = target, interval, limit
        self.sent = self.refused = self.overflowed = 0
        self.error = ""
        self.gone = False
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
        self._opened = self._closing = self._left = False
        self._reported: set[str] = set()

    @property
    def waiting(self) -> int:
        """Rows in memory that have not been sent."""
        return len(self._rows)

    def blocked(self) -> float:
        """Seconds since the call now under way began; 0 when none is."""
        since = self._busy_since
        return 0.0 if since is None else self._clock() - since

    def put(self, op: Op) -> None:
        """Queue a row. Takes microseconds; never waits for the target."""
        if self._closing or os.getpid() != self._pid:
            return
        with self._condition:
            for n in [n for n, other in self._rows.items() if op.replaces(other)]:
                del self._rows[n]
            self._rows[op.n] = op
            if len(self._rows) > self.limit:
                oldest = next((n for n, other in self._rows.items() if other.kind == "metrics"), next(iter(self._rows)))
                del self._rows[oldest]
                self.overflowed += 1
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
        if self._thread is not None:
            self._finished.wait(max(deadline, 0.0))
        self._left = True

    def _start(self) -> None:
        thread = threading.Thread(target=self._run, name="lightning-scaling-sink", daemon=True)
        try:
            thread.start()
        except RuntimeError as error:  # no threads while the interpreter shuts down
            self._trouble("thread", f"No thread could be started to send to {self.target.name} ({error}).")
        else:
            self._thread = thread

    def _run(self) -> None:
        try:
            while True:
                with self._condition:
                    while not self._rows or self.gone or (not self._closing and self._pause()):
                        if self._closing:
                            return
                        self._condition.wait(self._pause())
                    rows = list(self._rows.values())
                    closing = self._closing
                worked = self._attempt(rows)
                if self._left or (closing and not worked):
                    return
        finally:
            self._finished.set()

    def _pause(self) -> float | None:
        """Seconds until rows may be sent, or ``None`` when they may be now (or there is nothing to wait for)."""
        wait = max(self._next, self._breaker.until) - self._clock()
        return wait if self._rows and wait > 0 else None

    def _attempt(self, rows: list[Op]) -> bool:
        self._busy_since = self._clock()
        try:
            if not self._opened:
                self.target.open()
                self._opened = True
            self._deliver(rows)
        except GoneError as error:
            self.gone = True
            self._trouble("gone", str(error))
        except Exception as error:
            self._breaker.failed(self._clock())
            self._trouble("failure", f"{self.target.name} does not take what is sent ({cause_of(error)}).")
        else:
            self._breaker.succeeded()
            self._reported.discard("failure")
            return True
        finally:
            self._busy_since = None
            self._next = self._clock() + self.interval
        return False

    def _deliver(self, rows: list[Op]) -> None:
        target = self.target
        kinds = {kind: [op for op in rows if op.kind == kind] for kind in ("metrics", "params", "tags")}
        for at in range(0, len(kinds["metrics"]), _ROWS_PER_CALL):
            self._stage(kinds["metrics"][at : at + _ROWS_PER_CALL], lambda ops: target.write(metrics=_points(ops)))
        # The first value of a param stays, and the last one of a tag.
        self._stage(kinds["params"], lambda ops: target.write(params=_merged(ops[::-1])))
        self._stage(kinds["tags"], lambda ops: target.write(tags=_merged(ops)))
        for op in rows:
            if op.kind == "note":
                self._stage([op], lambda ops: target.note(str(ops[0].data["text"])))
            elif op.kind == "artifact":
                self._stage([op], lambda ops: target.artifact(str(ops[0].data["path"]), ops[0].data["content"]))

    def _stage(self, ops: list[Op], send: Callable[[list[Op]], None]) -> None:
        """Send the rows together; when that is refused, one by one, so that one bad row does not hold up the others."""
        if len(ops) > 1:
            with suppress(RefusedError):
                send(ops)
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
        with self._condition:
            self.refused += sum(self._rows.pop(op.n, None) is not None for op in refused)

    def _done(self, ops: list[Op]) -> None:
        with self._condition:
            self.sent += sum(self._rows.pop(op.n, None) is not None for op in ops)
        self._on_sent([op.n for op in ops])

    def _trouble(self, kind: str, sentence: str) -> None:
        self.error = sentence
        if kind not in self._reported:
            self._reported.add(kind)
            self._on_trouble(kind, sentence)


class DirectSink:
    """Gives the metrics to a logger in the calling thread; a logger that fails is left alone from then on.

    Args:
        target: The logger.
        on_trouble: Called with ``"logger"`` and one sentence when it fails.

    Attributes:
        sent: Rows that it has taken.
        refused: Rows that it has not.
        error: How it failed, one sentence, or ``""``.
    """

    waiting = overflowed = 0

    def __init__(self, target: LoggerTarget, on_trouble: Callable[[str, str], None]) -> None:
        self.target = target
        self.sent = self.refused = 0
        self.error = ""
        self._on_trouble = on_trouble

    def blocked(self) -> float:
        """Seconds since the call now under way began: it is over when anybody can ask."""
        return 0.0

    def put(self, op: Op) -> None:
        """Log a row of metrics; others are left out."""
        if op.kind != "metrics":
            return
        if not self.error:
            try:
                self.target.metrics(op.data, op.step)
            except Exception as error:
                self.error = f"{self.target.name} failed ({cause_of(error)})."
                self._on_trouble("logger", self.error)
        self.sent += not self.error
        self.refused += bool(self.error)

    def close(self, deadline: float) -> None:
        """Nothing waits."""


def _points(ops: list[Op]) -> list[Point]:
    return [Point(key, value, op.time, op.step) for op in ops for key, value in op.data.items()]


def _merged(ops: list[Op]) -> dict[str, str]:
    return {key: value for op in ops for key, value in op.data.items()}
