"""`lightning-scaling fit`: estimate a scaling law from a table of runs."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lightning_scaling.cli.laws import make_law, parse_options
from lightning_scaling.cli.output import (
    InputError,
    WorkError,
    emit,
    errors,
    info,
    json_option,
    level_option,
    pairs,
    progress_bar,
)
from lightning_scaling.cli.table import keep, labels, name_of, numbers, read_table
from lightning_scaling.laws.base import UNITS

if TYPE_CHECKING:
    import pandas as pd

    from lightning_scaling.laws import Fit, Law
    from lightning_scaling.laws.options import FitOptions
    from lightning_scaling.laws.selection import Comparison


_OBJECTIVES = click.Choice(["huber", "least_squares", "quantile"])


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
        text = f"Column with the {unit.split(', from', maxsplit=1)[0]}."
        command = click.option(flag, name, metavar="COLUMN", help=text)(command)
    return command


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
@click.option("--objective", type=_OBJECTIVES, default="huber", show_default=True, help="What is minimised.")
@click.option("--delta", type=_delta, metavar="NUMBER", help="Where huber turns linear, or `auto`; default: 0.001.")
@click.option("--quantile", type=float, default=0.5, show_default=True, help="Level of the quantile objective.")
@click.option("--space", type=click.Choice(["log", "linear"]), help="Scale of the residuals; default: the law's.")
@click.option("--fixed", multiple=True, metavar="NAME=NUMBER", help="Give a parameter instead of fitting it.")
@click.option("--bounds", multiple=True, metavar="NAME=LOW:HIGH", help="Bounds in place of the law's own.")
@click.option("--priors", is_flag=True, help="Weigh the law's own prior beliefs in.")
@click.option("--ladder", is_flag=True, help="To extrapolate: --weights frontier --priors --delta auto, as a default.")
@click.option("--compare", metavar="LAW,LAW", help="Also rank the law among these by points held out.")
@click.option("--bootstrap", type=click.IntRange(min=0), default=0, help="Number of refits to resampled runs.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Seed of the resampling.")
@level_option(0.95)
@click.option("--training", multiple=True, metavar="KEY=TEXT", help="Say how the runs were made; saved with the fit.")
@click.option("--plot", type=click.Path(), help="Draw the fit: .png, .svg, .pdf, or .html to explore.")
@click.option("--save", type=click.Path(), help="Write the fit as JSON, for `allocate` and `laws.load`.")
@json_option("The same JSON document on stdout.")
def fit(
    *,
    data: str,
    law_name: str,
    options: tuple[str, ...],
    others: tuple[str, ...],
    rates: str | None,
    where: str | None,
    compare: str | None,
    level: float,
    plot: str | None,
    save: str | None,
    as_json: bool,
    **asked: Any,
) -> None:
    """Fit a scaling law to DATA, a table with a row per run or point: CSV, Parquet or JSON lines; `-` is stdin.

    Inputs are counted in units of one (7e9 parameters, not 7). Columns named like the law's inputs are found by
    themselves. The table of estimates goes to stdout; a weak fit is still printed, with its status on stderr.
    """
    from lightning_scaling.laws.estimator import estimate
    from lightning_scaling.laws.results import Fit

    _check_target(plot, save)
    name = name_of(data)
    made_with = parse_options(options)
    with errors(name):
        table = read_table(data)
        columns = {key: column for key in UNITS if (column := asked.pop(key)) is not None}
        columns |= dict(pairs("column", others))
        law = make_law(law_name, made_with)
        if _wants_rates(law, rates):
            steps = columns.get("steps", "steps")
            table, made_with["rates"] = _schedules(table, str(rates), steps, asked["groups"], name)
            law = make_law(law_name, made_with)
        if where is not None:
            rows = len(table)
            table = keep(table, where, name)
            info(f"`--where` keeps {len(table):,} of {rows:,} rows.")
        how = _fit_options(law, columns, asked)
        used = _used(table, law, how, name)
        with progress_bar("bootstrap", how.bootstrap, shown=bool(how.bootstrap) and not as_json) as update:

            def progress(done: int) -> None:
                update(advance=done)

            found = Fit.of(estimate(law, used, how, progress))
        ranking = None if compare is None else _rank(table, law, compare, how, found)
    _show(found, level, as_json, ranking)
    _write(found, level, plot, save)


def _fit_options(law: Law, columns: dict[str, str], asked: dict[str, Any]) -> FitOptions:
    """The options as the library knows them; those of `--ladder` as far as they are not given."""
    from lightning_scaling.laws.options import FitOptions

    if asked.pop("ladder"):
        asked |= {"weights": asked["weights"] or "frontier", "priors": True}
        asked["delta"] = "auto" if asked["delta"] is None else asked["delta"]
    if asked["delta"] is None:
        del asked["delta"]
    asked |= {
        "loss": asked["loss"] or law.output,
        "fixed": {key: _number(text, "fixed", key) for key, text in pairs("fixed", asked["fixed"])},
        "bounds": {key: _ends(text, key) for key, text in pairs("bounds", asked["bounds"])},
        "priors": "default" if asked["priors"] else None,
        "training": dict(pairs("training", asked["training"])),
    }
    return FitOptions(columns=columns, **asked)


def _rank(table: pd.DataFrame, law: Law, others: str, how: FitOptions, found: Fit) -> Comparison:
    from lightning_scaling import laws

    names = [name.strip() for name in others.split(",") if name.strip()]
    settings = found.settings
    return laws.compare(
        table,
        [law, *(make_law(name, {}) for name in names if name != law.name)],
        how.loss,
        columns=how.columns,
        objective=settings.objective.kind,
        delta=settings.objective.delta,
        weights="frontier" if how.weights == "frontier" else None,
        priors="default" if settings.priors else None,
    )


def _check_target(plot: str | None, save: str | None) -> None:
    from lightning_scaling.report.law_figures import ENDINGS

    if plot is not None and Path(plot).suffix.lower() not in ENDINGS:
        raise InputError(f"`--plot` must end in {', '.join(ENDINGS)}, but got {plot!r}.")
    for option, path in (("plot", plot), ("save", save)):
        if path is not None and not Path(path).absolute().parent.is_dir():
            raise InputError(f"`--{option}` {path}: there is no folder {Path(path).parent}.")


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


def _used(table: pd.DataFrame, law: Law, how: FitOptions, name: str) -> dict[str, Any]:
    """The columns that the fit needs, as arrays."""
    columns = how.columns or {}
    unknown = [given for given in columns if given not in law.inputs]
    if unknown:
        raise InputError(
            f"{unknown[0]} is no input of {law.name}, whose inputs are {', '.join(law.inputs)}; see "
            f"`lightning-scaling laws {law.name}`."
        )
    wanted = {columns.get(given, given): (given, _flag(given)) for given in law.inputs}
    wanted[how.loss] = (law.output, "--loss COLUMN")
    if how.weights is not None and (how.weights != "frontier" or how.weights in table):
        wanted[how.weights] = ("weights", "--weights COLUMN")
    for column, (purpose, option) in wanted.items():
        _require(table, column, name, f" for {purpose}", f". Name the column with {option}")
    result: dict[str, Any] = {column: numbers(table, column, name) for column in wanted}
    if how.groups is not None:
        _require(table, how.groups, name)
        result[how.groups] = labels(table, how.groups, name)
    return result


def _require(table: pd.DataFrame, column: str, name: str, purpose: str = "", remedy: str = "") -> None:
    if column not in table:
        there = ", ".join(map(str, table.columns))
        raise InputError(f"{name} has no column {column!r}{purpose}; it has {there}{remedy}.")


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

    for column in filter(None, (steps, rates, groups)):
        _require(table, column, name)

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


def _show(found: Fit, level: float, as_json: bool, ranking: Comparison | None) -> None:
    if as_json:
        from lightning_scaling.laws.summary import estimates

        compared = {} if ranking is None else {"comparison": {"rows": ranking.table, "left_out": ranking.skipped}}
        emit(found.to_dict() | {"estimates": estimates(found, level)} | compared, nonfinite="text")
        if found.message or not found.ok:
            info(f"Status {found.status}. {found.message}".strip())
        return
    click.echo(found.summary(level))
    if ranking is not None:
        click.echo(f"\n{ranking.summary()}")
    if not found.ok:
        info(f"The status of this fit is {str(found.status)!r}: see the end of the table before using it.")


def _write(found: Fit, level: float, plot: str | None, save: str | None) -> None:
    try:
        if save is not None:
            info(f"Saved: {found.save(save)}")
        if plot is not None:
            from lightning_scaling.report.law_figures import write_figure

            info(f"Figure: {write_figure(found, plot, level)}")
    except ImportError as error:
        raise WorkError(str(error)) from error
    except OSError as error:
        raise WorkError(f"{error.filename or plot or save} cannot be written: {error.strerror}.") from error
