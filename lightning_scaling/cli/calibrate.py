"""`lightning-scaling calibrate`: whether the intervals of a family hold, and the correction used from then on."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from lightning_scaling.cli.output import InputError, WorkError, emit, input_errors, people, say

if TYPE_CHECKING:
    from pathlib import Path

    from lightning_scaling.backtest.leave_one_out import CalibrationReport, Progress
    from lightning_scaling.history.mlflow_parse import Experiment
    from lightning_scaling.runs.run import Run

_MLFLOW = "mlflow:"


@click.command()
@click.argument("source")
@click.option("--tracking-uri", help="Where the experiment is kept; default: where MLflow would look.")
@click.option("--family", help="Only the runs of this family; default: each family of the experiment by itself.")
@click.option("--metric", help="Name of the loss; default: scaling/loss, then the usual names of a training loss.")
@click.option("--dry-run", is_flag=True, help="Print, but store nothing.")
@click.option("--output", type=click.Path(dir_okay=False), help="Store the calibration in this file instead.")
@click.option("--json", "as_json", is_flag=True, help="One JSON line per family on stdout.")
def calibrate(
    *,
    source: str,
    tracking_uri: str | None,
    family: str | None,
    metric: str | None,
    dry_run: bool,
    output: str | None,
    as_json: bool,
) -> None:
    """Replay the finished runs of SOURCE and see whether forecasts and intervals held.

    SOURCE is mlflow:EXPERIMENT, or a folder of curves (step,loss[,lr]) and journals. Every run is forecast from the
    others, those of its size, length and schedule left out. The correction found is stored with the experiment (a tag)
    or in the folder (calibration.json); monitors that learn from there apply it from then on.
    """
    place, runs = _read(source, tracking_uri, metric)
    families = _families(runs, source, family)
    if output and len(families) > 1:
        names = ", ".join(repr(name) for name in families)
        raise InputError(f"`--output` takes one family, but {source} has {len(families)} ({names}); give `--family`.")
    worked = False
    for name, related in families.items():
        from lightning_scaling import __version__
        from lightning_scaling.backtest.leave_one_out import calibrate as look_back

        with _progress(name) as progress:
            report = look_back(related, family=name, version=__version__, progress=progress)
        stored = None
        if report.calibration and not dry_run:
            stored = _store(report, source, place, output, tracking_uri, metric)
        worked = worked or bool(report.calibration)
        _tell(report, name, stored, dry_run, as_json)
    if not worked:
        from lightning_scaling.forecast.calibration import ENOUGH

        raise WorkError(f"Nothing is stored: no family of {source} has {ENOUGH} finished runs that can be forecast.")


def _read(source: str, tracking_uri: str | None, metric: str | None) -> tuple[Experiment | None, list[Run]]:
    if not source.startswith(_MLFLOW):
        from pathlib import Path

        if tracking_uri or metric:
            option = "--tracking-uri" if tracking_uri else "--metric"
            raise InputError(f"`{option}` is for experiments; {source} is read as a folder (write mlflow:EXPERIMENT).")
        return None, _curves(Path(source))
    if not source.removeprefix(_MLFLOW).strip():
        raise InputError("SOURCE must name an experiment, as in mlflow:EXPERIMENT, but it is `mlflow:`.")
    with _work_errors():
        from lightning_scaling.history import aliases
        from lightning_scaling.history.read import read_experiment, tracking_uri_or_default

        history, place = read_experiment(
            source.removeprefix(_MLFLOW),
            tracking_uri=tracking_uri_or_default(tracking_uri),
            metric=metric or aliases.TRAIN_LOSSES,
            quiet=True,
        )
    say(history.summary())
    return place, list(history)


def _curves(folder: Path) -> list[Run]:
    """The curves of a folder, and the runs whose journals lie there."""
    if not folder.is_dir():
        raise InputError(f"There is no folder {folder}; give one with curves, or mlflow:EXPERIMENT.")
    from lightning_scaling.runs.run import Run
    from lightning_scaling.tracking.journal_reader import is_journal

    runs = []
    for file in sorted(folder.iterdir()):
        with input_errors(file=str(file)):
            if file.suffix == ".csv":
                runs.append(Run.from_csv(file))
            elif file.suffix == ".jsonl" and is_journal(file):
                runs.append(Run.from_journal(file))
    if not runs:
        raise InputError(f"{folder} holds neither a curve (*.csv with step,loss[,lr]) nor a journal (*.jsonl).")
    say(f"{len(runs)} {'run' if len(runs) == 1 else 'runs'} of the folder {folder}.")
    return runs


def _families(runs: list[Run], source: str, family: str | None) -> dict[str | None, list[Run]]:
    found: dict[str | None, list[Run]] = defaultdict(list)
    for run in runs:
        found[run.family].append(run)
    if family is None:
        return dict(found) or {None: []}
    if family not in found:
        there = ", ".join(repr(name) for name in found if name) or "none with a name"
        raise InputError(f"{source} has no family {family!r}; there are: {there}.")
    return {family: found[family]}


def _store(
    report: CalibrationReport,
    source: str,
    place: Experiment | None,
    output: str | None,
    tracking_uri: str | None,
    metric: str | None,
) -> str:
    with _work_errors():
        from lightning_scaling.history.calibration_store import keep_in_folder, keep_in_mlflow
        from lightning_scaling.history.read import tracking_uri_or_default

        if output or place is None:
            return f"in {keep_in_folder(output or source, report.calibration)}"
        tag = keep_in_mlflow(place, report.calibration, tracking_uri_or_default(tracking_uri), metric=metric)
        return f"as the tag {tag} of the experiment {place.name!r}"


@contextmanager
def _work_errors() -> Iterator[None]:
    from lightning_scaling.history import HistoryError

    try:
        yield
    except HistoryError as error:
        raise WorkError(str(error)) from error


@contextmanager
def _progress(name: str | None) -> Iterator[Progress]:
    """A bar on stderr, where that is a terminal."""
    from rich.console import Console
    from rich.progress import Progress as Bars

    console = Console(stderr=True)
    with Bars(console=console, transient=True, disable=not console.is_terminal) as bars:
        bar = bars.add_task(f"forecasting {name or 'the runs'}", total=None)
        yield lambda done, total: bars.update(bar, completed=done, total=total)


def _tell(report: CalibrationReport, name: str | None, stored: str | None, dry_run: bool, as_json: bool) -> None:
    judgement = report.judgement()
    table = report.table()
    if as_json:
        found = {"family": name, "runs": report.runs, "table": table, "judgement": judgement, "stored": stored}
        emit({**found, "calibration": report.calibration.to_dict() if report.calibration else None})
        return
    _show(table, name, report.runs)
    click.echo(judgement)
    if stored is not None:
        click.echo(f"Stored {stored}: forecasts taught by these runs use it from now on.")
    elif report.calibration and dry_run:
        click.echo("Nothing is stored (--dry-run).")


def _show(table: list[dict[str, Any]], name: str | None, runs: int) -> None:
    from rich.table import Table

    title = f"{name or 'all runs'}: {runs} finished {'run' if runs == 1 else 'runs'}"
    shown = Table(title=title, title_justify="left", box=None, header_style="bold", padding=(0, 2, 0, 0))
    for head in ("mode", "seen", "runs", "live", "error", "9 of 10 below", "in 50 %", "in 90 %", "factor"):
        shown.add_column(head, justify="left" if head == "mode" else "right", no_wrap=True)
    for line in table:
        shown.add_row(
            line["mode"],
            f"{line['fraction']:.0%}",
            str(line["runs"]),
            str(line["live"]),
            f"{line['error']:.2%}",
            f"{line['error_p90']:.2%}",
            f"{line['inside_50']:.0%} -> {line['inside_50_after']:.0%}",
            f"{line['inside_90']:.0%} -> {line['inside_90_after']:.0%}",
            f"{line['factor']:.2f}",
        )
    if table:
        people().print(shown)
