"""Any MLflow store through the public client, with a limit on the time without an answer."""

from __future__ import annotations

import queue
import socket
import threading
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from lightning_scaling.history.error import HistoryError
from lightning_scaling.history.mlflow_parse import Experiment, Info, Series, usual
from lightning_scaling.tracking.backends.base import without_secrets

_PAGE = 500
_READERS = 8
_MOST_FAILURES = 5
_CONNECT_SECONDS = 5.0


class ClientStore:
    """An MLflow store behind its client.

    MLflow tries a dead server for minutes, and its settings for that hold for the whole process. So it is asked from
    daemon threads, and what has not answered for ``timeout`` seconds counts as unreachable.

    Args:
        uri: The tracking URI.
        timeout: Seconds without an answer after which to give up.
        readers: Metrics asked for at the same time, where the store is a server.

    Raises:
        HistoryError: If MLflow is not installed, or the server refuses connections.
    """

    def __init__(self, uri: str, timeout: float, readers: int | None = None) -> None:
        self._place = without_secrets(uri)
        self._timeout = timeout
        self._readers = (readers or _READERS) if uri.startswith(("http://", "https://")) else 1
        self._knock(uri)
        try:
            from mlflow.tracking import MlflowClient
        except ImportError as error:
            raise HistoryError(f"mlflow cannot be imported ({error}), so no history can be read from it.") from error
        self._client = self._ask(MlflowClient, tracking_uri=uri)

    def _knock(self, uri: str) -> None:
        """See at once that nothing listens; where a proxy stands between, only MLflow's own attempt can tell."""
        parts = urlsplit(uri)
        proxied = parts.scheme in urllib.request.getproxies() and not urllib.request.proxy_bypass(parts.hostname or "")
        if parts.scheme not in ("http", "https") or not parts.hostname or proxied:
            return
        port = parts.port or (443 if parts.scheme == "https" else 80)
        try:
            socket.create_connection((parts.hostname, port), timeout=min(_CONNECT_SECONDS, self._timeout)).close()
        except OSError as error:
            raise self._unreachable(str(error) or type(error).__name__) from error

    def _unreachable(self, reason: str) -> HistoryError:
        return HistoryError(
            f"MLflow at {self._place} cannot be reached ({reason}); check the tracking URI and the server."
        )

    def _ask(self, function: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
        return next(self._items([partial(function, *arguments, **named)]))[1]

    def _items(self, asked: Sequence[Callable[[], Any]], *, lenient: bool = False) -> Iterator[tuple[int, Any]]:
        """What the functions return, with the number of the function, as it arrives.

        An error is raised, or given instead of the value while ``lenient`` and not many come in a row.
        """
        answers: queue.SimpleQueue[tuple[int, Any, Exception | None]] = queue.SimpleQueue()
        todo = iter(enumerate(asked))
        lock, stop = threading.Lock(), threading.Event()

        def work() -> None:
            while not stop.is_set():
                with lock:
                    number, function = next(todo, (-1, None))
                if function is None:
                    return
                try:
                    answers.put((number, function(), None))
                except Exception as error:
                    answers.put((number, None, error))

        for _ in range(min(self._readers, len(asked))):
            threading.Thread(target=work, name="lightning-scaling-mlflow-reader", daemon=True).start()
        failures = 0
        try:
            for _ in asked:
                try:
                    number, value, error = answers.get(timeout=self._timeout)
                except queue.Empty:
                    raise self._unreachable(f"no answer within {self._timeout:g} s") from None
                failures = 0 if error is None else failures + 1
                if error is not None and not (lenient and failures < _MOST_FAILURES):
                    text = str(error).strip().splitlines()
                    raise self._unreachable(text[0][:300] if text else type(error).__name__) from error
                yield number, value if error is None else error
        finally:
            stop.set()

    def experiment(self, name: str) -> Experiment | None:
        """An experiment given by its name or id."""
        found = self._ask(self._client.get_experiment_by_name, name)
        if found is None and name.isdigit():
            found = self._ask(_or_none, self._client.get_experiment, name)
        if found is None or found.lifecycle_stage != "active":
            return None
        return Experiment(str(found.experiment_id), found.name, dict(found.tags or {}))

    def set_tag(self, experiment: str, key: str, value: str) -> None:
        """Write a tag of an experiment.

        Raises:
            HistoryError: If the store does not take it.
        """
        asked = partial(self._client.set_experiment_tag, experiment, key, value)
        _, refusal = next(self._items([asked], lenient=True))
        if isinstance(refusal, Exception):
            text = " ".join(str(refusal).split())[:200] or type(refusal).__name__
            raise HistoryError(f"MLflow at {self._place} did not take the tag `{key}` ({text}).") from refusal

    def experiments(self) -> list[str]:
        """Names of some experiments."""
        return [one.name for one in self._ask(self._client.search_experiments, max_results=100)]

    def run(self, run_id: str) -> tuple[Info, str] | None:
        """A run, and the id of its experiment."""
        found = self._ask(_or_none, self._client.get_run, run_id)
        if found is None or found.info.lifecycle_stage != "active":
            return None
        return _info(found), str(found.info.experiment_id)

    def search(self, experiment: str, max_runs: int, filter_string: str = "") -> list[Info]:
        """The latest runs of an experiment, latest first."""
        search = partial(self._client.search_runs, [experiment], filter_string, order_by=["attributes.start_time DESC"])
        found: list[Info] = []
        token: str | None = None
        while len(found) < max_runs:
            page = self._ask(search, max_results=min(_PAGE, max_runs - len(found)), page_token=token)
            found += map(_info, page)
            token = page.token
            if not token:
                break
        return found

    def series(self, wanted: Mapping[str, Sequence[str]]) -> Iterator[tuple[str, dict[str, Series] | Exception]]:
        """The values of metrics, run by run; an error in place of those of a run that could not be read."""
        ids = list(wanted)

        def read(run_id: str) -> dict[str, Series]:
            return {key: _series(self._client.get_metric_history(run_id, key)) for key in wanted[run_id]}

        for number, value in self._items([partial(read, run_id) for run_id in ids], lenient=True):
            yield ids[number], value


def _or_none(function: Callable[[str], Any], key: str) -> Any:
    try:
        return function(key)
    except Exception as error:
        if getattr(error, "error_code", None) in ("RESOURCE_DOES_NOT_EXIST", "NOT_FOUND", "INVALID_PARAMETER_VALUE"):
            return None
        raise


def _info(run: Any) -> Info:
    info, data = run.info, run.data
    tags = {key: value for key, value in data.tags.items() if not key.startswith("mlflow.")}
    name = getattr(info, "run_name", None) or data.tags.get("mlflow.runName", "")
    about = (info.run_id, name, info.status, info.end_time or None, info.artifact_uri or "")
    return Info(*about, data.params, tags, data.metrics, info.start_time or None)


def _series(history: Sequence[Any]) -> Series:
    table = np.array([(one.step, one.timestamp, one.value) for one in history], dtype=np.float64).reshape(-1, 3)
    table = table[np.lexsort((table[:, 2], table[:, 1], table[:, 0]))]
    return usual(table[:, 0], table[:, 2])
