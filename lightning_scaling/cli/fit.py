"""`lightning-scaling fit`: estimate a scaling law from a table of runs."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lightning_scaling.cli.laws import make_law, parse_options
from lightning_scaling.cli.output import InputError, WorkError, emit, input_errors, say
from lightning_scaling.cli.table import keep, labels, name_of, numbers, read_table
from lightning_scaling.laws.base import UNITS

if TYPE_CHECKING:
    import pandas as pd

    from lightning_scaling.laws import Fit, Law
    from lightning_scaling.laws.selection import Comparison

_LEVEL = 0.95
_DELTA = 1e-3


def _delta(text: str) -> float | str:
    if text == "auto":
        return text
    try:
        return float(text)
    except ValueError:
        raise click.BadParameter(f"{text!r} is neither a number nor auto.") from None


def _for_inputs(command: Callable[..., Any]) -> Callable[..., Any]:
    """An option for every input that means the same in all laws."""
    for name, unit in reversed(list(UNITS.items())):
        flag = f"--{name.replace('_', '-')}"
        command = click.option(flag, name, metavar="COLUMN", help=f"Column with the {_short(unit)}.")(command)
    return command


def _short(unit: str) -> str:
    return unit.split(", from", maxsplit=1)[0]


@click.command()
@click.argument("data", type=click.Path())
@click.option("--law", "law_name", required=True, help="The law to fit; `lightning-scaling laws` lists them.")
@click.option("--option", "options", multiple=True, metavar="NAME=VALUE", help="How to make the law, e.g. breaks=2.")
@_for_inputs
@click.option("--column", "others", multiple=True, metavar="INPUT=COLUMN", help="Column of any other input.")
@click.option("--loss", metavar="COLUMN", help="Column of what the law predicts; default: its name in the law.")
@click.option("--rates", metavar="COLUMN", help="Column with learning rates, for laws that know the schedule.")
@click.option("--weights", metavar="COLUMN", help="Column with weights, or `frontier`: most near the best runs.")
@click.option("--groups", metavar="COLUMN", help="Column that says which points are of one run.")
@click.option("--where", metavar="EXPR", help="Use only rows for which this holds, e.g. 'tokens > 20*params'.")
@click.option(
    "--objective",
    type=click.Choice(["huber", "least_squares", "quantile"]),
    default="huber",
    show_default=True,
    help="What is minimised, summed over the points.",
)
@click.option(
    "--delta",
    type=_delta,
    metavar="NUMBER",
    help="Residual at which huber turns from square to linear, or `auto`; default: 0.001.",
)
@click.option("--quantile", type=float, default=0.5, show_default=True, help="Level of the quantile objective.")
@click.option("--space", type=click.Choice(["log", "linear"]), help="Scale of the residuals; default: the law's.")
@click.option("--fixed", multiple=True, metavar="NAME=NUMBER", help="Give a parameter instead of fitting it.")
@click.option("--bounds", multiple=True, metavar="NAME=LOW:HIGH", help="Bounds in place of the law's own.")
@click.option("--priors", is_flag=True, help="Weigh the law's own prior beliefs in.")
@click.option(
    "--ladder", is_flag=True, help="To extrapolate: --weights frontier --priors --delta auto, as far as not given."
)
@click.option("--compare", metavar="LAW,LAW", help="Also rank the law among these by points held out.")
@click.option("--bootstrap", type=click.IntRange(min=0), default=0, help="Number of refits to resampled runs.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Seed of the resampling.")
@click.option("--level", type=float, default=_LEVEL, show_default=True, help="Probability of the intervals.")
@click.option("--training", multiple=True, metavar="KEY=TEXT", help="Say how the runs were made; saved with the fit.")
@click.option("--plot", type=click.Path(), help="Draw the fit: .png, .svg, .pdf, or .html to explore.")
@click.option("--save", type=click.Path(), help="Write the fit as JSON, for `allocate` and `laws.load`.")
@click.option("--json", "as_json", is_flag=True, help="The same JSON document on stdout.")
def fit(
    *,
    data: str,
    law_name: str,
    options: tuple[str, ...],
    others: tuple[str, ...],
    loss: str | None,
    rates: str | None,
    weights: str | None,
    groups: str | None,
    where: str | None,
    objective: Any,
    delta: Any,
    quantile: float,
    space: str | None,
    fixed: tuple[str, ...],
    bounds: tuple[str, ...],
    priors: bool,
    ladder: bool,
    compare: str | None,
    bootstrap: int,
    seed: int,
    level: float,
    training: tuple[str, ...],
    plot: str | None,
    save: str | None,
    as_json: bool,
    **inputs: str | None,
) -> None:
    """Fit a scaling law to DATA, a table with a row per run or point: CSV, Parquet or JSON lines; `-` is stdin.

    Inputs are counted in units of one (7e9 parameters, not 7). Columns named like the law's inputs are found without
    being told. The table of estimates goes to stdout; a weak fit is still printed, and its status said on stderr.
    """
    if not 0 < level < 1:
        raise InputError(f"`--level` must lie between 0 and 1, but got {level:g}.")
    _check_target(plot, save)
    name = name_of(data)
    made_with = parse_options(options)
    with input_errors(file=name):
        table = read_table(data)
        columns = {key: column for key, column in inputs.items() if column is not None} | dict(_pairs(others, "column"))
        law = make_law(law_name, made_with)
        if _wants_rates(law, rates):
            table, made_with["rates"] = _schedules(table, str(rates), columns.get("steps", "steps"), groups, name)
            law = make_law(law_name, made_with)
        if where is not None:
            rows = len(table)
            table = keep(table, where, name)
            say(f"`--where` keeps {len(table):,} of {rows:,} rows.")
        loss = loss or law.output
        if ladder:
            weights, priors, delta = weights or "frontier", True, "auto" if delta is None else delta
        used = _used(table, law, columns, loss, weights, groups, name)
        with _progress(bootstrap, shown=not as_json) as advance:
            found = law.fit(
                used,
                loss,
                objective,
                _DELTA if delta is None else delta,
                weights,
                bootstrap,
                seed,
                columns=columns,
                groups=groups,
                space=space,
                quantile=quantile,
                fixed={key: _number(text, "fixed", key) for key, text in _pairs(fixed, "fixed")},
                bounds={key: _ends(text, key) for key, text in _pairs(bounds, "bounds")},
                priors="default" if priors else None,
                training=dict(_pairs(training, "training")),
                progress=advance,
            )
        ranking = None if compare is None else _rank(table, law, compare, loss, columns, found, weights)
    _tell(found, level, as_json, ranking)
    _write(found, level, plot, save)


def _rank(
    table: pd.DataFrame, law: Law, others: str, loss: str, columns: dict[str, str], found: Fit, weights: str | None
) -> Comparison:
    from lightning_scaling import laws

    names = [name.strip() for name in others.split(",") if name.strip()]
    settings = found.settings
    return laws.compare(
        table,
        [law, *(make_law(name, {}) for name in names if name != law.name)],
        loss,
        columns=columns,
        objective=settings.objective.kind,
        delta=settings.objective.delta,
        weights="frontier" if weights == "frontier" else None,
        priors="default" if settings.priors else None,
    )


def _check_target(plot: str | None, save: str | None) -> None:
    from lightning_scaling.report.law_figures import ENDINGS

    if plot is not None and Path(plot).suffix.lower() not in ENDINGS:
        raise InputError(f"`--plot` must end in {', '.join(ENDINGS)}, but got {plot!r}.")
    for option, path in (("plot", plot), ("save", save)):
        if path is not None and not Path(path).absolute().parent.is_dir():
            raise InputError(f"`--{option}` {path}: there is no folder {Path(path).parent}.")


def _pairs(texts: tuple[str, ...], option: str) -> Iterator[tuple[str, str]]:
    for text in texts:
        name, _, value = (part.strip() for part in text.partition("="))
        if not name or not value:
            raise InputError(f"`--{option}` must be NAME=VALUE, but got {text!r}.")
        yield name, value


def _number(text: str, option: str, name: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise InputError(f"`--{option}` of {name} must be a number, but got {text!r}.") from None


def _ends(text: str, name: str) -> tuple[float, float]:
    low, colon, high = text.partition(":")
    if not colon:
        raise InputError(f"`--bounds` of {name} must be LOW:HIGH, such as 0.2:0.5, but got {text!r}.")
    return _number(low, "bounds", name), _number(high, "bounds", name)


def _used(
    table: pd.DataFrame,
    law: Law,
    columns: dict[str, str],
    loss: str,
    weights: str | None,
    groups: str | None,
    name: str,
) -> dict[str, Any]:
    """The columns that the fit needs, as arrays."""
    unknown = [given for given in columns if given not in law.inputs]
    if unknown:
        raise InputError(
            f"{unknown[0]} is no input of {law.name}, whose inputs are {', '.join(law.inputs)}; see "
            f"`lightning-scaling laws {law.name}`."
        )
    wanted = {columns.get(given, given): (given, _flag(given)) for given in law.inputs}
    wanted[loss] = (law.output, "--loss COLUMN")
    if weights is not None and (weights != "frontier" or weights in table):
        wanted[weights] = ("weights", "--weights COLUMN")
    for column, (purpose, option) in wanted.items():
        if column not in table:
            raise InputError(
                f"{name} has no column {column!r} for {purpose}; it has {', '.join(map(str, table.columns))}. Name "
                f"the column with {option}."
            )
    result: dict[str, Any] = {column: numbers(table, column, name) for column in wanted}
    if groups is not None:
        if groups not in table:
            raise InputError(f"{name} has no column {groups!r}; it has {', '.join(map(str, table.columns))}.")
        result[groups] = labels(table, groups, name)
    return result


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')} COLUMN" if name in UNITS else f"--column {name}=COLUMN"


def _wants_rates(law: Law, rates: str | None) -> bool:
    known = "rates" in inspect.signature(type(law)).parameters
    if known and rates is None:
        raise InputError(f"{law.name} knows the schedule: name the column with the learning rates, --rates COLUMN.")
    if rates is not None and not known:
        raise InputError(f"{law.name} does not use learning rates: leave out --rates.")
    return known


def _schedules(table: pd.DataFrame, rates: str, steps: str, groups: str | None, name: str) -> tuple[pd.DataFrame, Any]:
    """The learning rate of every step, between rows on a straight line, by run where there are several."""
    import numpy as np

    from lightning_scaling.schedule import Plan

    for column in (steps, rates, *([] if groups is None else [groups])):
        if column not in table:
            raise InputError(f"{name} has no column {column!r}; it has {', '.join(map(str, table.columns))}.")

    def plan(part: pd.DataFrame) -> Any:
        at, rate = numbers(part, steps, name), numbers(part, rates, name)
        known = np.isfinite(at) & np.isfinite(rate)
        if not known.any():
            raise InputError(f"Column {rates!r} of {name} holds no learning rate.")
        order = np.argsort(at[known], kind="stable")
        return Plan(at[known][order], rate[known][order]).at(np.arange(1, int(at[known].max()) + 1))

    if groups is None:
        return table, plan(table)
    runs = labels(table, groups, name)
    found = {str(run): plan(table[runs == run]) for run in dict.fromkeys(runs)}
    place = {run: number for number, run in enumerate(found)}
    return table.assign(schedule=[place[run] for run in runs]), found


@contextmanager
def _progress(bootstrap: int, *, shown: bool) -> Iterator[Callable[[int], Any] | None]:
    if not (bootstrap and shown and sys.stderr.isatty()):
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("bootstrap"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("bootstrap", total=bootstrap)
        yield lambda done: bar.advance(task, done)


def _tell(found: Fit, level: float, as_json: bool, ranking: Comparison | None) -> None:
    if as_json:
        from lightning_scaling._utils.serialization import to_builtins
        from lightning_scaling.laws.summary import estimates

        compared = {} if ranking is None else {"comparison": {"rows": ranking.table, "left_out": ranking.skipped}}
        emit(to_builtins(found.to_dict() | {"estimates": estimates(found, level)} | compared, nonfinite="text"))
        if found.message or not found.ok:
            say(f"Status {found.status}. {found.message}".strip())
        return
    click.echo(found.summary(level))
    if ranking is not None:
        click.echo(f"\n{ranking.summary()}")
    if not found.ok:
        say(f"The status of this fit is {str(found.status)!r}: see the end of the table before using it.")


def _write(found: Fit, level: float, plot: str | None, save: str | None) -> None:
    try:
        if save is not None:
            say(f"Saved: {found.save(save)}")
        if plot is not None:
            from lightning_scaling.report.law_figures import write_figure

            say(f"Figure: {write_figure(found, plot, level)}")
    except OSError as error:
        raise WorkError(f"{error.filename or plot or save} cannot be written: {error.strerror}.") from error
