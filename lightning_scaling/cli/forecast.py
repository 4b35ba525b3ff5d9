"""`lightning-scaling forecast`: the end of a run as of its last loss, and its end under other plans."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from lightning_scaling._utils.formatting import plural, significant
from lightning_scaling.cli.inputs import Sources, is_mlflow, source_options
from lightning_scaling.cli.output import InputError, console, emit, ends, errors, info, json_option, level_option, table

if TYPE_CHECKING:
    from lightning_scaling.engine.monitor import Monitor
    from lightning_scaling.forecast import Forecast, Prediction, WhatIf
    from lightning_scaling.runs.history import RunHistory
    from lightning_scaling.runs.run import Run


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
@source_options
@level_option(0.9)
@click.option("--history", help="Past runs to learn from: a folder of curves, or mlflow:EXPERIMENT.")
@json_option()
def forecast(
    *,
    run: str,
    changes: tuple[str, ...],
    steps: tuple[int, ...],
    sources: Sources,
    level: float,
    history: str | None,
    as_json: bool,
) -> None:
    """Forecast the final loss of RUN as of its last recorded loss, and under other plans.

    RUN is a CSV file `step,loss[,lr]` (rows with an empty loss carry only the planned rate), the journal of a monitor
    (.jsonl), or mlflow:RUN_ID.
    """
    sources.check(run, history)
    with errors():
        from lightning_scaling.schedule.changes import parse_change

        asked = [parse_change(change) for change in changes] if changes else None
    recorded = sources.run(run)
    past = None if history is None else _past_runs(sources, history, recorded)
    with errors(run):
        from lightning_scaling.backtest.single_run import follow

        monitor = follow(recorded, history=past)
        what_ifs = monitor.what_ifs(asked)
    end = monitor.forecast.horizon
    for step in steps:
        if not 0 < step <= end:
            raise InputError(
                f"`--at` must be a step from 1 to {end:,}, where the forecast ends, but got {step}; for a longer run "
                "give `--what-if longer:FACTOR`."
            )
    if as_json:
        emit(_document(recorded, monitor, what_ifs, steps, level))
    else:
        _show(recorded, monitor, what_ifs, steps, level)
    if asked is None and len(what_ifs) == 1 and not monitor.plan.known:
        info(f"No other plans: {monitor.plan.why or 'the learning rates are not known'}.")


def _past_runs(sources: Sources, source: str, run: Run) -> RunHistory:
    """The past runs without the run itself, of its family where that is known."""
    history = sources.history(source)
    if is_mlflow(source):
        own = run.meta.get("run_id")
        family = [other for other in history if other.family == run.family] or history
        others = [other for other in family if own is None or other.meta.get("run_id") != own]
    else:
        others = [other for other in history if other.name != run.name]
    info(f"{plural(len(others), 'past run')} of {history.source or source} to learn from.")
    return history.with_runs(others)


def _document(
    run: Run, monitor: Monitor, what_ifs: list[WhatIf], steps: tuple[int, ...], level: float
) -> dict[str, Any]:
    forecast = monitor.forecast

    def interval(of: Forecast | Prediction) -> dict[str, float]:
        return dict(zip(("lower", "upper"), of.interval(level), strict=True)) | {"level": level}

    there = [(step, forecast.at(step)) for step in steps]
    return {
        "run": run.name,
        "step": forecast.step,
        "total_steps": monitor.plan.total_steps,
        "forecast": forecast.to_dict() | interval(forecast),
        "verdict": monitor.deviation.verdict,
        "advice": monitor.advice.action,
        "at": [{"step": step, "loss": float(loss), **interval(loss)} for step, loss in there],
        "what_ifs": [answer.to_dict(level) for answer in what_ifs],
    }


def _show(run: Run, monitor: Monitor, what_ifs: list[WhatIf], steps: tuple[int, ...], level: float) -> None:
    out = console()
    forecast = monitor.forecast
    reached = f"{run.name or 'run'}: step {forecast.step:,}"
    out.print(reached + (f" of {forecast.horizon:,}" if forecast.at_plan_end else ", no planned end ahead"))
    end = f"at step {forecast.horizon:,}; {level:.0%} interval {ends(forecast.interval(level))}"
    out.print(f"final loss {significant(forecast.final)} {end}")
    out.print(f"trust {forecast.trust}" + (f": {forecast.why}" if forecast.why else ""))
    for step in steps:
        there = forecast.at(step)
        interval = ends(there.interval(level))
        out.print(f"loss {significant(float(there))} at step {step:,}; {level:.0%} interval {interval}")
    if len(what_ifs) < 2:
        return
    left = ("what if", f"{level:.0%} interval", "against carrying on", "trust")
    rows = table(None, left[0], "final", *left[1:3], "steps", "compute", left[3], left=left)
    for number, answer in enumerate(what_ifs):
        least, most = answer.difference.interval(level)
        rows.add_row(
            answer.name,
            significant(answer.final),
            ends(answer.interval(level)),
            "" if number == 0 else f"{float(answer.difference):+.3g} ({least:+.2g} to {most:+.2g})",
            "" if not answer.extra_steps else f"{answer.extra_steps:+,}",
            "" if not answer.extra_steps else f"{answer.extra_compute:+.0%}",
            answer.trust,
        )
    out.print(rows)
    for why in dict.fromkeys(answer.why for answer in what_ifs[1:] if answer.why and answer.why != forecast.why):
        names = ", ".join(answer.name for answer in what_ifs[1:] if answer.why == why)
        out.print(f"{names}: {why}.")
