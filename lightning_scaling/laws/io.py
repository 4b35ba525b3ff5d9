"""Fits as JSON: estimates, points, settings and provenance."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

import numpy as np

from lightning_scaling._utils.serialization import parse_json, to_builtins
from lightning_scaling.laws.arrays import Array
from lightning_scaling.laws.data import Points
from lightning_scaling.laws.estimate import Estimate, FitStatus
from lightning_scaling.laws.form import FunctionalForm
from lightning_scaling.laws.options import Settings
from lightning_scaling.laws.solvers.objectives import Objective
from lightning_scaling.laws.summary import checklist, estimates

_FORMAT = "lightning-scaling fit"
_VERSION = 1
_STATE = ("names", "u", "cov", "residual_variance", "dof_resid", "block", "replicates")


def dumps(fit: Estimate) -> str:
    """The text of the file that :meth:`Fit.save` writes."""
    return json.dumps(to_dict(fit), indent=1, allow_nan=False) + "\n"


def parse(text: str, path: str) -> dict[str, Any]:
    """What the text of a saved fit holds.

    Args:
        text: Content of the file.
        path: Its name, for messages.

    Raises:
        ValueError: It is not a saved fit, or of a later version.
    """
    try:
        found = parse_json(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not a saved fit: it is not JSON ({error}).") from None
    if not isinstance(found, dict) or found.get("format") != _FORMAT:
        raise ValueError(f"{path} is not a saved fit; `Fit.save` or `lightning-scaling fit --save` writes one.")
    if found.get("version", 0) > _VERSION:
        raise ValueError(
            f"{path} was written by a later version (format {found['version']}); update lightning-scaling."
        )
    return found


def to_dict(fit: Estimate) -> dict[str, Any]:
    """A fit as builtins."""
    law = fit.law
    content = {
        "format": _FORMAT,
        "version": _VERSION,
        "law": {"name": law.name, "options": law.options(), "formula": law.formula, "source": str(law.source)},
        "params": fit.params,
        "estimates": estimates(fit),
        "status": fit.status.value,
        "message": fit.message,
        "diagnostics": fit.diagnostics,
        "settings": asdict(fit.settings),
        "state": {name: getattr(fit, name) for name in _STATE},
        "points": None if fit.points is None else asdict(fit.points),
        "report": checklist(fit),
    }
    safe: dict[str, Any] = to_builtins(content, nonfinite="text")
    return safe


def estimate_from_dict(found: dict[str, Any]) -> Estimate:
    """The estimate that :func:`to_dict` described."""
    found = _numbers(found)
    settings, state, points = found["settings"], found["state"], found["points"]
    size = len(state["names"])
    if points is not None:
        groups = points["groups"]
        arrays = {
            "inputs": {name: _array(values) for name, values in points["inputs"].items()},
            "y": _array(points["y"]),
            "weights": _array(points["weights"]),
            "groups": None if groups is None else np.array(groups, dtype=np.intp),
            "warnings": tuple(points["warnings"]),
        }
        points = Points(**points | arrays)
    pairs = {name: {key: tuple(ends) for key, ends in settings[name].items()} for name in ("bounds", "priors")}
    replicates = state["replicates"]
    arrays = {
        "names": tuple(state["names"]),
        "u": _array(state["u"]),
        "cov": _array(state["cov"]).reshape(size, size),
        "replicates": None if replicates is None else _array(replicates).reshape(-1, size),
    }
    return Estimate(
        law=FunctionalForm.lookup(found["law"]["name"], **found["law"]["options"]),
        params=found["params"],
        status=FitStatus(found["status"]),
        message=found["message"],
        diagnostics=found["diagnostics"],
        points=points,
        settings=Settings(**settings | pairs | {"objective": Objective(**settings["objective"])}),
        **state | arrays,
    )


def _array(values: Any) -> Array:
    return np.array(values, dtype=np.float64)


def _numbers(value: Any) -> Any:
    """The value with the words for numbers that are not finite as numbers, everywhere in it."""
    if isinstance(value, dict):
        return {key: _numbers(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_numbers(item) for item in value]
    return float(value) if value in ("nan", "inf", "-inf") else value
