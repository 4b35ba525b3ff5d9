"""Past runs that give a monitor its prior: passed by the user, or read in the background."""

from __future__ import annotations

import pickle
from functools import partial
from pathlib import Path
from typing import TypeAlias

from lightning_scaling.callbacks.console import Console
from lightning_scaling.callbacks.distributed import Ranks
from lightning_scaling.callbacks.run_logger import RunLogger
from lightning_scaling.callbacks.settings import Settings
from lightning_scaling.engine.monitor import Monitor
from lightning_scaling.forecast import family_prior
from lightning_scaling.forecast.priors.base import ShapePrior
from lightning_scaling.forecast.priors.family import Family
from lightning_scaling.history.reader_thread import HistoryReader, ReadHistory
from lightning_scaling.runs.history import RunHistory
from lightning_scaling.tracking import EventKind

Prior: TypeAlias = Family | ShapePrior


def _learn(history: RunHistory, *, params: int | None, shared: bool) -> tuple[Prior, bytes]:
    """The prior made of past runs, and both as the bytes that other ranks get."""
    prior = family_prior(history, params)
    return prior, pickle.dumps((history, prior)) if shared else b""


class PastRuns:
    """Has past runs read in a thread of their own, on rank zero, and passes them to all engines when they are there.

    Args:
        settings: The arguments of the callback.
        console: Where to report what was read.
        engine: The engine that uses them.
        logger: Knows the run's own place in MLflow, and writes the journal.
        world: How many processes the run has.

    Attributes:
        runs: Past runs of the family; ``None`` until they are known.
        source: Where they are read from, if they are.
    """

    def __init__(self, settings: Settings, console: Console, engine: Monitor, logger: RunLogger, world: int) -> None:
        self.runs: RunHistory | None = settings.past_runs
        self.source: str | Path | None = settings.to_read
        self._console, self._engine, self._logger = console, engine, logger
        self._reader: HistoryReader[tuple[Prior, bytes]] | None = None
        self._found: ReadHistory[tuple[Prior, bytes]] | None = None
        self._shared: tuple[RunHistory, Prior] | None = None
        if self.source is not None and logger.first:
            learn = partial(_learn, params=engine.config.params, shared=world > 1)
            reader = HistoryReader(self.source, **logger.own_run_fields, metric=settings.monitor, then=learn)
            self._reader = reader.start()

    @property
    def reading(self) -> bool:
        """Whether they are still being read."""
        return self._reader is not None

    def _mark(self, data: dict[str, object]) -> None:
        self._logger.mark("history", max(self._engine.curve.last_step, 0), {"kind": EventKind.PRIOR, **data})

    def introduce(self) -> None:
        """Note in the journal runs that were given from the start."""
        given = self.runs
        if given:
            calibration = given.calibration.to_dict() if given.calibration else None
            source = given.source or "the runs given to the callback"
            runs = [run.meta.get("run_id") or run.name for run in given]
            self._mark({"source": source, "runs": runs, "calibration": calibration})

    @property
    def ready(self) -> bool:
        """Whether this rank has read them and not passed them on yet."""
        return self._reader is not None and self._reader.poll() is not None

    def share(self, ranks: Ranks) -> None:
        """Let all ranks have what rank zero has read.

        To be called by all ranks at one point, once rank zero is :attr:`ready`.
        """
        found = None if self._reader is None else self._reader.poll()
        if found is None:  # pickled from memory to memory, within one job: nothing of it is stored
            sent = ranks.broadcast(b"")
            self._shared = pickle.loads(sent) if sent else None
            return
        self._reader, self._found = None, found
        prior, sent = found.result or (None, b"")
        if ranks.world > 1:
            ranks.broadcast(sent)
        if found.history is not None and prior is not None:
            self._shared = found.history, prior

    def deliver(self) -> None:
        """Pass what was shared to the engine, and journal the step at which it takes effect."""
        (found, shared), self._found, self._shared = (self._found, self._shared), None, None
        if shared is not None:
            self.runs, prior = shared
            self._engine.learn(self.runs, prior=prior)
        if found is None:
            return
        if shared is not None:
            self._mark(found.data)
            self._logger.prior_forecast(self._engine)
        if found.failed:
            self._console.warn_once("history", found.sentence)
        else:
            self._console.info(f"Scaling monitor: {found.sentence}")

    def cancel(self) -> None:
        """The training has ended."""
        if self._reader is not None:
            self._reader = None
            self._console.info("Scaling monitor: The history had not been read when the training ended.")
