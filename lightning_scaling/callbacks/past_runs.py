"""Past runs that give a monitor its prior: passed by the user, or read in the background."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from lightning_scaling.callbacks.console import Console
from lightning_scaling.callbacks.run_logger import RunLogger
from lightning_scaling.callbacks.settings import Settings
from lightning_scaling.engine.monitor import Monitor
from lightning_scaling.forecast import family_prior
from lightning_scaling.forecast.priors.base import ShapePrior
from lightning_scaling.forecast.priors.family import Family
from lightning_scaling.history.reader_thread import HistoryReader
from lightning_scaling.runs.history import RunHistory
from lightning_scaling.tracking import EventKind


class PastRuns:
    """Has past runs read in a thread of their own, on rank zero, and passes them to the engine when they are there.

    Args:
        settings: The arguments of the callback.
        console: Where to report what was read.
        engine: The engine that uses them.
        logger: Knows the run's own place in MLflow, and writes the journal.

    Attributes:
        runs: Past runs of the family; ``None`` until they are known.
        source: Where they are read from, if they are.
    """

    def __init__(self, settings: Settings, console: Console, engine: Monitor, logger: RunLogger) -> None:
        self.runs: RunHistory | None = settings.past_runs
        self.source: str | Path | None = settings.to_read
        self._console, self._engine, self._logger = console, engine, logger
        self._reader: HistoryReader[Family | ShapePrior] | None = None
        if self.source is not None and logger.first:
            prior = partial(family_prior, params=engine.config.params)
            reader = HistoryReader(self.source, **logger.own_run_fields, metric=settings.monitor, then=prior)
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

    def deliver(self) -> None:
        """Pass what has been read to the engine, if it is ready, and journal the step at which it takes effect."""
        found = None if self._reader is None else self._reader.poll()
        if found is None:
            return
        self._reader = None
        if found.history is not None:
            self.runs = found.history
            self._engine.learn(found.history, prior=found.result)
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
