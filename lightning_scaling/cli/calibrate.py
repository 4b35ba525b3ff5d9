"""`lightning-scaling calibrate`: coverage of the intervals of a family, and the correction used from then on."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import TYPE_CHECKING

import click

from lightning_scaling._utils.formatting import plural
from lightning_scaling.cli.inputs import Sources, source_options
from lightning_scaling.cli.output import (
    InputError,
    WorkError,
    console,
    emit,
    errors,
    info,
    json_option,
    progress_bar,
    table,
)

if TYPE_CHECKING:
    from lightning_scaling.backtest.leave_one_out import CalibrationReport
    from lightning_scaling.history.mlflow_parse import Experiment
    from lightning_scaling.runs.run import Run


@click.command()
@click.argument("source")
@source_options
@click.option("--family", help="Only the runs of this family; default: each family of the experiment by itself.")
@click.option("--dry-run", is_flag=True, help="Print, but store nothing.")
@click.option("--output", type=click.Path(dir_okay=False), help="Store the calibration in this file instead.")
@json_option("One JSON line per family on stdout.")
def calibrate(
    *, source: str, sources: Sources, family: str | None, dry_run: bool, output: str | None, as_json: bool
) -> None:
    """Replay the finished runs of SOURCE and compare their forecasts and intervals with the outcomes.

    SOURCE is mlflow:EXPERIMENT, or a folder of curves (step,loss[,lr]) and journals. Every run is forecast from the
    others, those of its size, length and schedule left out. The correction found is stored with the experiment (a tag)
    or in the folder (calibration.json); monitors that learn from there apply it from then on.
    """
    sources.check(source)
    history, experiment = sources.finished_runs(source)
    info(history.summary())
    families = _families(history, source, family)
    if output and len(families) > 1:
        names = ", ".join(repr(name) for name in families)
        raise InputError(f"`--output` takes one family, but {source} has {len(families)} ({names}); give `--family`.")
    worked = False
    for name, runs in families.items():
        report = _report(name, runs)
        stored = None
        if report.calibration and not dry_run:
            stored = _store(report, output or source, None if output else experiment, sources)
        worked = worked or bool(report.calibration)
        _show(report, name, stored, dry_run, as_json)
    if not worked:
        from lightning_scaling.forecast.calibration import ENOUGH

        raise WorkError(f"Nothing is stored: no family of {source} has {ENOUGH} finished runs that can be forecast.")


def _families(runs: Iterable[Run], source: str, family: str | None) -> dict[str | None, list[Run]]:
    found: dict[str | None, list[Run]] = defaultdict(list)
    for run in runs:
        found[run.family].append(run)
    if family is None:
        return dict(found) or {None: []}
    if family not in found:
        there = ", ".join(repr(name) for name in found if name) or "none with a name"
        raise InputError(f"{source} has no family {family!r}; there are: {there}.")
    return {family: found[family]}


def _report(name: str | None, runs: list[Run]) -> CalibrationReport:
    from lightning_scaling import __version__
    from lightning_scaling.backtest.leave_one_out import calibrate as leave_one_out

    with progress_bar(f"forecasting {name or 'the runs'}") as update:

        def progress(done: int, total: int) -> None:
            update(completed=done, total=total)

        return leave_one_out(runs, family=name, version=__version__, progress=progress)


def _store(report: CalibrationReport, place: str, experiment: Experiment | None, sources: Sources) -> str:
    from lightning_scaling.history.calibration_store import keep_in_folder, keep_in_mlflow

    with errors():
        if experiment is None:
            return f"in {keep_in_folder(place, report.calibration)}"
        tag = keep_in_mlflow(experiment, report.calibration, sources.tracking_uri, metric=sources.metric)
    return f"as the tag {tag} of the experiment {experiment.name!r}"


def _show(report: CalibrationReport, name: str | None, stored: str | None, dry_run: bool, as_json: bool) -> None:
    judgement, lines = report.judgement(), report.table()
    if as_json:
        found = {"family": name, "runs": report.runs, "table": lines, "judgement": judgement, "stored": stored}
        emit({**found, "calibration": report.calibration.to_dict() if report.calibration else None})
        return
    heads = ("mode", "seen", "runs", "live", "error", "9 of 10 below", "in 50 %", "in 90 %", "factor")
    rows = table(f"{name or 'all runs'}: {plural(report.runs, 'finished run')}", *heads, left=("mode",))
    for line in lines:
        rows.add_row(
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
    if lines:
        console().print(rows)
    click.echo(judgement)
    if stored is not None:
        click.echo(f"Stored {stored}: forecasts that learn from these runs use it from now on.")
    elif report.calibration and dry_run:
        click.echo("Nothing is stored (--dry-run).")
