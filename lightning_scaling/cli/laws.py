"""`lightning-scaling laws`: the catalogue, and the card of one law."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any, get_args

import click

from lightning_scaling.cli.output import InputError, emit, people, say
from lightning_scaling.laws.base import Tag

if TYPE_CHECKING:
    from lightning_scaling.laws.base import Law


@click.command("laws")
@click.argument("name", required=False)
@click.option(
    "--tag",
    type=click.Choice(get_args(Tag)),
    help="Only laws for this use.",
)
@click.option("--option", "options", multiple=True, metavar="NAME=VALUE", help="How to make the law, e.g. breaks=2.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
def list_laws(*, name: str | None, tag: str | None, options: tuple[str, ...], as_json: bool) -> None:
    """List the scaling laws of the catalogue, or show all that is known of the law NAME.

    A law's card holds its formula, source, inputs with units, parameters, published constants and pitfalls.
    """
    if name is not None:
        if tag is not None:
            raise InputError("`--tag` chooses among the laws of the list; leave it out when one law is named.")
        _card(make_law(name, parse_options(options)), as_json)
        return
    if options:
        raise InputError("`--option` says how one law is made; name the law too.")
    _catalogue(tag, as_json)


def make_law(name: str, options: dict[str, Any]) -> Law:
    """A law of the catalogue by name and options.

    Raises:
        InputError: There is no such law, or it does not take these options.
    """
    from lightning_scaling import laws

    try:
        return laws.get(name, **options)
    except KeyError as error:
        raise InputError(str(error.args[0])) from error
    except ValueError as error:
        raise InputError(str(error)) from error
    except TypeError as error:
        raise InputError(_wrong_options(name, options, error)) from error


def _wrong_options(name: str, options: dict[str, Any], error: TypeError) -> str:
    from lightning_scaling import laws

    try:
        takes = list(inspect.signature(type(laws.get(name))).parameters)
    except (TypeError, ValueError):
        return f"The law {name} cannot be made with these options: {error}."
    given = ", ".join(f"{key}={value!r}" for key, value in options.items())
    return f"The law {name} takes {'the options ' + ', '.join(takes) if takes else 'no options'}, but got {given}."


def parse_options(texts: tuple[str, ...]) -> dict[str, Any]:
    """``NAME=VALUE`` as keyword arguments: numbers as numbers, lists parted by commas, everything else as text.

    Raises:
        InputError: One of them has no name or no value.
    """
    result: dict[str, Any] = {}
    for text in texts:
        name, _, value = text.partition("=")
        if not name.strip().isidentifier() or not value:
            raise InputError(f"`--option` must be NAME=VALUE, such as breaks=2, but got {text!r}.")
        parts = [_literal(part.strip()) for part in value.split(",")]
        result[name.strip()] = parts if len(parts) > 1 else parts[0]
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

    grouped: dict[str, list[tuple[str, Law | None, str]]] = {}
    for name in laws.names(tag):
        try:
            law, why = laws.get(name), ""
        except (TypeError, ValueError) as error:
            law, why = None, str(error)
        grouped.setdefault(laws.group(name), []).append((name, law, why))
    if as_json:
        rows = [
            {"name": name, "group": group, "needs": why} if law is None else _brief(law, group)
            for group in sorted(grouped)
            for name, law, why in grouped[group]
        ]
        emit({"laws": rows})
    else:
        _show(grouped)
        count = sum(map(len, grouped.values()))
        say(f"{count} laws; `lightning-scaling laws NAME` shows one, `--tag` those for one use.")


def _show(grouped: dict[str, list[tuple[str, Law | None, str]]]) -> None:
    from rich.table import Table
    from rich.text import Text

    console = people()
    widest = max((len(name) for rows in grouped.values() for name, _, _ in rows), default=0)
    for group in sorted(grouped):
        table = Table(box=None, header_style="dim", padding=(0, 2, 0, 0), expand=True)
        table.add_column(Text(group, style="bold"), min_width=widest, no_wrap=True)
        table.add_column("formula", ratio=5, overflow="fold")
        table.add_column("inputs", ratio=2)
        table.add_column("constants", justify="right", no_wrap=True)
        for name, law, why in grouped[group]:
            if law is None:
                table.add_row(name, Text(f"made with --option: {why}", style="dim"), "", "")
            else:
                known = str(len(law.published)) if law.published else ""
                table.add_row(name, Text(law.formula), Text(", ".join(law.inputs)), known)
        console.print(table)
        console.print()


def _card(law: Law, as_json: bool) -> None:
    from lightning_scaling import laws
    from lightning_scaling.laws.summary import law_card

    if not as_json:
        click.echo(law_card(law))
        return
    emit(
        _brief(law, laws.group(law.name))
        | {
            "options": law.options(),
            "parameters": [
                {
                    "name": p.name,
                    "meaning": p.meaning,
                    "linear": p.name in law.linear,
                    "lower": p.lower,
                    "upper": p.upper,
                }
                for p in law.parameters
            ],
            "constants": [
                {
                    "name": known.name,
                    "values": known.values,
                    "errors": known.errors,
                    "source": str(known.source),
                    "verified": known.verified,
                    "note": known.note,
                    "inexact": known.inexact,
                }
                for known in law.published.values()
            ],
            "pitfalls": law.pitfalls,
        }
    )


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
