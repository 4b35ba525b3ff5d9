"""Tables and sentences of replays: updates, runs, and the outcomes of forecasts and advice."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from lightning_scaling._utils.formatting import percent, significant
from lightning_scaling.cli.output import console, ends, table

if TYPE_CHECKING:
    from rich.table import Table

    from lightning_scaling.backtest.many_runs import ReplayCollection
    from lightning_scaling.backtest.single_run import Check, Replay
    from lightning_scaling.engine.records import Update
    from lightning_scaling.runs.run import Run

_SHOWN = (0.25, 0.5, 0.75)


def what_was_read(run: Run) -> str:
    """A sentence on what a run holds."""
    lost = int(np.isinf(run.loss).sum())
    end = ", no planned end" if run.meta.get("open_ended") else f" of {run.total_steps:,}"
    message = f"{np.isfinite(run.loss).sum():,} losses up to step {int(run.step[-1]):,}{end}"
    if lost:
        message += f"; {lost:,} more were not finite (counted, never averaged)"
    if not run.plan.known:
        message += f"; {run.plan.why}, so forecasts are less certain"
    return message + "."


def show_run(replay: Replay, updates: list[Update]) -> None:
    """The updates, the forecasts against the outcome, and what the advice would have saved."""
    if not updates:
        return
    out = console()
    out.print(_updates(replay.run, updates))
    latest = None
    for update in updates:
        advice = update.advice
        if advice.action != "continue" and (advice.action, advice.reason) != latest:
            latest = (advice.action, advice.reason)
            out.print(f"step {update.step:,}: {advice.action}. {advice.reason}")
    last = updates[-1].forecast
    if last.why:
        out.print(f"Last forecast, trust {last.trust}: {last.why}.")
    if replay.outcome is not None:
        out.print()
        title = f"Forecasts against the outcome: {significant(replay.outcome)}"
        checks = replay.checks()
        out.print(_checks(title, checks) if checks else f"{title}; none was made at 10, 25, 50 or 75 %.")
    elif not replay.run.meta.get("open_ended"):
        out.print("The run did not reach the end of its plan: its forecasts have no outcome.")
    out.print(saved(replay))


def _updates(run: Run, updates: list[Update]) -> Table:
    left = ("90% interval", "trust", "verdict", "advice")
    rows = table(run.name, "step", "seen", "loss", "final", *left, left=left)
    for update in updates:
        rows.add_row(
            f"{update.step:,}",
            "" if update.fraction is None else f"{update.fraction:.0%}",
            significant(update.loss),
            significant(update.forecast.final),
            ends(update.forecast.interval(0.9)),
            update.forecast.trust,
            update.deviation.verdict,
            update.advice.action,
        )
    return rows


def _checks(title: str, checks: list[Check]) -> Table:
    left = ("90% interval", "trust")
    rows = table(title, "seen", "forecast", left[0], "error", "inside", left[1], left=left)
    for check in checks:
        rows.add_row(
            f"{check.fraction:.0%}",
            significant(check.final),
            ends((check.lower, check.upper)),
            percent(check.error, signed=True),
            "yes" if check.inside else "no",
            check.trust,
        )
    return rows


def saved(replay: Replay) -> str:
    """What following the advice would have saved and cost, in a sentence or two."""
    stop = replay.stop
    if stop is None:
        return "Stopping was never advised, so nothing would have been saved."
    text = f"Stopping was first advised at step {stop.step:,}"
    if stop.fraction is None:
        return f"{text}; without a planned end its saving is not known."
    text += f", {stop.fraction:.0%} of the plan: it saves {stop.advice.saving:.0%} of the planned compute"
    if stop.advice.cost:
        text += f", at a cost of {stop.advice.cost:.3g} of {replay.metric} by its own reckoning"
    if replay.given_up is None or replay.outcome is None:
        return f"{text}."
    losses = f"{significant(stop.loss)} there, {significant(replay.outcome)} at the end"
    if replay.given_up > 0:
        return f"{text}. What it gives up in fact: {replay.given_up:.3g} ({losses})."
    return f"{text}. It gives up nothing: the rest of the run brought no gain ({losses})."


def show_many(made: ReplayCollection) -> None:
    """One row per run, then what they add up to."""
    from lightning_scaling.backtest.single_run import FRACTIONS

    out = console()
    title = "Error of the forecast of the end (! outside its 90% interval)"
    heads = ("run", "steps", "ended at", *(f"at {fraction:.0%}" for fraction in _SHOWN), "alarm", "advice", "saved")
    rows = table(title, *heads, left=("run", "advice"))
    rows.columns[0].overflow = "ellipsis"
    for one in made.replays:
        checks = {check.fraction: check for check in one.checks(_SHOWN)}
        rows.add_row(
            one.run.name or "",
            f"{int(one.run.step[-1]):,}" + ("" if one.outcome is not None else f" of {one.run.total_steps:,}"),
            "" if one.outcome is None else significant(one.outcome),
            *(_error(checks.get(fraction)) for fraction in _SHOWN),
            "" if one.alarm is None else _where(one.alarm),
            "" if one.advised is None else f"{one.advised.advice.action} at {_where(one.advised)}",
            "" if one.stop is None else f"{one.saved:.0%}",
        )
    out.print(rows)
    out.print()
    totals = table("All runs", "seen", "forecasts", "median error", "inside 90%")
    for quality in map(made.quality, FRACTIONS):
        shares = (percent(quality.median_error, 2), percent(quality.covered, 0))
        totals.add_row(f"{quality.fraction:.0%}", f"{quality.count:,}", *shares)
    out.print(totals)
    out.print(_totals(made.summary()))
    for reason, count in made.skipped.items():
        out.print(f"Left out: {reason}" + (f" ({count:,})" if count > 1 else "") + ".", markup=False)


def _error(check: Check | None) -> str:
    return "" if check is None else percent(check.error, signed=True) + ("" if check.inside else " !")


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

    ways = {
        HistorySource.EARLIER_RUNS: "the runs of its family that had ended before it began",
        HistorySource.OTHER_RUNS: "the other runs of its family, those of its size, length and schedule left out; some "
        "may be later, for when they ran is not known",
        HistorySource.GIVEN_RUNS: "the runs given",
    }
    if made.history_source not in ways:
        return "No run had past runs to learn from."
    count = f"{made.with_history:,} of {len(made.replays):,} had the two it takes"
    return f"Each run learned from {ways[made.history_source]}: {count}."
