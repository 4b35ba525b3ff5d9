"""`lightning-scaling sync`: send what a journal still holds."""

from __future__ import annotations

import click

from lightning_scaling.cli.output import emit, errors, info, json_option


@click.command()
@click.argument("journal", type=click.Path())
@click.option("--tracking-uri", help="Where the run is kept; default: what MLflow is configured with.")
@click.option("--run-id", help="The MLflow run to send to; default: the one that the journal names.")
@click.option("--experiment", help="For a journal that names no run: the experiment in which to create one.")
@click.option(
    "--to-recorded-server", is_flag=True, help="Send to the server that the journal names, with your credentials."
)
@click.option(
    "--timeout",
    type=click.FloatRange(min=0, min_open=True),
    default=60.0,
    show_default=True,
    help="Seconds given to each run.",
)
@json_option()
@click.pass_context
def sync(
    context: click.Context,
    *,
    journal: str,
    tracking_uri: str | None,
    run_id: str | None,
    experiment: str | None,
    to_recorded_server: bool,
    timeout: float,
    as_json: bool,
) -> None:
    """Send to MLflow what is missing there of JOURNAL, or of every journal below a folder.

    Nothing is sent twice, so this can be repeated or stopped at any time.
    """
    with errors(journal):
        from lightning_scaling.tracking import sync as send

        report = send(
            journal,
            tracking_uri=tracking_uri,
            run_id=run_id,
            experiment=experiment,
            to_recorded_server=to_recorded_server,
            timeout=timeout,
        )
    if as_json:
        emit(report.to_dict())
    else:
        for one in report.journals:
            state = f"{one.sent} rows sent" + (f", {one.waiting} still waiting" if one.waiting else "")
            state += f", {one.dropped} cannot be sent" if one.dropped else ""
            click.echo(f"{one.journal}: {state}" + (f" ({one.run})" if one.run else ""))
        if not report.journals:
            click.echo(f"{journal}: no journal there names an MLflow run.")
    for one in report.journals:
        if one.error:
            info(one.error)
    context.exit(0 if report.ok else 1)
