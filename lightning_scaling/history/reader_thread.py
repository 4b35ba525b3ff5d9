"""Reads the history of a run that is already training, beside it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from lightning_scaling.forecast import family_prior
from lightning_scaling.forecast.priors.base import ShapePrior
from lightning_scaling.history import aliases as names
from lightning_scaling.history.calibration_store import calibration_of
from lightning_scaling.history.read import find_run, read_experiment, tracking_uri_or_default
from lightning_scaling.runs.history import RunHistory
from lightning_scaling.runs.run import Run

MLFLOW = "mlflow:"
AUTO = "auto"
THREAD = "lightning-scaling-history"

_ENOUGH = 2
_ENDED = 0.98
_SEARCHED = 300
_MOST = 100
_SECONDS = 15.0


@dataclass(frozen=True)
class Learned:
    """What came of reading a history.

    Attributes:
        history: The relatives; ``None`` if there are too few or they could not be read.
        prior: What they teach, worked out beside the training.
        sentence: What to tell the user.
        failed: Whether it could not be read.
        data: For the journal: the prior, and which runs it rests on, as builtins.
    """

    history: RunHistory | None
    prior: Any
    sentence: str
    failed: bool = False
    data: dict[str, Any] = field(default_factory=dict)


class HistoryReader:
    """Reads a history in a daemon thread, so that training waits neither for a server nor for a disk.

    Args:
        what: ``"auto"`` for the run's own experiment, ``"mlflow:EXPERIMENT"``, or a folder of CSV files.
        run_id: The run's own id in MLflow, if it has one: the run is not its own relative.
        tracking_uri: Where that run is kept.
        metric: The metric the run follows; ``None`` for the training loss.
        params: Number of parameters of the run.
        timeout: Seconds without an answer after which MLflow counts as unreachable.
    """

    def __init__(
        self,
        what: str | Path,
        *,
        run_id: str | None = None,
        tracking_uri: str | None = None,
        metric: str | None = None,
        params: int | None = None,
        timeout: float = _SECONDS,
    ) -> None:
        self._what = what
        self._run_id = run_id
        self._uri = tracking_uri
        self._metric = metric
        self._params = params
        self._timeout = timeout
        self._learned: Learned | None = None
        self._note = ""
        self._thread = threading.Thread(target=self._work, name=THREAD, daemon=True)

    def start(self) -> HistoryReader:
        """Begin to read, if there is anything to read from."""
        if self._what == AUTO and self._run_id is None:
            sentence = "No prior yet: without an MLflow run there is no experiment to learn from."
            self._learned = Learned(None, None, sentence)
        else:
            self._thread.start()
        return self

    def poll(self) -> Learned | None:
        """What came of it, as soon as there is something; never waits."""
        return self._learned

    def relatives(self) -> RunHistory:
        """Read the relatives here and now, whether finished or not, without learning from them.

        Raises:
            Exception: Whatever keeps them from being read.
        """
        return self._relatives()[0]

    def _work(self) -> None:
        try:
            self._learned = self._read()
        except Exception as error:
            text = str(error).strip() or type(error).__name__
            self._learned = Learned(None, None, f"No history: {text.rstrip('.')}. Training goes on without it.", True)

    def _read(self) -> Learned:
        history, place = self._relatives()
        finished = sum(map(_finished, history))
        if finished < _ENOUGH:
            there = f"{finished} finished {'run' if finished == 1 else 'runs'}"
            sentence = f"No prior yet: {place} has {there} to learn from, {_ENOUGH} are needed."
            if history.skipped:
                reasons = ", ".join(f"{reason} {count:,}" for reason, count in history.skipped.items())
                sentence = f"{sentence[:-1]} (left out: {reasons})."
            return Learned(None, None, sentence)
        prior = family_prior(history, self._params)
        calibration = history.calibration
        data = {
            "source": place,
            "runs": [run.meta.get("run_id") or run.name for run in history],
            "prior": asdict(prior) if isinstance(prior, ShapePrior) else {"source": prior.source},
            "calibration": calibration.to_dict() if calibration else None,
        }
        others = "" if finished == len(history) else f" and {len(history) - finished} unfinished"
        sentence = f"Learned from {finished} finished{others} runs of {place}."
        for more in (calibration.sentence() if calibration else "", self._note):
            sentence += f" {more}" if more else ""
        return Learned(history, prior, sentence, data=data)

    def _relatives(self) -> tuple[RunHistory, str]:
        what = str(self._what)
        if what != AUTO and not (isinstance(self._what, str) and what.startswith(MLFLOW)):
            return RunHistory.from_csv(self._what), f"the folder {what}"
        uri = tracking_uri_or_default(self._uri)
        named = what.removeprefix(MLFLOW) if what != AUTO else None
        family, experiment = None, named
        if self._run_id is not None:
            own, its_experiment = find_run(self._run_id, uri, self._timeout)
            family = next(iter(own.labels(names.FAMILY).values()), its_experiment if named is None else None)
            experiment = named or its_experiment
        assert experiment is not None
        history, there = read_experiment(
            experiment,
            tracking_uri=uri,
            metric=self._metric or (names.OURS, *names.TRAIN),
            max_runs=_SEARCHED,
            timeout=self._timeout,
            readers=1,
            quiet=True,
        )
        place = f"the MLflow experiment {experiment!r}"
        if family not in (None, experiment):
            place = f"the family {family!r} of {place}"
        relatives = self._among(history, lambda run: family in (None, run.family))
        if len({run.family for run in relatives}) == 1:
            relatives.calibration, self._note = calibration_of(relatives, there, self._metric)
        return relatives, place

    def _among(self, history: RunHistory, related: Callable[[Run], bool]) -> RunHistory:
        runs = [run for run in history if run.meta.get("run_id") != self._run_id and related(run)]
        return RunHistory(runs[-_MOST:], skipped=history.skipped, lacking=history.lacking, source=history.source)


def _finished(run: Run) -> bool:
    seen = run.step[np.isfinite(run.loss)]
    return bool(seen.size) and int(seen[-1]) >= _ENDED * run.total_steps
