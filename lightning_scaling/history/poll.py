"""Reads, beside the training, how the other runs of an experiment stand, again and again."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path

from lightning_scaling.history.reader_thread import HistoryReader
from lightning_scaling.runs.history import RunHistory

_PAUSE = 60.0
_SHARE = 0.02


class CompetitorReader:
    """The relatives of a run as they stood at the latest reading, in a daemon thread; nobody waits for it.

    Between two readings passes at least a minute, and at least fifty times as long as a reading took.

    Args:
        what: As of :class:`~lightning_scaling.history.reader_thread.HistoryReader`.
        run_id: The run's own id in MLflow, if it has one.
        tracking_uri: Where that run is kept.
        metric: The metric the run follows; ``None`` for the training loss.
        clock: Monotonic clock in seconds.
    """

    def __init__(
        self,
        what: str | Path,
        *,
        run_id: str | None = None,
        tracking_uri: str | None = None,
        metric: str | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._reader = HistoryReader(what, run_id=run_id, tracking_uri=tracking_uri, metric=metric)
        self._clock = clock
        self._thread: threading.Thread | None = None
        self._due = -float("inf")
        self.error = ""
        self.runs: RunHistory | None = None

    def poll(self) -> RunHistory | None:
        """The relatives as last read; begins to read again if that is due."""
        if self._clock() >= self._due and (self._thread is None or not self._thread.is_alive()):
            self._due = float("inf")
            self._thread = threading.Thread(target=self._work, name="lightning-scaling-rivals", daemon=True)
            self._thread.start()
        return self.runs

    def _work(self) -> None:
        begun = self._clock()
        try:
            self.runs, self.error = self._reader.relatives(), ""
        except Exception as error:
            self.error = str(error).strip() or type(error).__name__
        now = self._clock()
        self._due = now + max(_PAUSE, (now - begun) / _SHARE)
