"""Stores that past runs are read from, behind one interface."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol

from lightning_scaling.history.backends.mlflow_client import ClientStore
from lightning_scaling.history.backends.mlflow_sqlite import SqliteStore, UnknownTablesError, database_of
from lightning_scaling.history.error import HistoryError
from lightning_scaling.history.mlflow_parse import Experiment, Info, Series


class Store(Protocol):
    """A store of experiments; every method raises :class:`HistoryError` if it cannot be reached."""

    def experiment(self, name: str) -> Experiment | None:
        """An experiment given by its name or id."""

    def experiments(self) -> list[str]:
        """Names of experiments."""

    def run(self, run_id: str) -> tuple[Info, str] | None:
        """A run, and the id of its experiment."""

    def search(self, experiment: str, max_runs: int) -> list[Info]:
        """The latest runs of an experiment, latest first."""

    def series(self, wanted: Mapping[str, Sequence[str]]) -> Iterator[tuple[str, dict[str, Series] | Exception]]:
        """The values of metrics, run by run; an error in place of those of a run that could not be read."""


def open_store(uri: str, timeout: float, readers: int | None = None) -> Store:
    """The store at a tracking URI: a sqlite file of known tables directly, everything else through MLflow's client.

    Raises:
        HistoryError: If it cannot be reached, or is a sqlite file that does not exist.
    """
    path = database_of(uri)
    if path is not None:
        try:
            return SqliteStore(path)
        except UnknownTablesError:
            pass
    return ClientStore(uri, timeout, readers)


def tracking_uri_or_default(uri: str | None) -> str:
    """The tracking URI given, else the one MLflow would use."""
    if uri is not None:
        return str(uri)
    if "mlflow" not in sys.modules and os.environ.get("MLFLOW_TRACKING_URI"):
        return os.environ["MLFLOW_TRACKING_URI"]
    try:
        import mlflow
    except ImportError as error:
        raise HistoryError(f"mlflow cannot be imported ({error}), so no history can be read from it.") from error
    return str(mlflow.get_tracking_uri())
