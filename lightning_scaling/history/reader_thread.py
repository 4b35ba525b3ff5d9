"""Reading of past runs in a daemon thread, while the run trains."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np

from lightning_scaling.history import aliases
from lightning_scaling.history.calibration_store import calibration_of
from lightning_scaling.history.read import find_run, read_experiment, tracking_uri_or_default
from lightning_scaling.runs.history import RunHistory
from lightning_scaling.runs.run import Run

MLFLOW = "mlflow:"
AUTO = "auto"
THREAD = "lightning-scaling-history"

T = TypeVar("T")

_MIN_FINISHED = 2
_MIN_FINISHED_SHARE = 0.98
_MAX_SEARCHED = 300
_MAX_RUNS = 100
_TIMEOUT_SECONDS = 15.0


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
        run_id: The run's own id in MLflow, if it has one: the run is not one of its own past runs.
        tracking_uri: Where that run is kept.
        metric: The metric the run follows; ``None`` for the training loss.
        timeout: Seconds without an answer after which MLflow counts as unreachable.
    """

    def __init__(
        self,
        source: str | Path,
        *,
        then: Callable[[RunHistory], T] | None = None,
        run_id: str | None = None,
        tracking_uri: str | None = None,
        metric: str | None = None,
        timeout: float = _TIMEOUT_SECONDS,
    ) -> None:
        self._source = source
        self._then = then
        self._run_id = run_id
        self._uri = tracking_uri
        self._metric = metric
        self._timeout = timeout
        self._found: ReadHistory[T] | None = None
        self._note = ""
        self._thread = threading.Thread(target=self._work, name=THREAD, daemon=True)

    def start(self) -> HistoryReader[T]:
        """Begin to read, if there is anything to read from."""
        if self._source == AUTO and self._run_id is None:
            sentence = "No prior yet: without an MLflow run there is no experiment to learn from."
            self._found = ReadHistory(None, None, sentence)
        else:
            self._thread.start()
        return self

    def poll(self) -> ReadHistory[T] | None:
        """The result, as soon as there is one; never waits."""
        return self._found

    def read(self) -> RunHistory:
        """Read the runs in the calling thread, whether finished or not, without calling ``then``.

        Raises:
            Exception: Whatever keeps them from being read.
        """
        return self._past_runs()[0]

    def _work(self) -> None:
        try:
            self._found = self._read()
        except Exception as error:
            text = str(error).strip() or type(error).__name__
            self._found = ReadHistory(None, None, f"No history: {text.rstrip('.')}. Training goes on without it.", True)

    def _read(self) -> ReadHistory[T]:
        history, place = self._past_runs()
        finished = sum(map(_finished, history))
        if finished < _MIN_FINISHED:
            there = f"{finished} finished {'run' if finished == 1 else 'runs'}"
            sentence = f"No prior yet: {place} has {there} to learn from, {_MIN_FINISHED} are needed."
            if history.skipped:
                reasons = ", ".join(f"{reason} {count:,}" for reason, count in history.skipped.items())
                sentence = f"{sentence[:-1]} (left out: {reasons})."
            return ReadHistory(None, None, sentence)
        result = None if self._then is None else self._then(history)
        calibration = history.calibration
        data = {
            "source": place,
            "runs": [run.meta.get("run_id") or run.name for run in history],
            "calibration": calibration.to_dict() if calibration else None,
        }
        others = "" if finished == len(history) else f" and {len(history) - finished} unfinished"
        sentence = f"Learned from {finished} finished{others} runs of {place}."
        for more in (calibration.sentence() if calibration else "", self._note):
            sentence += f" {more}" if more else ""
        return ReadHistory(history, result, sentence, data=data)

    def _past_runs(self) -> tuple[RunHistory, str]:
        source = str(self._source)
        if source != AUTO and not (isinstance(self._source, str) and source.startswith(MLFLOW)):
            return RunHistory.from_csv(self._source), f"the folder {source}"
        uri = tracking_uri_or_default(self._uri)
        named = source.removeprefix(MLFLOW) if source != AUTO else None
        family, experiment = None, named
        if self._run_id is not None:
            own, its_experiment = find_run(self._run_id, uri, self._timeout)
            family = next(iter(own.labels(aliases.FAMILY).values()), its_experiment if named is None else None)
            experiment = named or its_experiment
        assert experiment is not None
        history, there = read_experiment(
            experiment,
            tracking_uri=uri,
            metric=self._metric or aliases.TRAIN_LOSSES,
            max_runs=_MAX_SEARCHED,
            timeout=self._timeout,
            readers=1,
            quiet=True,
        )
        place = f"the MLflow experiment {experiment!r}"
        if family not in (None, experiment):
            place = f"the family {family!r} of {place}"
        runs = self._among(history, lambda run: family in (None, run.family))
        if len({run.family for run in runs}) == 1:
            runs.calibration, self._note = calibration_of(runs, there, self._metric)
        return runs, place

    def _among(self, history: RunHistory, related: Callable[[Run], bool]) -> RunHistory:
        runs = [run for run in history if run.meta.get("run_id") != self._run_id and related(run)]
        return RunHistory(runs[-_MAX_RUNS:], skipped=history.skipped, lacking=history.lacking, source=history.source)


def _finished(run: Run) -> bool:
    seen = run.step[np.isfinite(run.loss)]
    return bool(seen.size) and int(seen[-1]) >= _MIN_FINISHED_SHARE * run.total_steps
