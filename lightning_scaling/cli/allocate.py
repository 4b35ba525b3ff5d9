"""`lightning-scaling allocate`: how to spend a compute budget under a fitted law."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from lightning_scaling.cli.output import (
    InputError,
    WorkError,
    console,
    emit,
    errors,
    json_option,
    level_option,
    pairs,
    table,
)

if TYPE_CHECKING:
    from lightning_scaling.allocation import Allocation
    from lightning_scaling.laws import Fit

_SUFFIXES = {"k": 1e3, "K": 1e3, "M": 1e6, "B": 1e9, "G": 1e9, "T": 1e12}


def number(text: str) -> float:
    """A number such as 7e9 or 7B (k, M, B or G, T).

    Raises:
        click.BadParameter: It is not one.
    """
    plain = str(text).strip().replace("_", "")
    factor = _SUFFIXES.get(plain[-1:])
    try:
        return float(plain[:-1]) * factor if factor else float(plain)
    except ValueError:
        raise click.BadParameter(f"{text!r} is not a number such as 7e9 or 7B.") from None


@click.command()
@click.option("--fit", "file", type=click.Path(), help="A fit written by `lightning-scaling fit --save`.")
@click.option("--law", "law_name", help="Instead of a fit: a law of the catalogue, with published constants.")
@click.option("--constants", help="Which published constants of the law; default: its first.")
@click.option("--flops", type=number, help="The budget in FLOPs, training and inference together.")
@click.option("--params", type=number, help="A size, such as 7B: the tokens for which it is the best.")
@click.option("--tokens", type=number, help="Training tokens, such as 1.4T: the size for which they are the best.")
@click.option("--target", type=number, help="A loss to be reached with the least compute.")
@click.option(
    "--inference-tokens",
    type=number,
    default=0.0,
    help="Tokens that the model will process after training.",
    metavar="NUMBER",
)
@click.option("--unique-tokens", type=number, help="Distinct training tokens there are: beyond them they repeat.")
@click.option(
    "--given",
    multiple=True,
    metavar="NAME=VALUE[,VALUE...]",
    help="Another input of the law, such as experts=64; of several values the best is chosen.",
)
@click.option("--max-params", type=number, help="The greatest size allowed.")
@level_option(0.9)
@json_option()
def allocate(
    *,
    file: str | None,
    law_name: str | None,
    constants: str | None,
    given: tuple[str, ...],
    max_params: float | None,
    as_json: bool,
    **question: Any,
) -> None:
    """How to spend a compute budget: model size and tokens with which a law predicts the least loss.

    One of --flops, --params, --tokens and --target asks a question; two of the first three describe a choice, which is
    then held against the best use of the same budget.
    """
    fit = _fit(file, law_name, constants)
    bounds = None if max_params is None else (min(1.0, max_params / 2), max_params)
    with errors(file):
        from lightning_scaling.allocation import allocate as solve

        found = solve(fit, given=_given(given), bounds=bounds, **question)
    if as_json:
        emit(found.to_dict())
    elif found.status != "no_optimum":
        _show(found)
    if found.status == "no_optimum":
        raise WorkError(found.message)


def _fit(file: str | None, law_name: str | None, constants: str | None) -> Fit:
    if (file is None) == (law_name is None):
        raise InputError(
            "Give a fit with `--fit FILE`, or a law with published constants with `--law NAME`: one of the two."
        )
    if file is not None and constants is not None:
        raise InputError("`--constants` belongs to `--law`; a fit has its own.")
    from lightning_scaling import laws

    with errors(file):
        try:
            return laws.load(file) if file is not None else laws.get(str(law_name)).known(constants)
        except KeyError as error:
            raise InputError(str(error.args[0])) from error


def _given(texts: tuple[str, ...]) -> dict[str, Any]:
    shape = "NAME=VALUE or NAME=VALUE,VALUE,... with numbers"
    values: dict[str, Any] = {}
    for name, listed in pairs("given", texts, shape):
        try:
            numbers = [number(part) for part in listed.split(",")]
        except click.BadParameter:
            raise InputError(f"`--given` must be {shape}, but got {f'{name}={listed}'!r}.") from None
        values[name] = numbers if len(numbers) > 1 else numbers[0]
    return values


def _show(found: Allocation) -> None:
    from lightning_scaling.allocation.result import allocation_rows, remarks

    out = console()
    interval = f"{found.level:.0%} interval"
    rows = table(f"{found.law}: {found.status.replace('_', ' ')}", "", "best", interval, left=("", interval))
    for row in allocation_rows(found):
        rows.add_row(*row)
    out.print(rows)
    for remark in remarks(found):
        out.print(remark)
