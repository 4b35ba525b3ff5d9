"""Fits as JSON files: the estimates, what they were made of, and how."""

from __future__ import annotations

import json
import math
import os
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from lightning_scaling.laws.data import Points
from lightning_scaling.laws.registry import get
from lightning_scaling.laws.results import Fit, Settings
from lightning_scaling.laws.solvers.objectives import Objective

_FORMAT = "lightning-scaling fit"
_VERSION = 1


def save(fit: Fit, path: Path) -> Path:
    """Write a fit; see :meth:`Fit.save`."""
    text = dumps(fit)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    return path


def dumps(fit: Fit) -> str:
    """The text of the file that :meth:`Fit.save` writes."""
    return json.dumps(json_safe(to_dict(fit)), indent=1, allow_nan=False) + "\n"


def load(path: str | Path) -> Fit:
    """Read a fit that :meth:`Fit.save` wrote; nothing is fitted again.

    Args:
        path: The file.

    Returns:
        The fit, with the same predictions and intervals.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is not a saved fit, or of a later version.
        KeyError: Its law is not in the catalogue.
    """
    text = Path(path).read_text(encoding="utf-8")
    try:
        found = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not a saved fit: it is not JSON ({error}).") from None
    if not isinstance(found, dict) or found.get("format") != _FORMAT:
        raise ValueError(f"{path} is not a saved fit; `Fit.save` or `lightning-scaling fit --save` writes one.")
    if found.get("version", 0) > _VERSION:
        raise ValueError(
            f"{path} was written by a later version (format {found['version']}); update lightning-scaling."
        )
    try:
        return from_dict(found)
    except (TypeError, IndexError, AttributeError) as error:
        raise ValueError(f"{path} is a damaged fit: {error}.") from None


def to_dict(fit: Fit) -> dict[str, Any]:
    """A fit as builtins."""
    from lightning_scaling.laws.summary import estimates

    settings = asdict(fit.settings)
    points = fit.points
    return {
        "format": _FORMAT,
        "version": _VERSION,
        "law": {
            "name": fit.law.name,
            "options": fit.law.options(),
            "formula": fit.law.formula,
            "source": str(fit.law.source),
        },
        "params": dict(fit.params),
        "estimates": estimates(fit),
        "status": fit.status,
        "message": fit.message,
        "diagnostics": dict(fit.diagnostics),
        "settings": settings,
        "state": {
            "names": list(fit.names),
            "u": fit.u,
            "cov": fit.cov,
            "spread": fit.spread,
            "spare": fit.spare,
            "block": fit.block,
            "replicates": fit.replicates,
        },
        "points": None
        if points is None
        else {
            "inputs": dict(points.inputs),
            "y": points.y,
            "weights": points.weights,
            "groups": points.groups,
            "given": points.given,
            "dropped": dict(points.dropped),
            "warnings": list(points.warnings),
        },
        "report": fit.report(),
    }


def from_dict(found: dict[str, Any]) -> Fit:
    """The fit that :func:`to_dict` described."""
    settings = dict(found["settings"])
    objective = Objective(**settings.pop("objective"))
    bounds = {name: (_number(low), _number(high)) for name, (low, high) in settings.pop("bounds").items()}
    state, points = found["state"], found["points"]
    free = len(state["names"])
    priors = {name: (_number(centre), _number(spread)) for name, (centre, spread) in settings.pop("priors").items()}
    return Fit(
        law=get(found["law"]["name"], **found["law"]["options"]),
        params={name: _number(value) for name, value in found["params"].items()},
        status=found["status"],
        message=found["message"],
        diagnostics=found["diagnostics"]
        | {
            key: _number(value)
            for key, value in found["diagnostics"].items()
            if value is None or isinstance(value, str)
        },
        points=None
        if points is None
        else Points(
            {name: np.array(values, dtype=np.float64) for name, values in points["inputs"].items()},
            np.array(points["y"], dtype=np.float64),
            np.array(points["weights"], dtype=np.float64),
            None if points["groups"] is None else np.array(points["groups"], dtype=np.intp),
            points["given"],
            points["dropped"],
            tuple(points["warnings"]),
        ),
        settings=Settings(objective=objective, bounds=bounds, priors=priors, **settings),
        replicates=None
        if state["replicates"] is None
        else np.array(state["replicates"], dtype=np.float64).reshape(-1, free),
        names=tuple(state["names"]),
        u=np.array(state["u"], dtype=np.float64),
        cov=np.array(state["cov"], dtype=np.float64).reshape(free, free),
        spread=_number(state["spread"]),
        spare=int(state["spare"]),
        block=int(state["block"]),
    )


def _number(value: Any) -> Any:
    return {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}.get(value, value) if isinstance(value, str) else value


def json_safe(value: Any) -> Any:
    """Builtins that strict JSON can hold; numbers that are not finite become words, such as ``"nan"``."""
    if isinstance(value, dict):
        return {str(k): json_safe(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [json_safe(v) for v in value]
    if isinstance(value, np.ndarray):
        return json_safe(value.tolist())
    if isinstance(value, np.generic):
        return json_safe(value.item())
    if isinstance(value, float) and not math.isfinite(value):
        return "nan" if math.isnan(value) else "inf" if value > 0 else "-inf"
    if value is None or isinstance(value, (str, int, float, bool)):
        return value
    return str(value)
