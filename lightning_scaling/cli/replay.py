"""`lightning-scaling replay`: what would have been said, and when, while recorded runs were training."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from lightning_scaling.cli.inputs import read_history, read_source
from lightning_scaling.cli.output import InputError, emit, input_errors, say

if TYPE_CHECKING:
    from lightning_scaling.backtest.single_run import Replay
    from lightning_scaling.runs.history import RunHistory
    from lightning_scaling.runs.run import Run

_NONE = "none"


@click.command()
@click.argument("source", type=click.Path())
@click.option("--total-steps", type=int, help="Steps a run from CSV intended to make; default: its last step.")
@click.option("--at", "fractions", help="Fractions of the run to report, e.g. 0.25,0.5,0.75; default: every update.")
@click.option("--alpha", type=float, help="False-alarm probability of a whole run; default: 0.01, or a journal's own.")
@click.option("--target", type=float, help="Loss that the run must reach; advice then weighs it.")
@click.option("--history", help="Who teaches: a folder of curves, mlflow:EXPERIMENT, or `none`.")
@click.option("--metric", help="Name of the metric in MLflow; default: scaling/loss, then the usual names.")
@click.option("--tracking-uri", help="Where MLflow keeps its runs; default: where MLflow would look.")
@click.option("--figure", type=click.Path(dir_okay=False), help="Draw forecasts against what came: a PNG file.")
@click.option("--json", "as_json", is_flag=True, help="JSON lines: one per update, or one per run and a summary.")
def replay(
    *,
    source: str,
    total_steps: int | None,
    fractions: str | None,
    alpha: float | None,
    target: float | None,
    history: str | None,
    metric: str | None,
    tracking_uri: str | None,
    figure: str | None,
    as_json: bool,
) -> None:
    """Replay SOURCE through the engine that watches live runs, and hold what it says against what came.

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
    found = read_source(source, total_steps=total_steps, metric=metric, tracking_uri=tracking_uri)
    past = None
    if history is not None and history != _NONE:
        past = read_history(history, metric=metric, tracking_uri=tracking_uri)
    from lightning_scaling.runs.run import Run

    if isinstance(found, Run):
        _one(found, past, at, alpha, target, figure, as_json, source)
        return
    if at is not None:
        raise InputError("`--at` is for a single run; of several, forecasts at 10, 25, 50 and 75 % are reported.")
    _many(found, past, history == _NONE, alpha, target, figure, as_json)


def _one(
    run: Run,
    past: RunHistory | None,
    at: list[float] | None,
    alpha: float | None,
    target: float | None,
    figure: str | None,
    as_json: bool,
    source: str,
) -> None:
    from lightning_scaling.backtest.drivers import differing
    from lightning_scaling.backtest.many_runs import without
    from lightning_scaling.backtest.single_run import Replay
    from lightning_scaling.backtest.single_run import replay as replay_run
    from lightning_scaling.cli.replay_output import show_run, what_was_read

    if past is not None:
        past = without(past, run)
        say(f"{len(past):,} past {'run' if len(past) == 1 else 'runs'} of {past.source} to learn from.")
    say(what_was_read(run))
    for sentence in differing(run, past):
        say(sentence)
    with input_errors(file=source):
        whole = Replay.of(run, history=past, alpha=alpha, target=target) if at is None or not as_json else None
        updates = (
            whole.updates
            if at is None and whole is not None
            else replay_run(run, history=past, at=at, alpha=alpha, target=target)
        )
        if figure is not None:
            from lightning_scaling.report.backtest_figures import replay_figure

            whole = whole or Replay.of(run, history=past, alpha=alpha, target=target)
            _draw(figure, replay_figure(whole))
    if as_json:
        for update in updates:
            emit(update.to_dict())
    elif whole is not None:
        show_run(whole, updates)
    if not updates:
        say(f"No update: {len(run)} points are too few for a forecast.")


def _many(
    runs: RunHistory,
    past: RunHistory | None,
    alone: bool,
    alpha: float | None,
    target: float | None,
    figure: str | None,
    as_json: bool,
) -> None:
    from lightning_scaling.backtest.many_runs import replay_many
    from lightning_scaling.cli.replay_output import history_sentence, show_set

    say(runs.summary())
    if past is not None:
        say(f"{len(past):,} past {'run' if len(past) == 1 else 'runs'} of {past.source} to learn from.")
    with input_errors(), _progress(len(runs)) as done:

        def each(one: Replay) -> None:
            done()
            if as_json:
                emit(one.summary())

        made = replay_many(runs, history=None if alone else past or "auto", alpha=alpha, target=target, each=each)
    if as_json:
        emit({"summary": made.summary()})
    else:
        show_set(made)
    say(history_sentence(made))
    if figure is not None:
        from lightning_scaling.report.backtest_figures import replay_many_figure

        with input_errors():
            _draw(figure, replay_many_figure(made))


def _draw(figure: str, content: bytes) -> None:
    Path(figure).parent.mkdir(parents=True, exist_ok=True)
    Path(figure).write_bytes(content)
    say(f"Figure: {figure}.")


@contextmanager
def _progress(runs: int) -> Iterator[Callable[[], None]]:
    """A bar on stderr, where that is a terminal."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bars:
        bar = bars.add_task("replaying", total=runs)
        yield lambda: bars.advance(bar)


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
