"""A sqlite file of MLflow, read directly and never written.

The client is too slow for the history of a large experiment, because sqlite walks all values of a metric's name for
one run (20 to 120 ms). ``benchmarks/history.py`` reads 2,000 runs of a 585 MB file in 10 s cold and 1.8 s warm this
way, and in 454 s and 43 s through the client (on two busy cores; targets 60 s and 1 s). The tables are those MLflow has
had since 1.x; a file in which they look otherwise is left to the client.
"""

from __future__ import annotations

import math
import re
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np

from lightning_scaling.history.error import HistoryError
from lightning_scaling.history.mlflow_parse import Experiment, Info, Series, usual

_CHUNK = 500
_BUSY_SECONDS = 5.0
_VALUE = "CASE WHEN is_nan THEN NULL ELSE value END"
_COLUMNS = {"params": "value", "tags": "value", "latest_metrics": _VALUE}
_RUN = "run_uuid, name, status, end_time, artifact_uri, start_time, experiment_id"
_LAYOUT = (
    "SELECT experiment_id, name, lifecycle_stage FROM experiments LIMIT 0",
    "SELECT experiment_id, key, value FROM experiment_tags LIMIT 0",
    f"SELECT {_RUN}, lifecycle_stage FROM runs LIMIT 0",
    *(f"SELECT run_uuid, key, {column} FROM {table} LIMIT 0" for table, column in _COLUMNS.items()),
    f"SELECT run_uuid, key, step, timestamp, {_VALUE} FROM metrics LIMIT 0",
)
_NAMESAKES = "SELECT name FROM experiments WHERE lifecycle_stage = 'active' GROUP BY name HAVING COUNT(*) > 1"


class UnknownTablesError(Exception):
    """The file is not laid out as this module knows it."""


def database_of(uri: str) -> Path | None:
    """The file behind a ``sqlite:///`` URI; ``None`` for other URIs.

    Raises:
        HistoryError: If there is no such file: opening it through MLflow would make one.
    """
    match = re.fullmatch(r"sqlite:///([^?]+)(\?.*)?", uri)
    if match is None or match[1] == ":memory:":
        return None
    path = Path(match[1]).absolute()
    if not path.is_file():
        raise HistoryError(f"There is no MLflow database at {path}; check the tracking URI {uri!r}.")
    return path


class SqliteStore:
    """An MLflow store in a sqlite file.

    Args:
        path: The file.

    Raises:
        UnknownTablesError: If it is not laid out as this class knows it, or is locked.
    """

    def __init__(self, path: Path) -> None:
        self._address = f"file:{quote(str(path))}?mode=ro"
        self._path = path
        try:
            with closing(self._connect()) as database:
                for query in _LAYOUT:
                    database.execute(query)
                if database.execute(_NAMESAKES).fetchone():
                    raise UnknownTablesError("several experiments of one name")
        except sqlite3.Error as error:
            raise UnknownTablesError(str(error)) from error

    def _connect(self) -> sqlite3.Connection:
        return sqlite3.connect(self._address, uri=True, timeout=_BUSY_SECONDS)

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        try:
            with closing(self._connect()) as database:
                yield database
        except sqlite3.Error as error:
            raise HistoryError(f"The MLflow database {self._path} cannot be read ({error}).") from error

    def experiment(self, name: str) -> Experiment | None:
        """An experiment given by its name or id."""
        with self._open() as database:
            query = "SELECT experiment_id, name FROM experiments WHERE lifecycle_stage = 'active' AND "
            row = database.execute(f"{query} name = ?", (name,)).fetchone()
            if row is None and name.isdigit():
                row = database.execute(f"{query} experiment_id = ?", (int(name),)).fetchone()
            if row is None:
                return None
            tags = database.execute("SELECT key, value FROM experiment_tags WHERE experiment_id = ?", row[:1])
            return Experiment(str(row[0]), row[1], dict(tags))

    def experiments(self) -> list[str]:
        """Names of all experiments."""
        with self._open() as database:
            return [row[0] for row in database.execute("SELECT name FROM experiments WHERE lifecycle_stage = 'active'")]

    def run(self, run_id: str) -> tuple[Info, str] | None:
        """A run, and the id of its experiment."""
        found = self._runs("run_uuid = ?", run_id)
        return found[0] if found else None

    def search(self, experiment: str, max_runs: int) -> list[Info]:
        """The latest runs of an experiment, latest first."""
        return [info for info, _ in self._runs("experiment_id = ?", int(experiment), max_runs)]

    def _runs(self, condition: str, value: str | int, most: int = 1) -> list[tuple[Info, str]]:
        tables: dict[str, dict[str, dict[str, Any]]] = {}
        with self._open() as database:
            rows = database.execute(
                f"SELECT {_RUN} FROM runs WHERE lifecycle_stage = 'active' AND {condition} "
                "ORDER BY start_time DESC, run_uuid LIMIT ?",
                (value, most),
            ).fetchall()
            for table, column in _COLUMNS.items():
                found = tables[table] = {row[0]: {} for row in rows}
                for start in range(0, len(rows), _CHUNK):
                    ids = [row[0] for row in rows[start : start + _CHUNK]]
                    query = f"SELECT run_uuid, key, {column} FROM {table} WHERE run_uuid IN ({_marks(ids)})"
                    for run_id, key, entry in database.execute(query, ids):
                        found[run_id][key] = entry
        result = []
        for run_id, name, status, end, artifacts, start, experiment in rows:
            params, tags, metrics = (tables[table][run_id] for table in _COLUMNS)
            tags = {key: tag for key, tag in tags.items() if not key.startswith("mlflow.")}
            metrics = {key: _number(entry) for key, entry in metrics.items()}
            info = Info(run_id, name or "", status, end, artifacts or "", params, tags, metrics, start)
            result.append((info, str(experiment)))
        return result

    def series(self, wanted: Mapping[str, Sequence[str]]) -> Iterator[tuple[str, dict[str, Series] | Exception]]:
        """The values of metrics, run by run."""
        with self._open() as database:
            for run_id, keys in wanted.items():
                # the plus signs keep sqlite from its index on keys, which walks all runs
                query = (
                    f"SELECT key, step, {_VALUE} FROM metrics WHERE run_uuid = ? AND +key IN ({_marks(keys)}) "
                    "ORDER BY +key, +step, +timestamp, +value"
                )
                rows = database.execute(query, (run_id, *keys)).fetchall()
                yield run_id, {key: _series([row for row in rows if row[0] == key]) for key in keys}


def _marks(values: Sequence[str]) -> str:
    return ", ".join("?" * len(values))


def _number(value: float | None) -> float:
    return math.nan if value is None else value


def _series(rows: list[tuple[str, float, float | None]]) -> Series:
    table = np.array([(step, _number(value)) for _, step, value in rows], dtype=np.float64).reshape(-1, 2)
    return usual(table[:, 0], table[:, 1])
