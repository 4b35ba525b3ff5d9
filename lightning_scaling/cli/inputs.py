"""The one reader of recorded runs: curves, journals, folders of them, and MLflow."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lightning_scaling.cli.output import Command, InputError, WorkError, errors, info

if TYPE_CHECKING:
    from lightning_scaling.history.mlflow_parse import Experiment
    from lightning_scaling.runs.history import RunHistory
    from lightning_scaling.runs.run import Run

MLFLOW, EXPERIMENT = "mlflow:", "mlflow-experiment:"
_RUN_ID = re.compile(r"[0-9a-f]{32}")
_RUN, _ONE_EXPERIMENT = ("a run", "mlflow:RUN_ID"), ("an experiment", "mlflow:EXPERIMENT")
_EITHER = ("a run or an experiment", "mlflow:RUN_ID or mlflow:EXPERIMENT")


def source_options(command: Command) -> Command:
    """Options that say how sources are read; the command gets them as one argument, its :class:`Sources`."""

    @click.option("--total-steps", type=int, help="Steps a run from CSV intended to make; default: its last step.")
    @click.option("--metric", help="Name of the loss in MLflow; default: scaling/loss, then the usual names.")
    @click.option("--tracking-uri", help="Where MLflow keeps its runs; default: where MLflow would look.")
    @wraps(command)
    def with_sources(*, total_steps: int | None, metric: str | None, tracking_uri: str | None, **more: Any) -> Any:
        return command(sources=Sources(total_steps, metric, tracking_uri), **more)

    return with_sources


def is_mlflow(source: str | None) -> bool:
    """Whether a source is kept in MLflow."""
    return source is not None and source.startswith((MLFLOW, EXPERIMENT))


@dataclass(frozen=True)
class Sources:
    """Reader of recorded runs. Every method raises :class:`InputError` for bad input, :class:`WorkError` for MLflow's.

    Attributes:
        total_steps: Steps that runs from CSV files intended to make.
        metric: Name of the metric, where MLflow has several.
        tracking_uri: Where MLflow keeps its runs.
    """

    total_steps: int | None = None
    metric: str | None = None
    tracking_uri: str | None = None

    def check(self, source: str, history: str | None = None) -> None:
        """Refuse options that go with neither the source nor the past runs."""
        for option, value in (("--metric", self.metric), ("--tracking-uri", self.tracking_uri)):
            if value is not None and not is_mlflow(source) and not is_mlflow(history):
                raise InputError(f"`{option}` goes with MLflow; {source} is read as a file (write mlflow:{source}).")

    def run(self, source: str) -> Run:
        """A run: a CSV file, a journal, or ``mlflow:RUN_ID``."""
        from lightning_scaling.runs.run import Run
        from lightning_scaling.tracking.journal_reader import is_journal

        if is_mlflow(source):
            self._only_for_csv("an MLflow run")
            run_id = _name(source, "RUN", *_RUN)
            with errors():
                return Run.from_mlflow(run_id, metric=self.metric, tracking_uri=self.tracking_uri)
        path = Path(source)
        with errors(source):
            if is_journal(path) or path.suffix == ".jsonl":
                self._only_for_csv("a journal")
                return Run.from_journal(path)
            run = Run.from_csv(path, total_steps=self.total_steps)
        if run.reached > run.total_steps:
            raise InputError(
                f"`--total-steps` is {run.total_steps:,}, but {source} has losses up to step {run.reached:,}; give the "
                "steps of the whole plan."
            )
        return run

    def runs(self, source: str) -> Run | RunHistory:
        """A run, or the runs of a folder or an experiment (``mlflow-experiment:NAME`` for one named like a run)."""
        from lightning_scaling.runs.history import RunHistory

        if not is_mlflow(source):
            return self.folder(Path(source)) if Path(source).is_dir() else self.run(source)
        name = _name(source, "SOURCE", *_EITHER)
        if source.startswith(MLFLOW) and _RUN_ID.fullmatch(name):
            return self.run(source)
        self._only_for_csv("an MLflow run")
        with errors():
            history = RunHistory.from_mlflow(name, metric=self.metric, tracking_uri=self.tracking_uri)
        if not len(history):
            raise WorkError(f"No run of the experiment {name!r} can be used: {history.summary()}")
        return history

    def folder(self, folder: Path) -> RunHistory:
        """The curves and journals of a folder; what is neither is left out and counted."""
        from lightning_scaling.runs.history import RunHistory
        from lightning_scaling.tracking.journal_reader import is_journal

        runs: list[Run] = []
        skipped: dict[str, int] = {}
        for file in sorted(file for file in folder.iterdir() if file.suffix in (".csv", ".jsonl")):
            try:
                if file.suffix == ".jsonl" and not is_journal(file):
                    raise ValueError("no journal")
                runs.append(Sources(None if is_journal(file) else self.total_steps).run(str(file)))
            except (ValueError, OSError, InputError) as error:
                reason = str(error).removeprefix(f"{file}").lstrip(": ").rstrip(".")
                skipped[f"{file.name}: {reason}"] = 1
        if not runs:
            why = f" ({'; '.join(skipped)})" if skipped else ""
            raise InputError(
                f"{folder} holds no *.csv file and no journal that could be read{why}; expected one curve "
                "`step,loss[,lr]` or one journal per run."
            )
        return RunHistory(runs, skipped=skipped, source=f"the folder {folder}")

    def history(self, source: str) -> RunHistory:
        """Past runs to learn from: a folder, with its calibration, or an experiment."""
        from lightning_scaling.runs.history import RunHistory

        if is_mlflow(source):
            _name(source, "`--history`", *_ONE_EXPERIMENT)
            found = replace(self, total_steps=None).runs(source)
            return found if isinstance(found, RunHistory) else RunHistory([found])
        from lightning_scaling.history.calibration_store import of_folder

        history = Sources().folder(_folder(source, "`--history` takes one"))
        history.calibration = of_folder(source)
        if history.skipped:
            info(history.summary())
        return history

    def finished_runs(self, source: str) -> tuple[RunHistory, Experiment | None]:
        """The runs of a folder or an experiment, losses of training only, and the experiment."""
        if not is_mlflow(source):
            return self.folder(_folder(source, "give one")), None
        name = _name(source, "SOURCE", *_ONE_EXPERIMENT)
        self._only_for_csv("an MLflow run")
        with errors():
            from lightning_scaling.history import aliases
            from lightning_scaling.history.read import read_experiment

            metric = self.metric or aliases.TRAIN_LOSSES
            return read_experiment(name, tracking_uri=self.tracking_uri, metric=metric)

    def _only_for_csv(self, what: str) -> None:
        if self.total_steps is not None:
            raise InputError(f"`--total-steps` is for CSV files; {what} says itself how long the run is to be.")


def _name(source: str, argument: str, what: str, example: str) -> str:
    """The part of an MLflow source after its prefix."""
    name = source.removeprefix(EXPERIMENT).removeprefix(MLFLOW).strip()
    if not name:
        raise InputError(f"{argument} must name {what}, as in {example}, but it is `{source}`.")
    return name


def _folder(source: str, remedy: str) -> Path:
    folder = Path(source)
    if not folder.is_dir():
        raise InputError(f"There is no folder {source}; {remedy} with curves, or mlflow:EXPERIMENT.")
    return folder
