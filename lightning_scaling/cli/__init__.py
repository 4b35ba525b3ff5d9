"""The command line `lightning-scaling`."""

from lightning_scaling.cli.app import main

__all__ = ["main"]
