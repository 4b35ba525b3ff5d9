"""The command `lightning-scaling` and its subcommands; each loads what it needs only when it runs."""

from __future__ import annotations

import click

from lightning_scaling import __version__
from lightning_scaling.cli.allocate import allocate
from lightning_scaling.cli.calibrate import calibrate
from lightning_scaling.cli.doctor import doctor
from lightning_scaling.cli.fit import fit
from lightning_scaling.cli.forecast import forecast
from lightning_scaling.cli.laws import list_laws
from lightning_scaling.cli.replay import replay
from lightning_scaling.cli.sync import sync


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="lightning-scaling")
def main() -> None:
    """Forecasts, deviations and advice for training runs.

    Every command exits with 0 when it worked, 1 when the work failed and 2 when its usage or input was wrong.
    """


for _command in (replay, doctor, sync, list_laws, fit, forecast, allocate, calibrate):
    main.add_command(_command)
