"""`lightning-scaling doctor`: checks of all that a monitored run needs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from lightning_scaling.cli.output import console, emit, info, json_option

if TYPE_CHECKING:
    from lightning_scaling.cli.health_checks import Finding

_LOOK = {"ok": ("ok", "green"), "note": ("note", "blue"), "warning": ("look", "yellow"), "failure": ("FAIL", "red")}


@click.command()
@click.option(
    "--journals",
    type=click.Path(path_type=Path),
    default=Path(),
    help="Folder below which to look for journals; default: here.",
)
@json_option()
@click.pass_context
def doctor(context: click.Context, *, journals: Path, as_json: bool) -> None:
    """Check versions, the tracking server, FLOP counting and journals that wait to be sent.

    Exits with 1 when something does not work; warnings and notes leave it at 0.
    """
    from lightning_scaling.cli.health_checks import examine

    findings = list(examine(journals))
    failures = sum(finding.status == "failure" for finding in findings)
    if as_json:
        emit({"ok": not failures, "findings": [finding.to_dict() for finding in findings]})
    else:
        _show(findings)
    if failures:
        info(f"{failures} of {len(findings)} checks failed.")
    context.exit(1 if failures else 0)


def _show(findings: list[Finding]) -> None:
    from rich.table import Table

    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column("status", no_wrap=True)
    table.add_column("check", no_wrap=True)
    table.add_column("detail", overflow="fold")
    for finding in findings:
        text, colour = _LOOK[finding.status]
        table.add_row(f"[{colour}]{text}[/{colour}]", finding.check, finding.detail)
    console().print(table)
