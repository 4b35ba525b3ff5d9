"""`lightning-scaling replay`: the forecasts, alarms and advice that recorded runs would have had while they trained."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lightning_scaling._utils.formatting import plural
from lightning_scaling.cli.inputs import Sources, source_options
from lightning_scaling.cli.output import InputError, emit, errors, info, json_option, progress_bar

if TYPE_CHECKING:
    from lightning_scaling.backtest.single_run import Replay
    from lightning_scaling.runs.history import RunHistory
    from lightning_scaling.runs.run import Run

_NONE = "none"


@click.command()
@click.argument("source", type=click.Path())
@source_options
@click.option("--at", "fractions", help="Fractions of the run to report, e.g. 0.25,0.5,0.75; default: every update.")
@click.option("--alpha", type=float, help="False-alarm probability of a whole run; default: 0.01, or a journal's own.")
@click.option("--target", type=float, help="Loss that the run must reach; advice then weighs it.")
@click.option("--history", help="Past runs to learn from: a folder of curves, mlflow:EXPERIMENT, or `none`.")
@click.option("--figure", type=click.Path(dir_okay=False), help="Draw forecasts against outcomes: a PNG file.")
@json_option("JSON lines: one per update, or one per run and a summary.")
def replay(
    *,
    source: str,
    sources: Sources,
    fractions: str | None,
    history: str | None,
    figure: str | None,
    as_json: bool,
    **settings: Any,
) -> None:
    """Replay SOURCE through the engine that watches live runs, and compare its forecasts with the outcomes.

    SOURCE is a curve (a CSV file `step,loss[,lr]`), the journal of a monitored run (.jsonl), a folder of these,
    mlflow:RUN_ID, or mlflow:EXPERIMENT (mlflow-experiment:NAME for one named like a run).

    The losses are shown to it one by one, so every forecast uses only what had been seen by then. The lr column of a
    CSV file, later rows included, is the plan; rows with an empty loss carry only the rate. A journal gives the very
    numbers of the live run.

    Of a folder or an experiment every run learns from those that had ended before it began, where that is known, else
    from all others but its replicates; `--history` names others, or `none`. A single run learns only from `--history`.
    """
    at = _fractions(fractions)
    if figure is not None and Path(figure).suffix.lower() != ".png":
        raise InputError(f"`--figure` must end in .png, but got {figure!r}.")
    sources.check(source, history)
    found = sources.runs(source)
    past = None if history in (None, _NONE) else sources.history(str(history))
    from lightning_scaling.runs.run import Run

    if isinstance(found, Run):
        with errors(source):
            _replay_run(found, past, at, figure, as_json, settings)
    elif at is not None:
        raise InputError("`--at` is for a single run; of several, forecasts at 10, 25, 50 and 75 % are reported.")
    else:
        with errors():
            _replay_many(found, past, history == _NONE, figure, as_json, settings)


def _replay_run(
    run: Run,
    past: RunHistory | None,
    at: list[float] | None,
    figure: str | None,
    as_json: bool,
    settings: dict[str, Any],
) -> None:
    from lightning_scaling.backtest.drivers import differing
    from lightning_scaling.backtest.many_runs import without
    from lightning_scaling.backtest.single_run import Replay
    from lightning_scaling.backtest.single_run import replay as updates_of
    from lightning_scaling.cli.replay_output import show_run, what_was_read

    if past is not None:
        past = without(past, run)
        _introduce(past)
    info(what_was_read(run))
    for sentence in differing(run, past):
        info(sentence)
    # JSON of some updates needs no others
    whole = Replay.of(run, history=past, **settings) if at is None or figure or not as_json else None
    updates = whole.updates if at is None and whole else updates_of(run, history=past, at=at, **settings)
    if figure is not None and whole is not None:
        from lightning_scaling.report.backtest_figures import replay_figure

        _draw(figure, replay_figure(whole))
    if as_json:
        for update in updates:
            emit(update.to_dict())
    elif whole is not None:
        show_run(whole, updates)
    if not updates:
        info(f"No update: {len(run)} points are too few for a forecast.")


def _replay_many(
    runs: RunHistory, past: RunHistory | None, alone: bool, figure: str | None, as_json: bool, settings: dict[str, Any]
) -> None:
    from lightning_scaling.backtest.many_runs import replay_many
    from lightning_scaling.cli.replay_output import history_sentence, show_many

    info(runs.summary())
    if past is not None:
        _introduce(past)
    with progress_bar("replaying", len(runs)) as update:

        def each(one: Replay) -> None:
            update(advance=1)
            if as_json:
                emit(one.summary())

        made = replay_many(runs, history=None if alone else past or "auto", each=each, **settings)
    if as_json:
        emit({"summary": made.summary()})
    else:
        show_many(made)
    info(history_sentence(made))
    if figure is not None:
        from lightning_scaling.report.backtest_figures import replay_many_figure

        _draw(figure, replay_many_figure(made))


def _introduce(past: RunHistory) -> None:
    info(f"{plural(len(past), 'past run')} of {past.source} to learn from.")


def _draw(figure: str, content: bytes) -> None:
    Path(figure).parent.mkdir(parents=True, exist_ok=True)
    Path(figure).write_bytes(content)
    info(f"Figure: {figure}.")


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
