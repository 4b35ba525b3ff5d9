"""The past runs that a monitor learns from: given, or read beside the training."""

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
from lightning_scaling.tracking.journal import HISTORY


class PastRuns:
    """Has past runs read in a thread of their own and hands them to the engine as soon as they are there.

    Args:
        settings: The arguments of the callback.
        console: Where to say what was learned.

    Attributes:
        runs: Past runs of the family, as soon as they are known.
    """

    def __init__(self, settings: Settings, console: Console) -> None:
        self.runs: RunHistory | None = settings.past_runs
        self._settings = settings
        self._console = console
        self._teacher: HistoryReader[Family | ShapePrior] | None = None

    @property
    def source(self) -> str | Path | None:
        """Where they are read from, if they are."""
        return self._settings.to_read

    @property
    def reading(self) -> bool:
        """Whether they are still being read."""
        return self._teacher is not None

    def open(self, engine: Monitor, record: RunLogger, *, first: bool) -> None:
        """Begin to read, on rank zero.

        Args:
            engine: The engine that is going to learn from them.
            record: Knows the run's own place in MLflow.
            first: Whether this is rank zero.
        """
        if self.source is None or not first:
            return
        own = record.own_run
        self._teacher = HistoryReader(
            self.source,
            run_id=None if own is None else own.run_id,
            tracking_uri=None if own is None else own.tracking_uri,
            metric=self._settings.monitor,
            then=partial(family_prior, params=engine.config.params),
        ).start()

    def introduce(self, engine: Monitor, record: RunLogger) -> None:
        """Note in the journal runs that were given from the start."""
        history = self._settings.past_runs
        if not history:
            return
        data = {
            "source": history.source or "the runs given to the callback",
            "runs": [run.meta.get("run_id") or run.name for run in history],
            "calibration": history.calibration.to_dict() if history.calibration else None,
        }
        record.mark("history", max(engine.curve.last_step, 0), {"kind": HISTORY, **data})

    def learn(self, engine: Monitor, record: RunLogger) -> None:
        """Hand over what has been read; the journal says from which step on it counts."""
        learned = None if self._teacher is None else self._teacher.poll()
        if learned is None:
            return
        self._teacher = None
        if learned.history is not None:
            self.runs = learned.history
            engine.learn(learned.history, prior=learned.result)
            record.mark("history", max(engine.curve.last_step, 0), {"kind": HISTORY, **learned.data})
            record.foretell(engine)
        if learned.failed:
            self._console.once("history", learned.sentence)
        else:
            self._console.line(f"Scaling monitor: {learned.sentence}")

    def give_up(self) -> None:
        """The training has ended."""
        if self._teacher is not None:
            self._teacher = None
            self._console.line("Scaling monitor: The history had not been read when the training ended.")
