"""`lightning-scaling forecast`: where a run is going to land as of its last loss, and what if its plan were another."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from lightning_scaling.cli.output import InputError, WorkError, emit, input_errors, people, say

if TYPE_CHECKING:
    from lightning_scaling.engine.monitor import Monitor
    from lightning_scaling.forecast import WhatIf
    from lightning_scaling.runs.history import RunHistory
    from lightning_scaling.runs.run import Run

_MLFLOW = "mlflow:"


@click.command()
@click.argument("run")
@click.option(
    "--what-if",
    "changes",
    multiple=True,
    metavar="CHANGE",
    help="stop, stop:STEP, decay:OVER, longer:FACTOR or wsd:DECAY, such as decay:0.2 or decay:0.2:cosine; may be "
    "given several times. Default: the usual ones.",
)
@click.option("--at", "steps", type=int, multiple=True, help="Also the loss at this step; may be given several times.")
@click.option("--total-steps", type=int, help="Steps the run intends to make; default for a CSV file: its last step.")
@click.option("--level", type=float, default=0.9, show_default=True, help="Probability that intervals hold.")
@click.option("--history", help="Past runs to learn from: a folder of curves, or mlflow:EXPERIMENT.")
@click.option("--tracking-uri", help="Where MLflow keeps its runs; default: where MLflow would look.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
def forecast(
    *,
    run: str,
    changes: tuple[str, ...],
    steps: tuple[int, ...],
    total_steps: int | None,
    level: float,
    history: str | None,
    tracking_uri: str | None,
    as_json: bool,
) -> None:
    """Where RUN is going to land, as of its last recorded loss, and where it would land under other plans.

    RUN is a CSV file `step,loss[,lr]` (rows with an empty loss carry only the planned rate), the journal of a monitor
    (.jsonl), or mlflow:RUN_ID.
    """
    if not 0 < level < 1:
        raise InputError(f"`--level` must lie strictly between 0 and 1, but got {level}.")
    with input_errors():
        from lightning_scaling.schedule.changes import parse_change

        asked = [parse_change(change) for change in changes] if changes else None
    recorded = _read(run, total_steps, tracking_uri)
    past = None if history is None else _history(history, recorded, tracking_uri)
    with input_errors(file=run):
        from lightning_scaling.backtest.single_run import follow

        monitor = follow(recorded, history=past)
        told = monitor.what_ifs(asked)
    end = monitor.forecast.horizon
    for step in steps:
        if not 0 < step <= end:
            raise InputError(
                f"`--at` must be a step from 1 to {end:,}, where the forecast ends, but got {step}; for a longer run "
                "give `--what-if longer:FACTOR`."
            )
    if as_json:
        emit(_document(recorded, monitor, told, steps, level))
    else:
        _show(recorded, monitor, told, steps, level)
    if asked is None and len(told) == 1 and not monitor.plan.known:
        say(f"No other plans: {monitor.plan.why or 'the learning rates are not known'}.")


def _read(source: str, total_steps: int | None, tracking_uri: str | None) -> Run:
    from lightning_scaling import Run

    if source.startswith(_MLFLOW):
        if not source.removeprefix(_MLFLOW).strip():
            raise InputError("RUN must name a run, as in mlflow:RUN_ID, but it is `mlflow:`.")
        _only_for_csv(total_steps, "an MLflow run")
        from lightning_scaling.history import HistoryError

        try:
            return Run.from_mlflow(source.removeprefix(_MLFLOW), tracking_uri=tracking_uri)
        except HistoryError as error:
            raise WorkError(str(error)) from error
    from pathlib import Path

    with input_errors(file=source):
        if Path(source).suffix == ".jsonl":
            _only_for_csv(total_steps, "a journal")
            return Run.from_journal(source)
        return Run.from_csv(source, total_steps=total_steps)


def _only_for_csv(total_steps: int | None, what: str) -> None:
    if total_steps is not None:
        raise InputError(f"`--total-steps` is for CSV files; {what} says itself how long the run is to be.")


def _history(source: str, run: Run, tracking_uri: str | None) -> RunHistory:
    """The past runs without the run itself, of its family where that is known."""
    from lightning_scaling import RunHistory

    own = run.meta.get("run_id")
    if not source.startswith(_MLFLOW):
        from pathlib import Path

        if not Path(source).is_dir():
            raise InputError(f"There is no folder {source}; `--history` takes one with curves, or mlflow:EXPERIMENT.")
        with input_errors(file=source):
            history = RunHistory.from_csv(source)
        others = [other for other in history if other.name != run.name]
    else:
        from lightning_scaling.history import HistoryError

        if not source.removeprefix(_MLFLOW).strip():
            raise InputError("`--history` must name an experiment, as in mlflow:EXPERIMENT, but it is `mlflow:`.")
        try:
            history = RunHistory.from_mlflow(source.removeprefix(_MLFLOW), tracking_uri=tracking_uri)
        except HistoryError as error:
            raise WorkError(str(error)) from error
        related = run.family in {other.family for other in history}
        others = [
            other
            for other in history
            if (own is None or other.meta.get("run_id") != own) and (not related or other.family == run.family)
        ]
    say(f"{len(others)} past {'run' if len(others) == 1 else 'runs'} of {history.source or source} to learn from.")
    return RunHistory(others, source=history.source, calibration=history.calibration)


def _document(run: Run, monitor: Monitor, told: list[WhatIf], steps: tuple[int, ...], level: float) -> dict[str, Any]:
    forecast = monitor.forecast
    lower, upper = forecast.interval(level)
    at = []
    for step in steps:
        there = forecast.at(step)
        least, most = there.interval(level)
        at.append({"step": step, "loss": float(there), "lower": least, "upper": most, "level": level})
    return {
        "run": run.name,
        "step": forecast.step,
        "total_steps": monitor.plan.total_steps,
        "forecast": {**forecast.to_dict(), "level": level, "lower": lower, "upper": upper},
        "verdict": monitor.deviation.verdict,
        "advice": monitor.advice.action,
        "at": at,
        "what_ifs": [answer.to_dict(level) for answer in told],
    }


def _show(run: Run, monitor: Monitor, told: list[WhatIf], steps: tuple[int, ...], level: float) -> None:
    from rich.table import Table

    from lightning_scaling.report.forecast_table import digits

    console = people()
    forecast = monitor.forecast
    end = f"step {forecast.horizon:,}"
    if forecast.at_plan_end:
        console.print(f"{run.name or 'run'}: step {forecast.step:,} of {forecast.horizon:,}", highlight=False)
    else:
        console.print(f"{run.name or 'run'}: step {forecast.step:,}, no planned end ahead", highlight=False)
    lower, upper = (digits(value) for value in forecast.interval(level))
    console.print(f"final loss {digits(forecast.final)} at {end}; {level:.0%} interval {lower} to {upper}")
    console.print(f"trust {forecast.trust}" + (f": {forecast.why}" if forecast.why else ""))
    for step in steps:
        there = forecast.at(step)
        lower, upper = (digits(value) for value in there.interval(level))
        console.print(f"loss {digits(float(there))} at step {step:,}; {level:.0%} interval {lower} to {upper}")
    if len(told) < 2:
        return
    table = Table(box=None, header_style="bold", padding=(0, 2, 0, 0))
    for name in ("what if", "final", f"{level:.0%} interval", "against carrying on", "steps", "compute", "trust"):
        table.add_column(name, justify="right" if name in {"final", "steps", "compute"} else "left", no_wrap=True)
    for number, answer in enumerate(told):
        lower, upper = (digits(value) for value in answer.interval(level))
        least, most = answer.difference.interval(level)
        table.add_row(
            answer.name,
            digits(answer.final),
            f"{lower} to {upper}",
            "" if number == 0 else f"{float(answer.difference):+.3g} ({least:+.2g} to {most:+.2g})",
            "" if not answer.extra_steps else f"{answer.extra_steps:+,}",
            "" if not answer.extra_steps else f"{answer.extra_compute:+.0%}",
            answer.trust,
        )
    console.print(table)
    for why in dict.fromkeys(answer.why for answer in told[1:] if answer.why and answer.why != forecast.why):
        names = ", ".join(answer.name for answer in told[1:] if answer.why == why)
        console.print(f"{names}: {why}.", highlight=False)
