"""Where recorded runs come from: curves, journals, folders of them, and MLflow."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from lightning_scaling.cli.output import InputError, WorkError, input_errors

if TYPE_CHECKING:
    from lightning_scaling.runs.history import RunHistory
    from lightning_scaling.runs.run import Run

MLFLOW, EXPERIMENT = "mlflow:", "mlflow-experiment:"
_RUN_ID = re.compile(r"[0-9a-f]{32}")


def read_source(
    source: str, *, total_steps: int | None = None, metric: str | None = None, tracking_uri: str | None = None
) -> Run | RunHistory:
    """A run, or the runs of a folder or an experiment.

    Args:
        source: A CSV file, a journal, a folder of either, ``mlflow:RUN_ID``, ``mlflow:EXPERIMENT`` or
            ``mlflow-experiment:EXPERIMENT`` (for one named like a run).
        total_steps: Steps the runs intended to make, where files do not say.
        metric: Name of the metric, where MLflow has several.
        tracking_uri: Where MLflow keeps its runs.

    Raises:
        InputError: If there is no such thing, or an option does not go with it.
        WorkError: If MLflow does not give it.
    """
    if source.startswith((MLFLOW, EXPERIMENT)):
        if total_steps is not None:
            raise InputError("`--total-steps` is for CSV files; runs in MLflow say themselves how long they are to be.")
        return _from_mlflow(source, metric, tracking_uri)
    for option, value in (("--metric", metric), ("--tracking-uri", tracking_uri)):
        if value is not None:
            raise InputError(f"`{option}` goes with MLflow; {source} is read as a file (write mlflow:{source}).")
    path = Path(source)
    if path.is_dir():
        return read_folder(path, total_steps)
    from lightning_scaling.runs.run import Run

    with input_errors(file=source):
        if not _is_journal(path):
            return Run.from_csv(path, total_steps=total_steps)
        if total_steps is not None:
            raise InputError("`--total-steps` is for CSV files; a journal says itself how long the run is to be.")
        return Run.from_journal(path)


def read_folder(folder: Path, total_steps: int | None = None) -> RunHistory:
    """The curves and journals of a folder; what is neither is left out and counted.

    Raises:
        InputError: If there are none.
    """
    from lightning_scaling.runs.history import RunHistory
    from lightning_scaling.runs.run import Run

    runs: list[Run] = []
    skipped: dict[str, int] = {}
    files = [file for file in sorted(folder.iterdir()) if file.suffix in (".csv", ".jsonl")]
    for file in files:
        try:
            journal = _is_journal(file)
            if file.suffix == ".jsonl" and not journal:
                raise ValueError("no journal")
            runs.append(Run.from_journal(file) if journal else Run.from_csv(file, total_steps=total_steps))
        except (ValueError, OSError) as error:
            reason = str(error).removeprefix(f"{file}").lstrip(": ").rstrip(".")
            skipped[f"{file.name}: {reason}"] = 1
    if not runs:
        why = f" ({'; '.join(skipped)})" if skipped else ""
        raise InputError(
            f"{folder} holds no *.csv file and no journal that could be read{why}; expected one curve "
            "`step,loss[,lr]` or one journal per run."
        )
    return RunHistory(runs, skipped=skipped, source=f"the folder {folder}")


def read_history(source: str, *, metric: str | None, tracking_uri: str | None) -> RunHistory:
    """Past runs to learn from: a folder, or an experiment.

    Raises:
        InputError: If it is neither.
        WorkError: If MLflow does not give it.
    """
    if source.startswith((MLFLOW, EXPERIMENT)):
        found = _from_mlflow(source, metric, tracking_uri)
    elif Path(source).is_dir():
        found = read_folder(Path(source))
        if (Path(source) / "calibration.json").is_file():
            from lightning_scaling.history.calibration_store import of_folder

            with input_errors():
                found.calibration = of_folder(source)
    else:
        raise InputError(f"`--history` is {source!r}; it takes a folder of curves, mlflow:EXPERIMENT, or `none`.")
    from lightning_scaling.runs.history import RunHistory

    return found if isinstance(found, RunHistory) else RunHistory([found])


def _from_mlflow(source: str, metric: str | None, tracking_uri: str | None) -> Run | RunHistory:
    name = source.removeprefix(EXPERIMENT if source.startswith(EXPERIMENT) else MLFLOW).strip()
    if not name:
        raise InputError(f"{source!r} names nothing; write mlflow:RUN_ID or mlflow:EXPERIMENT.")
    from lightning_scaling.runs.history import RunHistory
    from lightning_scaling.runs.run import Run

    with work_errors():
        if source.startswith(MLFLOW) and _RUN_ID.fullmatch(name):
            return Run.from_mlflow(name, metric=metric, tracking_uri=tracking_uri)
        history = RunHistory.from_mlflow(name, metric=metric, tracking_uri=tracking_uri)
    if not len(history):
        raise WorkError(f"No run of the experiment {name!r} can be used: {history.summary()}")
    return history


def _is_journal(path: Path) -> bool:
    from lightning_scaling.tracking.journal_reader import is_journal

    return is_journal(path)


@contextmanager
def work_errors() -> Iterator[None]:
    """Turn what MLflow does not give into :class:`WorkError`."""
    from lightning_scaling.history import HistoryError

    try:
        yield
    except HistoryError as error:
        raise WorkError(str(error)) from error
