"""Corrections of intervals, kept as a tag of the MLflow experiment or in a file next to the curves."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from lightning_scaling._utils.serialization import atomic_write, parse_json
from lightning_scaling.forecast.calibrated import updated_with_logs
from lightning_scaling.forecast.calibration import Calibration
from lightning_scaling.forecast.forecaster import Forecaster
from lightning_scaling.history.backends import tracking_uri_or_default
from lightning_scaling.history.backends.mlflow_client import ClientStore
from lightning_scaling.history.error import HistoryError
from lightning_scaling.history.mlflow_parse import Experiment
from lightning_scaling.runs.run import Run
from lightning_scaling.tracking import schema

FILE = "calibration.json"

_LONGEST = 5000
_logger = logging.getLogger("lightning_scaling")


def tag_of(place: Experiment, family: str | None, metric: str | Sequence[str] | None = None) -> str:
    """Name of the tag that holds the correction of a family: a plain one for runs that name no family of their own.

    Args:
        place: The experiment.
        family: Name of the family.
        metric: The metric that its runs are followed by; ``None`` for the loss.
    """
    own = None if family == place.name else family
    if own is None and metric is None:
        return schema.TAG_CALIBRATION
    what = json.dumps([own, metric if isinstance(metric, str) or metric is None else list(metric)])
    return f"{schema.TAG_CALIBRATION}.{hashlib.sha1(what.encode(), usedforsecurity=False).hexdigest()[:12]}"


def calibration_of(
    runs: Iterable[Run], place: Experiment, metric: str | Sequence[str] | None = None
) -> tuple[Calibration | None, str]:
    """The correction kept for a family, brought up to date by the forecasts of runs that ended since.

    Args:
        runs: Runs of one family.
        place: Their experiment.
        metric: The metric asked for, if it was not left open.

    Returns:
        The correction, ``None`` if nothing is to be corrected, and why a kept one is not used, if so.
    """
    runs = list(runs)
    family = runs[0].family if runs else None
    kept, note = None, ""
    text = place.tags.get(tag_of(place, family, metric))
    if text:
        kept, note = _usable(text, f"of the experiment {place.name!r}")
    found = updated_with_logs(kept, runs, family=family)
    return (found if found else None), note


def of_folder(folder: str | os.PathLike[str]) -> Calibration | None:
    """The correction in a folder; ``None``, with a warning in the log, if it cannot be used."""
    file = Path(folder) / FILE
    try:
        found, note = _usable(file.read_text(encoding="utf-8"), str(file))
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        found, note = None, f"The calibration {file} is ignored: it cannot be read ({error})."
    if note:
        _logger.warning("%s", note)
    return found


def _usable(text: str, where: str) -> tuple[Calibration | None, str]:
    try:
        found = Calibration.from_dict(parse_json(text))
    except json.JSONDecodeError as error:
        return None, f"The calibration {where} is ignored: it is no JSON ({error})."
    except ValueError as error:
        return None, f"The calibration {where} is ignored: {error}."
    reason = found.stale(Forecaster.law)
    return (None, f"The calibration {where} is ignored: {reason}.") if reason else (found, "")


def keep_in_folder(folder: str | os.PathLike[str], calibration: Calibration) -> Path:
    """Write the correction next to the curves of a folder, or to a file of another name.

    Returns:
        The file.

    Raises:
        HistoryError: If it cannot be written.
    """
    file = Path(folder) / FILE if Path(folder).is_dir() else Path(folder)
    try:
        return atomic_write(file, json.dumps(calibration.to_dict(), indent=1) + "\n")
    except OSError as error:
        raise HistoryError(f"{file} cannot be written: {error.strerror or error}.") from error


def keep_in_mlflow(
    place: Experiment,
    calibration: Calibration,
    uri: str | None,
    *,
    metric: str | Sequence[str] | None = None,
    timeout: float = 20.0,
) -> str:
    """Write the correction as a tag of an experiment, where everybody who uses the experiment finds it.

    Returns:
        Name of the tag.

    Raises:
        HistoryError: If the store cannot be reached or does not take it.
    """
    key = tag_of(place, calibration.family, metric)
    data: dict[str, Any] = calibration.to_dict()
    text = json.dumps(data, separators=(",", ":"))
    while len(text) >= _LONGEST and data["seen"]:
        data["seen"] = data["seen"][len(data["seen"]) // 2 + 1 :]
        text = json.dumps(data, separators=(",", ":"))
    ClientStore(tracking_uri_or_default(uri), timeout).set_tag(place.id, key, text)
    return key
