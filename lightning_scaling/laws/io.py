"""Fits as JSON: estimates, points, settings and provenance."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from typing import Any

import numpy as np

from lightning_scaling._utils.serialization import to_builtins
from lightning_scaling.laws.data import Points
from lightning_scaling.laws.estimate import Estimate
from lightning_scaling.laws.form import FunctionalForm
from lightning_scaling.laws.options import Settings
from lightning_scaling.laws.solvers.objectives import Objective
from lightning_scaling.laws.summary import checklist, estimates

_FORMAT = "lightning-scaling fit"
_VERSION = 1


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
        found = json.loads(text)
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
    points = fit.points
    content = {
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
        "settings": asdict(fit.settings),
        "state": {
            "names": list(fit.names),
            "u": fit.u,
            "cov": fit.cov,
            "residual_variance": fit.residual_variance,
            "dof_resid": fit.dof_resid,
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
        "report": checklist(fit),
    }
    safe: dict[str, Any] = to_builtins(content, nonfinite="text")
    return safe


def estimate_from_dict(found: dict[str, Any]) -> Estimate:
    """The estimate that :func:`to_dict` described."""
    settings = dict(found["settings"])
    objective = Objective(**settings.pop("objective"))
    bounds = {name: (_number(low), _number(high)) for name, (low, high) in settings.pop("bounds").items()}
    state, points = found["state"], found["points"]
    free = len(state["names"])
    priors = {name: (_number(centre), _number(spread)) for name, (centre, spread) in settings.pop("priors").items()}
    return Estimate(
        law=FunctionalForm.lookup(found["law"]["name"], **found["law"]["options"]),
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
        residual_variance=_number(state["residual_variance"]),
        dof_resid=int(state["dof_resid"]),
        block=int(state["block"]),
    )


def _number(value: Any) -> Any:
    return {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}.get(value, value) if isinstance(value, str) else value
