"""The writing side of a run: everything goes to the journal, and from there to the targets, never waiting for them."""

from __future__ import annotations

import atexit
import functools
import logging
import os
import posixpath
import time
import weakref
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Concatenate, ParamSpec

from numpy.typing import ArrayLike

from lightning_scaling._utils.serialization import finite_or_none
from lightning_scaling.tracking.backends.base import RunTarget, cause_of
from lightning_scaling.tracking.backends.lightning_logger import LoggerTarget
from lightning_scaling.tracking.delivery import TargetReport, TrackerReport
from lightning_scaling.tracking.delivery_log import DeliveryLog
from lightning_scaling.tracking.detect import Target
from lightning_scaling.tracking.journal import Journal
from lightning_scaling.tracking.schema import params_of, scoped
from lightning_scaling.tracking.sink import DirectSink, Op, Sink

_P = ParamSpec("_P")
_logger = logging.getLogger(__name__)
_LARGEST_STEP = 2**63 - 1
_SLOW_AFTER = 30.0
_AT_EXIT = 5.0
_COMFORT = {
    "logger": " It is given no more metrics in this run; training goes on.",
    "refused": " The other rows are sent; training goes on.",
}


def _safely(method: Callable[Concatenate[Tracker, _P], None]) -> Callable[Concatenate[Tracker, _P], None]:
    """Do nothing in a tracker that is closed or was forked; turn an exception into one sentence."""

    @functools.wraps(method)
    def wrapped(self: Tracker, /, *args: _P.args, **kwargs: _P.kwargs) -> None:
        if self._report is not None or os.getpid() != self._pid:
            return
        try:
            method(self, *args, **kwargs)
        except Exception as error:
            self._left_out += 1
            self._error = f"Tracker.{method.__name__} left something out: {cause_of(error)}"
            self._once(method.__name__, self._error)

    return wrapped


class Tracker:
    """Writes a run to its journal and its targets. No method raises, and none waits for a target.

    Metrics reach a Lightning logger at once, in the calling thread; all else reaches MLflow from a daemon thread.
    Create it on rank zero only. Nothing is opened and no thread started before the first row, so a tracker can be
    pickled and sent to another process; there it begins a new segment of the journal.

    Args:
        targets: Where to write besides the journal, for example from :func:`find_targets`.
        journal: Path of the journal, or ``None`` for none (see :func:`new_journal_path`).
        header: What the journal says of the run (plan, counts, versions, ...), builtins.
        interval: Shortest time between two batches to a target, in seconds.
        limit: Most rows that wait in memory for one target.
        max_bytes: Size of the journal beyond which no more curve points are written.
        deadline: Time that :meth:`close` gives to the targets, in seconds. A tracker that nobody closed is closed when
            the interpreter exits, within 5 s.
        scope: What names are distinguished by where another tracker writes to the same targets, see
            :func:`~lightning_scaling.tracking.schema.scoped`; the description is then left to the other.
        say: Called with one sentence when something goes wrong, also from another thread; by default a warning in the
            log, and in a copy that was pickled always that.

    Example:
        >>> tracker = Tracker([], journal=None)
        >>> tracker.metrics({"scaling/loss": 2.5}, step=10)
        >>> tracker.close().waiting
        0
    """

    def __init__(
        self,
        targets: Iterable[Target] = (),
        *,
        journal: Path | str | None = None,
        header: Mapping[str, Any] | None = None,
        interval: float = 5.0,
        limit: int = 2000,
        max_bytes: int | None = 64 * 2**20,
        deadline: float = 5.0,
        scope: str = "",
        say: Callable[[str], None] | None = None,
    ) -> None:
        self.targets = list(targets)
        self._settings = {
            "targets": self.targets,
            "journal": journal,
            "header": dict(header or {}),
            "interval": interval,
            "limit": limit,
            "max_bytes": max_bytes,
            "deadline": deadline,
            "scope": scope,
        }
        self._say = say or _logger.warning
        self._deadline, self._scope = deadline, scope
        self._pid = os.getpid()
        self._journal: Journal | None = None
        if journal is not None:
            described = [target.describe() for target in self.targets]
            self._journal = Journal(journal, header=header, targets=described, max_bytes=max_bytes, say=self._say)
        self._delivered: DeliveryLog | None = None
        # Targets with a thread of their own come first, so that a logger that takes its time does not delay their rows.
        self._sinks = [
            DirectSink(one, self._trouble) if isinstance(one, LoggerTarget) else self._sink(one, interval, limit)
            for one in sorted(self.targets, key=lambda target: isinstance(target, LoggerTarget))
        ]
        self._n = self._nonfinite = self._left_out = 0
        self._error = ""
        self._mentioned: set[str] = set()
        self._report: TrackerReport | None = None
        _open_trackers.add(self)

    def _sink(self, target: RunTarget, interval: float, limit: int) -> Sink:
        on_sent = functools.partial(self._on_sent, target)
        return Sink(target, interval=interval, limit=limit, on_sent=on_sent, on_trouble=self._trouble)

    def __getstate__(self) -> dict[str, Any]:
        return self._settings

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]

    @property
    def journal_path(self) -> Path | None:
        """The journal as it is named once it is open, or ``None`` without one."""
        return None if self._journal is None else self._journal.path

    @property
    def position(self) -> dict[str, Any]:
        """Where the journal stands: its segment and how many rows of it there are; empty without a journal."""
        return {} if self._journal is None else {"segment": self._journal.segment, "rows": self._journal.rows}

    @_safely
    def metrics(self, values: Mapping[str, Any], step: int) -> None:
        """Write metrics of one optimizer step. Values that are not finite are left out and counted."""
        at = int(step)
        if at != step or not -_LARGEST_STEP <= at <= _LARGEST_STEP:
            self._left_out += len(values)
            return
        kept = {scoped(str(key), self._scope): finite_or_none(value) for key, value in values.items()}
        numbers = {key: value for key, value in kept.items() if value is not None}
        unusable = [hasattr(value, "__float__") for value in values.values() if finite_or_none(value) is None]
        self._nonfinite += sum(unusable)
        self._left_out += len(unusable) - sum(unusable)
        self._send("metrics", {"step": at, "values": kept}, numbers, at)

    @_safely
    def params(self, values: Mapping[str, Any]) -> None:
        """Write parameters of the run, as ``scaling.<key>``. The first value of a key stays; ``None`` is left out."""
        self._texts("params", params_of({str(key): value for key, value in values.items()}))

    @_safely
    def tags(self, values: Mapping[str, Any]) -> None:
        """Write tags of the run; the last value of a key stays; ``None`` is left out."""
        self._texts("tags", {str(key): str(value) for key, value in values.items() if value is not None})

    def _texts(self, kind: str, values: dict[str, str]) -> None:
        values = {scoped(key, self._scope): value for key, value in values.items()}
        if values:
            self._send(kind, {"values": values}, values)

    @_safely
    def note(self, markdown: str) -> None:
        """Write the description of the run; one that somebody else wrote is left alone."""
        if not self._scope:
            self._send("note", {"text": str(markdown)}, {"text": str(markdown)})

    @_safely
    def artifact(self, path: str, content: str | bytes) -> None:
        """Write a file of the run; a later one of the same path replaces it.

        Args:
            path: Where it belongs under the run, for example ``"scaling/curve.csv"``.
            content: Text (stored as UTF-8) or bytes.
        """
        place = scoped(posixpath.normpath(str(path)), self._scope)
        if place.startswith(("/", "..")) or place == ".":
            raise ValueError(f"the path of an artifact is relative and stays within the run, but got {path!r}")
        data = content.encode() if isinstance(content, str) else bytes(content)
        if self._journal is not None:
            self._journal.store(place, data)
        self._send("artifact", {"path": place, "bytes": len(data)}, {"path": place, "content": data})

    @_safely
    def points(self, /, step: ArrayLike, loss: ArrayLike, **columns: ArrayLike | None) -> None:
        """Write curve points to the journal only; arguments as :meth:`Journal.points`."""
        if self._journal is not None:
            self._journal.points(step, loss, **columns)
            self._journal.flush()

    @_safely
    def update(self, update: Mapping[str, Any]) -> None:
        """Write an update of the monitor (``Update.to_dict()``) to the journal only."""
        self._write("update", {"data": dict(update)})

    @_safely
    def mark(self, reason: str, step: int | None = None, data: Mapping[str, Any] | None = None) -> None:
        """Write an event to the journal only: a resume, a change of data, a new plan."""
        self._write("mark", {"reason": reason, "step": step, "data": dict(data or {})})

    def status(self) -> TrackerReport:
        """What has been written so far."""
        if self._report is not None:
            return self._report
        reports = [self._target_report(sink) for sink in self._sinks]
        journal = self._journal
        errors = [*(one.error for one in reports), journal.error if journal is not None else "", self._error]
        path, rows, unwritten, nonfinite = None, 0, 0, 0
        if journal is not None:
            path, rows, unwritten, nonfinite = str(journal.path), journal.rows, journal.waiting, journal.nonfinite
        error = next(filter(None, reversed(errors)), "")
        nonfinite += self._nonfinite
        return TrackerReport(tuple(reports), path, rows, unwritten, nonfinite, self._left_out, error)

    def _target_report(self, sink: Sink | DirectSink) -> TargetReport:
        # What left a full queue can still be sent from the journal, if all of it is on disk.
        journaled = self._journal is not None and not self._journal.waiting
        waiting = sink.waiting + (sink.overflowed if journaled else 0)
        dropped = sink.refused + (0 if journaled else sink.overflowed)
        blocked = sink.blocked()
        name, kind = sink.target.name, getattr(sink.target, "kind", type(sink.target).__name__)
        silent = f"{name} has not answered for {blocked:.1f} s." if waiting and blocked > 0.1 else ""
        return TargetReport(name, kind, sink.sent, waiting, dropped, sink.error or silent)

    def close(self, deadline: float | None = None, **end: Any) -> TrackerReport:
        """End the run: send what waits, until the deadline; what is left stays in the journal.

        Args:
            deadline: Seconds given to all targets together; by default that of the tracker.
            end: What the last row of the journal says, builtins.

        Returns:
            What was sent and what was not. A second call returns the same.
        """
        if self._report is not None or os.getpid() != self._pid:
            return self.status()
        _open_trackers.discard(self)
        until = time.monotonic() + (self._deadline if deadline is None else deadline)
        try:
            if self._journal is not None:
                self._journal.close(**end)
            for sink in self._sinks:
                sink.close(until - time.monotonic())
        except Exception as error:
            self._error = f"The tracker could not be closed in order: {cause_of(error)}"
        self._report = self.status()
        if self._report.message:
            self._speak(self._report.message)
        return self._report

    def _on_sent(self, target: Target, rows: list[int]) -> None:
        if self._journal is not None:
            if self._delivered is None:
                self._delivered = DeliveryLog(self._journal.path)
            self._delivered.add(target.key, self._journal.segment, rows)

    def _write(self, op: str, fields: Mapping[str, Any]) -> tuple[int, int]:
        if self._journal is not None:
            row = self._journal.write(op, fields)
            self._journal.flush()
            return row
        self._n += 1
        return self._n, time.time_ns() // 1_000_000

    def _send(self, kind: str, row: Mapping[str, Any], data: Mapping[str, Any], step: int = 0) -> None:
        """Write a row to the journal, and give its data to the targets if there are any."""
        n, now = self._write(kind, row)
        for sink in self._sinks if data else ():
            sink.put(Op(n, kind, now, data, step))
            if sink.blocked() > _SLOW_AFTER:
                sentence = f"{sink.target.name} has not answered for {_SLOW_AFTER:.0f} s.{self._comfort('failure')}"
                self._once(f"slow {sink.target.key}", sentence)

    def _trouble(self, kind: str, sentence: str) -> None:
        self._speak(sentence + self._comfort(kind))

    def _comfort(self, kind: str) -> str:
        if kind in _COMFORT:
            return _COMFORT[kind]
        kept = "in memory" if self._journal is None else f"in {self._journal.path}"
        later = "until they can be sent" if kind == "gone" else "and sent when it answers"
        return f" Training goes on; rows are kept {kept} {later}."

    def _once(self, what: str, sentence: str) -> None:
        if what not in self._mentioned:
            self._mentioned.add(what)
            self._speak(sentence)

    def _speak(self, sentence: str) -> None:
        try:
            self._say(sentence)
        except Exception:
            _logger.debug("say() failed", exc_info=True)


_open_trackers: weakref.WeakSet[Tracker] = weakref.WeakSet()


@atexit.register
def _close_open_trackers() -> None:
    until = time.monotonic() + _AT_EXIT
    for tracker in list(_open_trackers):
        tracker.close(until - time.monotonic())
