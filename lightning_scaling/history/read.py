"""A run, or a history of runs, from MLflow."""

from __future__ import annotations

import csv
import logging
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import numpy as np

from lightning_scaling._utils.validation import is_count
from lightning_scaling.history import aliases
from lightning_scaling.history.backends import Store, open_store, tracking_uri_or_default
from lightning_scaling.history.backends.mlflow_client import ClientStore
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

Words = str | Sequence[str] | None
Curves = dict[str, dict[str, Series] | Exception]


def read_experiment(
    experiment: str,
    *,
    tracking_uri: str | None = None,
    filter: str | None = None,
    max_runs: int = MAX_RUNS,
    cache: bool = True,
    timeout: float = TIMEOUT,
    readers: int | None = None,
    **names: Words,
) -> tuple[RunHistory, Experiment]:
    """The runs of an experiment and what is known of it; arguments as :meth:`lightning_scaling.RunHistory.from_mlflow`.

    The history has no calibration yet: which one depends on the family.
    """
    reading = _reading(MAX_POINTS, **names)
    if not is_count(max_runs):
        raise ValueError(f"`max_runs` must be a whole number of at least 1, but got {max_runs!r}.")
    if not isinstance(experiment, str) or not experiment.strip():
        raise ValueError(f"`experiment` must be the name or the id of an MLflow experiment, but got {experiment!r}.")
    uri = tracking_uri_or_default(tracking_uri)
    store = open_store(uri, timeout, readers)
    place = store.experiment(experiment)
    if place is None:
        there = ", ".join(repr(one) for one in sorted(store.experiments())[:12]) or "none"
        raise HistoryError(f"There is no experiment {experiment!r} at {without_secrets(uri)}; there are: {there}.")
    if filter:
        infos = ClientStore(uri, timeout, readers).search(place.id, max_runs, filter)
    else:
        infos = store.search(place.id, max_runs)
    curves = _curves(store, infos, reading, CurveCache(without_secrets(uri), place.id) if cache else None)
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
    return RunHistory(runs, skipped=skipped, lacking=lacking, source=f"experiment {place.name!r}"), place


def history_from_mlflow(experiment: str, *, metric: Words = None, **options: Any) -> RunHistory:
    """Read the runs of an experiment; see :meth:`lightning_scaling.RunHistory.from_mlflow`."""
    history, place = read_experiment(experiment, metric=metric, **options)
    _logger.info("%s", history.summary())
    if len({run.family for run in history}) == 1:
        history.calibration, note = calibration_of(history, place, metric)
        if note:
            _logger.warning("%s", note)
    return history


def run_from_mlflow(run_id: str, *, tracking_uri: str | None = None, timeout: float = TIMEOUT, **names: Words) -> Run:
    """Read one run; see :meth:`lightning_scaling.Run.from_mlflow`."""
    reading = _reading(None, **names)
    uri = tracking_uri_or_default(tracking_uri)
    info, experiment = find_run(run_id, uri, timeout)
    found = _curves(open_store(uri, timeout), [info], reading, None).get(run_id, {})
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
    store = open_store(uri, timeout)
    found = store.run(run_id)
    if found is None:
        raise HistoryError(f"There is no run {run_id!r} at {without_secrets(uri)}.")
    info, experiment = found
    place = store.experiment(experiment)
    return info, experiment if place is None else place.name


def _reading(max_points: int | None, metric: Words = None, lr: Words = None, family: Words = None) -> Reading:
    names: dict[str, tuple[str, ...]] = {}
    for what, words in (("metric", metric), ("lr", lr), ("family", family)):
        if words is not None and (isinstance(words, bytes) or not isinstance(words, str | Sequence)):
            raise TypeError(f"`{what}` must be a name, several names or None, but got {words!r}.")
        names[what] = (words,) if isinstance(words, str) else tuple(words or ())
        if words is not None and not (words and all(isinstance(word, str) and word for word in names[what])):
            raise ValueError(f"`{what}` must hold at least one name and no empty ones, but got {words!r}.")
    return Reading(names["metric"] or aliases.LOSSES, names["lr"] or aliases.RATES, names["family"] or None, max_points)


def _curves(store: Store, infos: Iterable[Info], reading: Reading, cache: CurveCache | None) -> Curves:
    """The curves of runs, from the cache, from artifacts that lie on this machine, and from the store."""
    found: Curves = {}
    wanted: dict[str, tuple[str, ...]] = {}
    stamps: dict[str, str] = {}

    def keep(run_id: str, series: dict[str, Series]) -> None:
        thin = {key: thinned(one, reading.max_points) for key, one in series.items()}
        found[run_id] = thin
        if cache is not None and run_id in stamps:
            cache.put(run_id, stamps[run_id], thin)

    try:
        for info in infos:
            run_id, keys = info.run_id, reading.wanted(info)
            if not keys:
                continue
            artifact = None
            if info.ended:
                stamps[run_id] = f"{info.status} {info.end}"
                monitored = keys[0] == schema.LOSS
                cached = (cache.get(run_id, stamps[run_id]) if cache is not None else None) or {}
                if all(key in cached for key in keys) or (monitored and CURVE_LOSS in cached):
                    found[run_id] = {key: cached[key] for key in (CURVE_LOSS, CURVE_RATE, *keys) if key in cached}
                    continue
                artifact = _artifact(info) if monitored else None
            if artifact is None:
                wanted[run_id] = keys
            else:
                keep(run_id, artifact)
        for run_id, series in store.series(wanted):
            if isinstance(series, Exception):
                found[run_id] = series
            else:
                keep(run_id, series)
    finally:
        if cache is not None:
            cache.save()
    return found


def _artifact(info: Info) -> dict[str, Series] | None:
    """The curve that this package left with the run, where it lies on this machine; finer than the metrics."""
    place = urlsplit(info.artifacts)
    if place.scheme not in ("", "file") or place.netloc not in ("", "localhost") or not info.artifacts:
        return None
    file = Path(unquote(place.path) if place.scheme else info.artifacts) / schema.ARTIFACT_CURVE
    try:
        with file.open(newline="", encoding="utf-8") as handle:
            rows = [(row["step"], row["loss"], row["lr"] or "nan", row["count"]) for row in csv.DictReader(handle)]
        step, loss, rate, count = np.array(rows, dtype=np.float64).reshape(-1, 4).T
    except (OSError, ValueError, KeyError, TypeError):
        return None
    if len(step) < 2 or not np.isfinite([step, count]).all() or np.any(np.diff(step) <= 0):
        return None
    # a bin stands in the middle of the steps it covers, but the last one where the run ended
    middle = np.rint(step - (count - 1) / 2)
    middle[-1] = step[-1]
    if np.any(np.diff(middle) <= 0):
        middle = step
    return {CURVE_LOSS: (middle, loss), CURVE_RATE: (middle, rate)}
