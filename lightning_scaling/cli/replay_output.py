"""What a replay shows to people: tables of updates and of runs, and what came of the forecasts and the advice."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lightning_scaling.cli.output import people

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from lightning_scaling.backtest.many_runs import ReplayCollection
    from lightning_scaling.backtest.single_run import Check, Replay
    from lightning_scaling.engine.monitor import Update
    from lightning_scaling.runs.run import Run

_SHOWN = (0.25, 0.5, 0.75)


def what_was_read(run: Run) -> str:
    """A sentence on what a run holds."""
    import numpy as np

    lost = int(np.isinf(run.loss).sum())
    losses = int(np.isfinite(run.loss).sum())
    message = f"{losses:,} losses up to step {int(run.step[-1]):,} of {run.total_steps:,}"
    if run.meta.get("open_ended"):
        message = f"{losses:,} losses up to step {int(run.step[-1]):,}, no planned end"
    if lost:
        message += f"; {lost:,} more were not finite (counted, never averaged)"
    if not run.plan.known:
        message += f"; {run.plan.why}, so forecasts are less certain"
    return message + "."


def show_run(replay: Replay, updates: list[Update]) -> None:
    """The updates, the forecasts against what came, and what the advice would have saved."""
    if not updates:
        return
    console = people()
    _show_updates(console, replay.run, updates)
    if replay.outcome is not None:
        _show_checks(console, replay)
    elif not replay.run.meta.get("open_ended"):
        console.print("The run did not reach the end of its plan: nothing came to hold its forecasts against.")
    console.print(saved(replay))


def _table(title: str | None, *columns: str, left: tuple[str, ...] = ()) -> Table:
    from rich.table import Table

    table = Table(title=title, title_justify="left", box=None, header_style="bold", padding=(0, 2, 0, 0))
    for name in columns:
        table.add_column(name, justify="left" if name in left else "right", no_wrap=True)
    return table


def _show_updates(console: Console, run: Run, updates: list[Update]) -> None:
    from lightning_scaling.report.forecast_table import digits

    left = ("90% interval", "trust", "verdict", "advice")
    table = _table(run.name, "step", "seen", "loss", "final", *left, left=left)
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
    console.print(table)
    said = None
    for update in updates:
        if update.advice.action != "continue" and (update.advice.action, update.advice.reason) != said:
            said = (update.advice.action, update.advice.reason)
            console.print(f"step {update.step:,}: {said[0]}. {said[1]}")
    last = updates[-1].forecast
    if last.why:
        console.print(f"Last forecast, trust {last.trust}: {last.why}.")


def _show_checks(console: Console, replay: Replay) -> None:
    from lightning_scaling.report.forecast_table import digits, percent

    checks = replay.checks()
    assert replay.outcome is not None
    console.print()
    title = f"Forecasts against what came: {digits(replay.outcome)}"
    if not checks:
        console.print(f"{title}; none was made at 10, 25, 50 or 75 %.")
        return
    table = _table(
        title, "seen", "forecast", "90% interval", "error", "inside", "trust", left=("90% interval", "trust")
    )
    for check in checks:
        table.add_row(
            f"{check.fraction:.0%}",
            digits(check.final),
            f"{digits(check.lower)} to {digits(check.upper)}",
            percent(check.error),
            "yes" if check.inside else "no",
            check.trust,
        )
    console.print(table)


def saved(replay: Replay) -> str:
    """What following the advice would have saved and cost, in a sentence or two."""
    from lightning_scaling.report.forecast_table import digits

    stop = replay.stop
    if stop is None:
        return "Stopping was never advised, so nothing would have been saved."
    where = f"step {stop.step:,}"
    if stop.fraction is None:
        return f"Stopping was first advised at {where}; without a planned end its saving is not known."
    text = f"Stopping was first advised at {where}, {stop.fraction:.0%} of the plan: it saves {stop.advice.saving:.0%} "
    text += "of the planned compute"
    cost, given_up = stop.advice.cost, replay.given_up
    if cost:
        text += f", at a cost of {cost:.3g} of {replay.metric} by its own reckoning"
    if given_up is None or replay.outcome is None:
        return f"{text}."
    came = f"{digits(stop.loss)} there, {digits(replay.outcome)} at the end"
    if given_up > 0:
        return f"{text}. What it gives up in fact: {given_up:.3g} ({came})."
    return f"{text}. It gives up nothing: the rest of the run brought no gain ({came})."


def show_set(made: ReplayCollection) -> None:
    """One row per run, then what they add up to."""
    from lightning_scaling.backtest.single_run import FRACTIONS
    from lightning_scaling.report.forecast_table import digits

    console = people()
    at = [f"at {fraction:.0%}" for fraction in _SHOWN]
    table = _table(
        "Error of the forecast of the end (! outside its 90% interval)",
        *("run", "steps", "ended at", *at, "alarm", "advice", "saved"),
        left=("run", "advice"),
    )
    table.columns[0].overflow = "ellipsis"
    for one in made.replays:
        checks = {check.fraction: check for check in one.checks(_SHOWN)}
        table.add_row(
            one.run.name or "",
            f"{int(one.run.step[-1]):,}" + ("" if one.outcome is not None else f" of {one.run.total_steps:,}"),
            "" if one.outcome is None else digits(one.outcome),
            *(_error(checks.get(fraction)) for fraction in _SHOWN),
            "" if one.alarm is None else _where(one.alarm),
            "" if one.advised is None else f"{one.advised.advice.action} at {_where(one.advised)}",
            "" if one.stop is None else f"{one.saved:.0%}",
        )
    console.print(table)
    console.print()
    totals = _table("All runs", "seen", "forecasts", "median error", "inside 90%")
    for quality in (made.quality(fraction) for fraction in FRACTIONS):
        none = not quality.count
        totals.add_row(
            f"{quality.fraction:.0%}",
            f"{quality.count:,}",
            "" if none else f"{quality.median_error:.2%}",
            "" if none else f"{quality.covered:.0%}",
        )
    console.print(totals)
    console.print(_totals(made.summary()))
    for reason, count in made.skipped.items():
        console.print(f"Left out: {reason}" + (f" ({count:,})" if count > 1 else "") + ".", markup=False)


def _error(check: Check | None) -> str:
    from lightning_scaling.report.forecast_table import percent

    return "" if check is None else percent(check.error) + ("" if check.inside else " !")


def _where(update: Update) -> str:
    return f"step {update.step:,}" if update.fraction is None else f"{update.fraction:.0%}"


def _totals(summary: dict[str, Any]) -> str:
    runs, compute = summary["runs"], summary["compute"]
    advice = ", ".join(f"{count} to {action}" for action, count in summary["advice"].items() if count)
    text = f"{summary['reached_their_end']:,} of {runs:,} runs reached the end of their plan; alarms in "
    text += f"{summary['alarms']:,}; advice {advice or 'throughout to continue'}. "
    if not compute["saved"]:
        return text + "Stopping was never advised, so nothing would have been saved."
    return text + f"Following it saves {compute['share']:.1%} of all planned compute, counted in {compute['unit']}."


def history_sentence(made: ReplayCollection) -> str:
    """A sentence on the past runs of the runs."""
    from lightning_scaling.backtest.many_runs import HistorySource

    informed, runs = made.with_history, len(made.replays)
    ways = {
        HistorySource.EARLIER_RUNS: "the runs of its family that had ended before it began",
        HistorySource.OTHER_RUNS: "the other runs of its family, those of its size, length and schedule left out; some "
        "may be later, for when they ran is not known",
        HistorySource.GIVEN_RUNS: "the runs given",
    }
    if made.history_source not in ways:
        return "No run had past runs to learn from."
    return f"Each run learned from {ways[made.history_source]}: {informed:,} of {runs:,} had the two it takes."
