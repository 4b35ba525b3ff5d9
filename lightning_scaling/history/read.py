"""Fills a run, or a history of runs, from MLflow."""

from __future__ import annotations

import csv
import logging
import os
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import numpy as np

from lightning_scaling.history import aliases
from lightning_scaling.history.backends.mlflow_client import ClientSource
from lightning_scaling.history.backends.mlflow_sqlite import SqliteSource, UnknownTablesError, database_of
from lightning_scaling.history.cache import CurveCache
from lightning_scaling.history.calibration_store import calibration_of
from lightning_scaling.history.error import HistoryError
from lightning_scaling.history.mlflow_parse import (
    CURVE_LOSS,
    CURVE_RATE,
    MAX_POINTS,
    Experiment,
    Info,
    Reading,
    Series,
    SkippedError,
    thinned,
    to_run,
)
from lightning_scaling.runs.history import RunHistory
from lightning_scaling.runs.run import Run
from lightning_scaling.tracking import schema
from lightning_scaling.tracking.backends.base import without_secrets

MAX_RUNS = 5000
TIMEOUT = 20.0
_logger = logging.getLogger("lightning_scaling")

Source = SqliteSource | ClientSource
Words = str | Sequence[str] | None


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


def read_experiment(
    experiment: str,
    *,
    tracking_uri: str | None = None,
    metric: Words = None,
    lr: Words = None,
    family: Words = None,
    filter: str | None = None,
    max_runs: int = MAX_RUNS,
    cache: bool = True,
    timeout: float = TIMEOUT,
    readers: int | None = None,
    quiet: bool = False,
) -> tuple[RunHistory, Experiment]:
    """The runs of an experiment and what is known of it; arguments as :meth:`lightning_scaling.RunHistory.from_mlflow`.

    The history has no calibration yet: which one depends on the family.
    """
    reading = _reading(metric, lr, family, MAX_POINTS)
    if isinstance(max_runs, bool) or not isinstance(max_runs, int) or max_runs < 1:
        raise ValueError(f"`max_runs` must be a whole number of at least 1, but got {max_runs!r}.")
    uri = tracking_uri_or_default(tracking_uri)
    if filter:
        client = _client(uri, timeout, readers)
        place = _experiment(client, experiment, uri)
        infos = client.search(place.id, max_runs, filter)
    else:
        source: Source = _source(uri, timeout, readers)
        try:
            place = _experiment(source, experiment, uri)
            infos = source.search(place.id, max_runs)
        except UnknownTablesError:
            client = _client(uri, timeout, readers)
            place = _experiment(client, experiment, uri)
            infos = client.search(place.id, max_runs)
    kept = CurveCache(without_secrets(uri), place.id) if cache else None
    curves = _curves(infos, reading, kept, uri, timeout, readers)
    runs: list[Run] = []
    skipped: Counter[str] = Counter()
    lacking: Counter[str] = Counter()
    for info in reversed(infos):
        found = curves.get(info.run_id, {})
        try:
            if isinstance(found, Exception):
                raise SkippedError(f"could not be read: {type(found).__name__}")
            run, lacks = to_run(info, found, reading, place.name)
        except SkippedError as reason:
            skipped[str(reason)] += 1
        except (ValueError, TypeError, OverflowError) as error:
            _logger.debug("Run %s is left out: %s", info.run_id, error)
            skipped["a curve that makes no sense"] += 1
        else:
            runs.append(run)
            lacking.update(lacks)
    history = RunHistory(runs, skipped=skipped, lacking=lacking, source=f"experiment {place.name!r}")
    if not quiet:
        _logger.info("%s", history.summary())
    return history, place


def history_from_mlflow(experiment: str, *, metric: Words = None, **options: Any) -> RunHistory:
    """Read the runs of an experiment; see :meth:`lightning_scaling.RunHistory.from_mlflow`."""
    history, place = read_experiment(experiment, metric=metric, **options)
    if len({run.family for run in history}) == 1:
        history.calibration, note = calibration_of(history, place, metric)
        if note:
            _logger.warning("%s", note)
    return history


def run_from_mlflow(
    run_id: str,
    *,
    metric: Words = None,
    tracking_uri: str | None = None,
    lr: Words = None,
    family: Words = None,
    timeout: float = TIMEOUT,
) -> Run:
    """Read one run; see :meth:`lightning_scaling.Run.from_mlflow`."""
    reading = _reading(metric, lr, family, None)
    uri = tracking_uri_or_default(tracking_uri)
    info, experiment = find_run(run_id, uri, timeout)
    found = _curves([info], reading, None, uri, timeout, None).get(run_id, {})
    try:
        if isinstance(found, Exception):
            raise SkippedError(f"could not be read ({found})")
        return to_run(info, found, reading, experiment)[0]
    except SkippedError as reason:
        logged = ", ".join(f"`{name}`" for name in sorted(info.metrics)[:12]) or "no metric at all"
        raise HistoryError(f"MLflow run {run_id} cannot be used: {reason}. It logged {logged}.") from None


def find_run(run_id: str, uri: str, timeout: float = TIMEOUT) -> tuple[Info, str]:
    """What is known of a run, and the name of its experiment.

    Raises:
        HistoryError: If there is no such run, or MLflow cannot be reached.
    """
    source = _source(uri, timeout, None)
    try:
        found = source.run(run_id)
        place = None if found is None else source.experiment(found[1])
    except UnknownTablesError:
        client = _client(uri, timeout, None)
        found = client.run(run_id)
        place = None if found is None else client.experiment(found[1])
    if found is None:
        raise HistoryError(f"There is no run {run_id!r} at {without_secrets(uri)}.")
    return found[0], found[1] if place is None else place.name


def _reading(metric: Words, lr: Words, family: Words, max_points: int | None) -> Reading:
    chosen = {"metric": metric, "lr": lr, "family": family}
    for what, words in chosen.items():
        if words is not None and (isinstance(words, bytes) or not isinstance(words, str | Sequence)):
            raise TypeError(f"`{what}` must be a name, several names or None, but got {words!r}.")
        if words is not None and not (words and all(isinstance(word, str) and word for word in words)):
            raise ValueError(f"`{what}` must hold at least one name and no empty ones, but got {words!r}.")
    as_tuple = {what: (words,) if isinstance(words, str) else tuple(words or ()) for what, words in chosen.items()}
    return Reading(
        losses=as_tuple["metric"] or aliases.LOSSES,
        rates=as_tuple["lr"] or aliases.RATES,
        family=as_tuple["family"] or None,
        max_points=max_points,
    )


def _source(uri: str, timeout: float, readers: int | None) -> Source:
    path = database_of(uri)
    return _client(uri, timeout, readers) if path is None else SqliteSource(path)


def _client(uri: str, timeout: float, readers: int | None) -> ClientSource:
    database_of(uri)
    return ClientSource(uri, timeout) if readers is None else ClientSource(uri, timeout, readers)


def _experiment(source: Source, name: str, uri: str) -> Experiment:
    if not isinstance(name, str) or not name.strip():
        raise ValueError(f"`experiment` must be the name or the id of an MLflow experiment, but got {name!r}.")
    found = source.experiment(name)
    if found is None:
        there = ", ".join(repr(one) for one in sorted(source.experiments())[:12]) or "none"
        raise HistoryError(f"There is no experiment {name!r} at {without_secrets(uri)}; there are: {there}.")
    return found


def _curves(
    infos: Sequence[Info],
    reading: Reading,
    kept: CurveCache | None,
    uri: str,
    timeout: float,
    readers: int | None,
) -> dict[str, dict[str, Series] | Exception]:
    """The curves of runs, from the cache, from artifacts that lie on this machine, and from the store."""
    found: dict[str, dict[str, Series] | Exception] = {}
    wanted: dict[str, tuple[str, ...]] = {}
    stamps = {info.run_id: f"{info.status} {info.end}" for info in infos if info.ended}
    try:
        for info in infos:
            keys = reading.wanted(info)
            if not keys:
                continue
            cached = kept.get(info.run_id, stamps[info.run_id]) if kept and info.run_id in stamps else None
            if cached is not None and _enough(cached, keys):
                found[info.run_id] = {key: cached[key] for key in (CURVE_LOSS, CURVE_RATE, *keys) if key in cached}
                continue
            artifact = _artifact(info) if keys[0] == schema.LOSS and info.ended else None
            if artifact is None:
                wanted[info.run_id] = keys
            else:
                _keep(
                    found, kept, info.run_id, stamps, {k: thinned(s, reading.max_points) for k, s in artifact.items()}
                )
        for run_id, series in _read(uri, wanted, timeout, readers):
            if isinstance(series, Exception):
                found[run_id] = series
            else:
                thin = {key: thinned(one, reading.max_points) for key, one in series.items()}
                _keep(found, kept, run_id, stamps, thin)
    finally:
        if kept is not None:
            kept.save()
    return found


def _enough(cached: Mapping[str, Series], keys: Sequence[str]) -> bool:
    return all(key in cached for key in keys) or (keys[0] == schema.LOSS and CURVE_LOSS in cached)


def _keep(
    found: dict[str, dict[str, Series] | Exception],
    kept: CurveCache | None,
    run_id: str,
    stamps: Mapping[str, str],
    series: dict[str, Series],
) -> None:
    found[run_id] = series
    if kept is not None and run_id in stamps:
        kept.put(run_id, stamps[run_id], series)


def _read(
    uri: str, wanted: Mapping[str, Sequence[str]], timeout: float, readers: int | None
) -> Iterator[tuple[str, dict[str, Series] | Exception]]:
    if not wanted:
        return
    source = _source(uri, timeout, readers)
    done: set[str] = set()
    try:
        for run_id, series in source.series(wanted):
            done.add(run_id)
            yield run_id, series
    except UnknownTablesError:
        rest = {run_id: keys for run_id, keys in wanted.items() if run_id not in done}
        yield from _client(uri, timeout, readers).series(rest)


def _artifact(info: Info) -> dict[str, Series] | None:
    """The curve that we left with the run, where it lies on this machine; finer than the metrics."""
    place = urlsplit(info.artifacts)
    if place.scheme not in ("", "file") or place.netloc not in ("", "localhost") or not info.artifacts:
        return None
    file = Path(unquote(place.path) if place.scheme else info.artifacts) / schema.ARTIFACT_CURVE
    try:
        with file.open(newline="", encoding="utf-8") as handle:
            rows = [(row["step"], row["loss"], row["lr"] or "nan", row["count"]) for row in csv.DictReader(handle)]
        table = np.array(rows, dtype=np.float64).reshape(-1, 4)
    except (OSError, ValueError, KeyError, TypeError):
        return None
    if len(table) < 2 or not np.isfinite(table[:, [0, 3]]).all() or np.any(np.diff(table[:, 0]) <= 0):
        return None
    # a bin stands in the middle of the steps it covers, but the last one where the run ended
    step = np.rint(table[:, 0] - (table[:, 3] - 1) / 2)
    step[-1] = table[-1, 0]
    if np.any(np.diff(step) <= 0):
        step = table[:, 0]
    return {CURVE_LOSS: (step, table[:, 1]), CURVE_RATE: (step, table[:, 2])}
