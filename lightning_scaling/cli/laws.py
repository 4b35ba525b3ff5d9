"""`lightning-scaling laws`: the catalogue, and the card of one law."""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from itertools import groupby
from operator import itemgetter
from typing import TYPE_CHECKING, Any, get_args

import click

from lightning_scaling.cli.output import InputError, console, emit, info, json_option, pairs
from lightning_scaling.laws.base import Tag

if TYPE_CHECKING:
    from lightning_scaling.laws.base import Law


@click.command("laws")
@click.argument("name", required=False)
@click.option("--tag", type=click.Choice(get_args(Tag)), help="Only laws for this use.")
@click.option("--option", "options", multiple=True, metavar="NAME=VALUE", help="How to make the law, e.g. breaks=2.")
@json_option()
def list_laws(*, name: str | None, tag: str | None, options: tuple[str, ...], as_json: bool) -> None:
    """List the scaling laws of the catalogue, or show all that is known of the law NAME.

    A law's card holds its formula, source, inputs with units, parameters, published constants and pitfalls.
    """
    if name is None:
        if options:
            raise InputError("`--option` says how one law is made; name the law too.")
        _catalogue(tag, as_json)
    elif tag is not None:
        raise InputError("`--tag` chooses among the laws of the list; leave it out when one law is named.")
    else:
        _card(make_law(name, parse_options(options)), as_json)


def make_law(name: str, options: dict[str, Any]) -> Law:
    """A law of the catalogue by name and options.

    Raises:
        InputError: There is no such law, or it does not take these options.
    """
    from lightning_scaling import laws

    try:
        return laws.get(name, **options)
    except (KeyError, ValueError) as error:
        raise InputError(str(error.args[0])) from error
    except TypeError as error:
        try:
            takes = list(inspect.signature(type(laws.get(name))).parameters)
        except (TypeError, ValueError):
            raise InputError(f"The law {name} cannot be made with these options: {error}.") from error
        known = "the options " + ", ".join(takes) if takes else "no options"
        given = ", ".join(f"{key}={value!r}" for key, value in options.items())
        raise InputError(f"The law {name} takes {known}, but got {given}.") from error


def parse_options(texts: tuple[str, ...]) -> dict[str, Any]:
    """``NAME=VALUE`` as keyword arguments: numbers as numbers, lists parted by commas, everything else as text.

    Raises:
        InputError: One of them has no name or no value.
    """
    result: dict[str, Any] = {}
    for name, value in pairs("option", texts, "NAME=VALUE, such as breaks=2"):
        parts = [_literal(part.strip()) for part in value.split(",")]
        result[name] = parts if len(parts) > 1 else parts[0]
    return result


def _literal(text: str) -> Any:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return {"true": True, "false": False}.get(text.lower(), text)


def _catalogue(tag: str | None, as_json: bool) -> None:
    from lightning_scaling import laws

    rows = []
    for name in laws.names(tag):
        group = laws.group(name)
        try:
            rows.append(_brief(laws.get(name), group))
        except (TypeError, ValueError) as error:
            rows.append({"name": name, "group": group, "needs": str(error)})
    rows.sort(key=itemgetter("group"))
    if as_json:
        emit({"laws": rows})
        return
    widest = max((len(row["name"]) for row in rows), default=0)
    for group, members in groupby(rows, itemgetter("group")):
        _show(group, members, widest)
    info(f"{len(rows)} laws; `lightning-scaling laws NAME` shows one, `--tag` those for one use.")


def _show(group: str, laws: Iterable[dict[str, Any]], widest: int) -> None:
    from rich.table import Table
    from rich.text import Text

    rows = Table(box=None, header_style="dim", padding=(0, 2, 0, 0), expand=True)
    rows.add_column(Text(group, style="bold"), min_width=widest, no_wrap=True)
    rows.add_column("formula", ratio=5, overflow="fold")
    rows.add_column("inputs", ratio=2)
    rows.add_column("constants", justify="right", no_wrap=True)
    for law in laws:
        if "needs" in law:
            rows.add_row(law["name"], Text(f"made with --option: {law['needs']}", style="dim"), "", "")
        else:
            constants = str(len(law["published"]) or "")
            rows.add_row(law["name"], Text(law["formula"]), Text(", ".join(law["inputs"])), constants)
    console().print(rows, "")


def _card(law: Law, as_json: bool) -> None:
    from lightning_scaling import laws
    from lightning_scaling.laws.summary import law_card

    if not as_json:
        click.echo(law_card(law))
        return
    parameters = [
        {**{key: getattr(p, key) for key in ("name", "meaning", "lower", "upper")}, "linear": p.name in law.linear}
        for p in law.parameters
    ]
    keys = ("name", "values", "errors", "verified", "note", "inexact")
    constants = [
        {**{key: getattr(known, key) for key in keys}, "source": str(known.source)} for known in law.published.values()
    ]
    more = {"options": law.options(), "parameters": parameters, "constants": constants, "pitfalls": law.pitfalls}
    emit(_brief(law, laws.group(law.name)) | more)


def _brief(law: Law, group: str) -> dict[str, Any]:
    return {
        "name": law.name,
        "group": group,
        "title": law.title,
        "formula": law.formula,
        "source": str(law.source),
        "inputs": {name: law.unit(name) for name in law.inputs},
        "output": law.output,
        "tags": sorted(law.tags),
        "published": list(law.published),
    }
