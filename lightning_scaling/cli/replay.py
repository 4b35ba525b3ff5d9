"""`lightning-scaling replay`: what would have been said, and when, while a recorded run was training."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from lightning_scaling.cli.output import InputError, emit, input_errors, people, say

if TYPE_CHECKING:
    from lightning_scaling.monitor import Update
    from lightning_scaling.run import Run


@click.command()
@click.argument("curve", type=click.Path())
@click.option("--total-steps", type=int, help="Optimizer steps the run intended to make; default: its last step.")
@click.option("--at", "fractions", help="Fractions of the run to report, e.g. 0.25,0.5,0.75; default: every update.")
@click.option("--alpha", type=float, default=0.01, show_default=True, help="False-alarm probability of the whole run.")
@click.option("--target", type=float, help="Loss that the run must reach; advice then weighs it.")
@click.option("--json", "as_json", is_flag=True, help="One JSON line per update on stdout.")
def replay(
    *, curve: str, total_steps: int | None, fractions: str | None, alpha: float, target: float | None, as_json: bool
) -> None:
    """Replay the recorded CURVE (a CSV file `step,loss[,lr]`) through the engine that watches live runs.

    The losses are shown to it one by one, so every forecast uses only what had been seen by then. The lr column,
    later rows included, is the plan; rows with an empty loss carry only the rate.
    """
    at = _fractions(fractions)
    with input_errors(file=curve):
        from lightning_scaling import Run
        from lightning_scaling import replay as replay_run

        run = Run.from_csv(curve, total_steps=total_steps)
        _say_what_was_read(run)
        updates = replay_run(run, at=at, alpha=alpha, target=target)
    if as_json:
        for update in updates:
            emit(update.to_dict())
    else:
        _show(run, updates)
    if not updates:
        say(f"No update: {len(run)} points are too few for a forecast.")


def _fractions(text: str | None) -> list[float] | None:
    if text is None:
        return None
    try:
        values = [float(part) for part in text.split(",")]
    except ValueError:
        raise InputError(f"`--at` must be fractions separated by commas, such as 0.25,0.5, but got {text!r}.") from None
    if not all(0 < value <= 1 for value in values):
        raise InputError(f"`--at` must hold fractions above 0 and at most 1, but got {text!r}.")
    return sorted(values)


def _say_what_was_read(run: Run) -> None:
    import numpy as np

    lost = int(np.isinf(run.loss).sum())
    losses = int(np.isfinite(run.loss).sum())
    message = f"{losses:,} losses up to step {int(run.step[-1]):,} of {run.total_steps:,}"
    if lost:
        message += f"; {lost:,} more were not finite (counted, never averaged)"
    if not run.plan.known:
        message += f"; {run.plan.why}, so forecasts are less certain"
    say(message + ".")


def _show(run: Run, updates: list[Update]) -> None:
    from rich.table import Table

    from lightning_scaling.report.ledger import digits

    console = people()
    table = Table(title=run.name, title_justify="left", box=None, header_style="bold", padding=(0, 2, 0, 0))
    for name in ("step", "seen", "loss", "final", "90% interval", "trust", "verdict", "advice"):
        table.add_column(name, justify="right" if name in {"step", "seen", "loss", "final"} else "left", no_wrap=True)
    for update in updates:
        lower, upper = update.forecast.interval(0.9)
        table.add_row(
            f"{update.step:,}",
            "" if update.fraction is None else f"{update.fraction:.0%}",
            digits(update.loss),
            digits(update.forecast.final),
            f"{digits(lower)} to {digits(upper)}",
            update.forecast.trust,
            update.deviation.verdict,
            update.advice.action,
        )
    if updates:
        console.print(table)
        said = None
        for update in updates:
            if update.advice.action != "continue" and (update.advice.action, update.advice.reason) != said:
                said = (update.advice.action, update.advice.reason)
                console.print(f"step {update.step:,}: {said[0]}. {said[1]}")
        if updates[-1].forecast.why:
            console.print(
                f"Last forecast, trust {updates[-1].forecast.trust}: {updates[-1].forecast.why}.", highlight=False
            )
