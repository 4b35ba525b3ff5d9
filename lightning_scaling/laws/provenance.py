"""How a fit was made, by the questions of a published checklist."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lightning_scaling.laws.results import Fit

_ASKED_OF_THE_USER = {
    "training": (
        "models",
        "data",
        "parameter_counting",
        "compute_counting",
        "learning_rate",
        "schedule",
        "batch_size",
        "architecture",
        "optimizer",
        "code",
    ),
    "collection": ("checkpoints", "metric", "evaluation_set", "smoothing", "collection_code"),
}
_UNSAID = "not stated"


def checklist(fit: Fit) -> dict[str, Any]:
    """Answers to the checklist of Li, Kudugunta and Zettlemoyer 2025 (arXiv 2502.18969).

    What the program knows it answers itself; what only the user can know is taken from ``training=`` of the fit and
    else marked ``"not stated"``, so that a reader sees what is missing.

    Args:
        fit: The fit.

    Returns:
        Builtins, by section: hypothesis, training, collection, fitting, validation, versions.
    """
    law, settings, found = fit.law, fit.settings, fit.diagnostics
    said = dict(settings.training)
    answers: dict[str, Any] = {
        "hypothesis": {
            "form": law.formula,
            "variables": {name: law.unit(name) for name in law.inputs},
            "fitted_parameters": list(fit.names) if fit.points is not None else [],
            "given_parameters": dict(settings.fixed),
            "source": str(law.source),
        }
    }
    for section, questions in _ASKED_OF_THE_USER.items():
        answers[section] = {question: said.pop(question, _UNSAID) for question in questions}
    answers["training"] |= said
    answers["collection"]["points"] = found.get("given", 0)
    answers["fitting"] = {
        "objective": settings.objective.kind,
        "summed": True,
        "delta": None if settings.objective.kind == "least_squares" else settings.objective.delta,
        "quantile": settings.objective.quantile if settings.objective.kind == "quantile" else None,
        "residuals": "difference of logarithms" if settings.space == "log" else "difference",
        "algorithm": "linear parameters exact over a cover of the shape parameters; damped Gauss-Newton from the best",
        "initialisation": "deterministic, no random restarts",
        "starts": found.get("starts"),
        "starts_agreeing": found.get("starts_agreeing"),
        "bounds": {name: list(ends) for name, ends in settings.bounds.items()},
        "points_used": found.get("points", 0),
        "points_dropped": dict(found.get("dropped", {})),
        "weights": settings.weights,
        "priors": {name: list(prior) for name, prior in settings.priors.items()},
        "groups": settings.groups,
        "bootstrap": 0 if fit.replicates is None else len(fit.replicates),
        "seed": settings.seed,
    }
    answers["validation"] = {
        "objective": found.get("objective"),
        "rms_residual": found.get("rms_residual"),
        "in_sample_r2": found.get("r2"),
        "condition": found.get("condition"),
        "ranges": {name: list(ends) for name, ends in fit.ranges.items()},
        "extrapolation": "laws.compare scores held-out points; intervals widen beyond the ranges",
    }
    answers["versions"] = {"python": platform.python_version()} | {
        name: _version(name) for name in ("lightning-scaling", "numpy", "scipy")
    }
    return answers


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "unknown"
