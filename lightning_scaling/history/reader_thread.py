"""Reading of past runs in a daemon thread, while the run trains."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Generic, TypeVar

from lightning_scaling._utils.formatting import plural
from lightning_scaling.history import aliases
from lightning_scaling.history.backends import tracking_uri_or_default
from lightning_scaling.history.calibration_store import calibration_of
from lightning_scaling.history.folder import history_from_folder
from lightning_scaling.history.read import find_run, read_experiment
from lightning_scaling.runs.history import RunHistory

MLFLOW = "mlflow:"
AUTO = "auto"
THREAD = "lightning-scaling-history"

T = TypeVar("T")

_MIN_FINISHED = 2
_MAX_SEARCHED = 300
_MAX_RUNS = 100
_TIMEOUT_SECONDS = 15.0
_MIN_PAUSE_SECONDS = 60.0
_MAX_TIME_SHARE = 0.02


@dataclass(frozen=True)
class ReadHistory(Generic[T]):
    """The result of reading past runs.

    Attributes:
        history: The past runs; ``None`` if there are too few or they could not be read.
        result: What ``then`` returned for them.
        sentence: A message for the user.
        failed: Whether they could not be read.
        data: For the journal: where the runs are from, their ids and their calibration, as builtins.
    """

    history: RunHistory | None
    result: T | None
    sentence: str
    failed: bool = False
    data: dict[str, Any] = field(default_factory=dict)


class HistoryReader(Generic[T]):
    """Reads past runs in a daemon thread, so that training waits neither for a server nor for a disk.

    Args:
        source: ``"auto"`` for the run's own experiment, ``"mlflow:EXPERIMENT"``, or a folder of CSV files.
        then: Called with the past runs in the same thread, where there are enough of them.
        **known: What is known of the run, as of :func:`past_runs`.
    """

    def __init__(self, source: str | Path, *, then: Callable[[RunHistory], T] | None = None, **known: Any) -> None:
        self._source = source
        self._then = then
        self._known = known
        self._found: ReadHistory[T] | None = None
        self._thread = threading.Thread(target=self._work, name=THREAD, daemon=True)

    def start(self) -> HistoryReader[T]:
        """Begin to read, if there is anything to read from."""
        if self._source == AUTO and self._known.get("run_id") is None:
            sentence = "No prior yet: without an MLflow run there is no experiment to learn from."
            self._found = ReadHistory(None, None, sentence)
        else:
            self._thread.start()
        return self

    def poll(self) -> ReadHistory[T] | None:
        """The result, as soon as there is one; never waits."""
        return self._found

    def _work(self) -> None:
        try:
            self._found = self._read()
        except Exception as error:
            text = str(error).strip() or type(error).__name__
            self._found = ReadHistory(None, None, f"No history: {text.rstrip('.')}. Training goes on without it.", True)

    def _read(self) -> ReadHistory[T]:
        history, place, note = past_runs(self._source, **self._known)
        finished = sum(run.finished for run in history)
        if finished < _MIN_FINISHED:
            there = plural(finished, "finished run")
            sentence = f"No prior yet: {place} has {there} to learn from, {_MIN_FINISHED} are needed"
            if history.skipped:
                sentence += f" (left out: {', '.join(f'{why} {count:,}' for why, count in history.skipped.items())})"
            return ReadHistory(None, None, f"{sentence}.")
        result = None if self._then is None else self._then(history)
        calibration = history.calibration
        data = {
            "source": place,
            "runs": [run.meta.get("run_id") or run.name for run in history],
            "calibration": calibration.to_dict() if calibration else None,
        }
        others = "" if finished == len(history) else f" and {len(history) - finished} unfinished"
        sentence = f"Learned from {finished} finished{others} runs of {place}."
        corrected = calibration.sentence() if calibration else ""
        return ReadHistory(history, result, " ".join(filter(None, (sentence, corrected, note))), data=data)


def past_runs(
    source: str | Path,
    *,
    run_id: str | None = None,
    tracking_uri: str | None = None,
    metric: str | None = None,
    timeout: float = _TIMEOUT_SECONDS,
) -> tuple[RunHistory, str, str]:
    """The past runs of a run, finished or not, read in the calling thread.

    Args:
        source: As of :class:`HistoryReader`.
        run_id: The run's own id in MLflow, if it has one: the run is not one of its own past runs.
        tracking_uri: Where that run is kept.
        metric: The metric the run follows; ``None`` for the training loss.
        timeout: Seconds without an answer after which MLflow counts as unreachable.

    Returns:
        The runs, where they are from, and why a stored calibration is not used, if so.

    Raises:
        Exception: Whatever keeps them from being read.
    """
    named = source.removeprefix(MLFLOW) if isinstance(source, str) and source.startswith(MLFLOW) else None
    if named is None and source != AUTO:
        return history_from_folder(source), f"the folder {source}", ""
    uri = tracking_uri_or_default(tracking_uri)
    family, experiment = None, named
    if run_id is not None:
        own, its_experiment = find_run(run_id, uri, timeout)
        family = next(iter(own.labels(aliases.FAMILY).values()), its_experiment if named is None else None)
        experiment = named or its_experiment
    assert experiment is not None
    history, there = read_experiment(
        experiment,
        tracking_uri=uri,
        metric=metric or aliases.TRAIN_LOSSES,
        max_runs=_MAX_SEARCHED,
        timeout=timeout,
        readers=1,
    )
    related = [run for run in history if run.meta.get("run_id") != run_id and family in (None, run.family)]
    history, note = history.with_runs(related[-_MAX_RUNS:]), ""
    if len({run.family for run in history}) == 1:
        history.calibration, note = calibration_of(history, there, metric)
    place = f"the MLflow experiment {experiment!r}"
    return history, place if family in (None, experiment) else f"the family {family!r} of {place}", note


class CompetitorReader:
    """The other runs of an experiment as of the latest reading, in a daemon thread; nobody waits for it.

    Between two readings at least a minute passes, and at least fifty times the duration of a reading.

    Args:
        source: As of :class:`HistoryReader`.
        clock: Monotonic clock in seconds.
        **known: What is known of the run, as of :func:`past_runs`.
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
