"""Repeated reading of the other runs of an experiment, while the run trains."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from lightning_scaling.history.reader_thread import past_runs
from lightning_scaling.runs.history import RunHistory

_MIN_PAUSE_SECONDS = 60.0
_MAX_TIME_SHARE = 0.02


class CompetitorReader:
    """The other runs of an experiment as of the latest reading, in a daemon thread; nobody waits for it.

    Between two readings at least a minute passes, and at least fifty times the duration of a reading.

    Args:
        source: As of :class:`~lightning_scaling.history.reader_thread.HistoryReader`.
        clock: Monotonic clock in seconds.
        **known: What is known of the run, as of :func:`~lightning_scaling.history.reader_thread.past_runs`.
    """

    def __init__(self, source: str | Path, *, clock: Callable[[], float] = time.monotonic, **known: Any) -> None:
        self._read = partial(past_runs, source, **known)
        self._clock = clock
        self._thread: threading.Thread | None = None
        self._due = -float("inf")
        self.error = ""
        self.runs: RunHistory | None = None

    def poll(self) -> RunHistory | None:
        """The runs as last read; starts another reading if one is due."""
        if self._clock() >= self._due and (self._thread is None or not self._thread.is_alive()):
            self._due = float("inf")
            self._thread = threading.Thread(target=self._work, name="lightning-scaling-competitors", daemon=True)
            self._thread.start()
        return self.runs

    def _work(self) -> None:
        begun = self._clock()
        try:
            self.runs, self.error = self._read()[0], ""
        except Exception as error:
            self.error = str(error).strip() or type(error).__name__
        now = self._clock()
        self._due = now + max(_MIN_PAUSE_SECONDS, (now - begun) / _MAX_TIME_SHARE)
