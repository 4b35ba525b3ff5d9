"""Reads the sqlite file of an MLflow directly, read-only.

Through the client one metric of one run costs 20 to 120 ms in a large store, because sqlite walks all values of that
name; asked by run it costs 1 ms. The tables are those MLflow has had since 1.x; where they look otherwise the client
is used.
"""

from __future__ import annotations

import re
import sqlite3
from collections import defaultdict
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
_EXPERIMENTS = "SELECT experiment_id, name, lifecycle_stage FROM experiments WHERE "
_RUN = "SELECT run_uuid, name, status, end_time, artifact_uri, start_time FROM runs WHERE "
_SERIES = (
    "SELECT key, step, CASE WHEN is_nan THEN NULL ELSE value END FROM metrics "
    "WHERE run_uuid = ? AND +key IN ({}) ORDER BY +key, +step, +timestamp, +value"
)


class UnknownTablesError(Exception):
    """The file is no MLflow store as this module knows them."""


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


class SqliteSource:
    """An MLflow store in a sqlite file.

    Args:
        path: The file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        try:
            address = f"file:{quote(str(self.path))}?mode=ro"
            with closing(sqlite3.connect(address, uri=True, timeout=_BUSY_SECONDS)) as database:
                yield database
        except sqlite3.Error as error:
            raise UnknownTablesError(str(error)) from error

    def experiment(self, name: str) -> Experiment | None:
        """An experiment given by its name or id."""
        with self._open() as database:
            found = database.execute(f"{_EXPERIMENTS} name = ?", (name,)).fetchall()
            if not found and name.isdigit():
                found = database.execute(f"{_EXPERIMENTS} experiment_id = ?", (int(name),)).fetchall()
            found = [row for row in found if row[2] == "active"]
            if len(found) > 1:
                raise UnknownTablesError(f"several experiments are named {name!r}")
            if not found:
                return None
            tags = database.execute("SELECT key, value FROM experiment_tags WHERE experiment_id = ?", found[0][:1])
            return Experiment(str(found[0][0]), found[0][1], dict(tags))

    def experiments(self) -> list[str]:
        """Names of all experiments."""
        with self._open() as database:
            return [row[1] for row in database.execute(f"{_EXPERIMENTS} lifecycle_stage = 'active'")]

    def run(self, run_id: str) -> tuple[Info, str] | None:
        """A run, and the id of its experiment."""
        with self._open() as database:
            rows = database.execute(f"{_RUN} run_uuid = ? AND lifecycle_stage = 'active'", (run_id,)).fetchall()
            if not rows:
                return None
            place = database.execute("SELECT experiment_id FROM runs WHERE run_uuid = ?", (run_id,)).fetchone()
            return self._infos(database, rows)[0], str(place[0])

    def search(self, experiment: str, max_runs: int) -> list[Info]:
        """The latest runs of an experiment, latest first."""
        with self._open() as database:
            rows = database.execute(
                f"{_RUN} experiment_id = ? AND lifecycle_stage = 'active' ORDER BY start_time DESC, run_uuid LIMIT ?",
                (int(experiment), max_runs),
            ).fetchall()
            return self._infos(database, rows)

    def _infos(self, database: sqlite3.Connection, rows: list[Any]) -> list[Info]:
        found: dict[str, dict[str, dict[str, str]]] = {}
        latest: dict[str, dict[str, float]] = defaultdict(dict)
        ids = [row[0] for row in rows]
        for table in ("params", "tags"):
            of: dict[str, dict[str, str]] = defaultdict(dict)
            keep = " AND key NOT LIKE 'mlflow.%'" if table == "tags" else ""
            for part, marks in _parts(ids):
                query = f"SELECT run_uuid, key, value FROM {table} WHERE run_uuid IN ({marks}){keep}"
                for run_id, key, value in database.execute(query, part):
                    of[run_id][key] = value
            found[table] = of
        for part, marks in _parts(ids):
            query = f"SELECT run_uuid, key, value, is_nan FROM latest_metrics WHERE run_uuid IN ({marks})"
            for run_id, key, value, is_nan in database.execute(query, part):
                latest[run_id][key] = float("nan") if is_nan else value
        return [
            Info(
                row[0],
                row[1] or "",
                row[2],
                row[3],
                row[4] or "",
                found["params"][row[0]],
                found["tags"][row[0]],
                latest[row[0]],
                row[5],
            )
            for row in rows
        ]

    def series(self, wanted: Mapping[str, Sequence[str]]) -> Iterator[tuple[str, dict[str, Series] | Exception]]:
        """The values of metrics, run by run."""
        with self._open() as database:
            for run_id, keys in wanted.items():
                query = _SERIES.format(", ".join("?" * len(keys)))
                rows = database.execute(query, (run_id, *keys)).fetchall()
                yield run_id, {key: _series([row for row in rows if row[0] == key]) for key in keys}


def _parts(ids: list[str]) -> Iterator[tuple[list[str], str]]:
    for start in range(0, len(ids), _CHUNK):
        part = ids[start : start + _CHUNK]
        yield part, ", ".join("?" * len(part))


def _series(rows: list[tuple[str, float, float | None]]) -> Series:
    table = np.array([(step, np.nan if value is None else value) for _, step, value in rows], dtype=np.float64)
    table = table.reshape(-1, 2)
    return usual(table[:, 0], table[:, 1])
