"""Summaries of laws and fits: tables, cards, and the answers to a reproducibility checklist."""

from __future__ import annotations

import math
import platform
import textwrap
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from lightning_scaling.laws.estimate import Estimate, FitStatus
from lightning_scaling.laws.form import FunctionalForm
from lightning_scaling.laws.profile import confidence

_WIDTH = 100
_USER_ANSWERS = {
    "training": "models data parameter_counting compute_counting learning_rate schedule batch_size architecture "
    "optimizer code",
    "collection": "checkpoints metric evaluation_set smoothing collection_code",
}
"""Questions by section that only the user can answer, separated by spaces."""

_NOT_STATED = "not stated"


def estimates(fit: Estimate, level: float = 0.95) -> list[dict[str, Any]]:
    """One row per parameter: name, meaning, value, standard error, interval, and whether it was given.

    Args:
        fit: The fit.
        level: Probability of the intervals.
    """
    errors, ends = fit.standard_errors, confidence(fit, level, "auto")
    return [
        {
            "name": p.name,
            "meaning": p.meaning,
            "value": fit.params[p.name],
            "standard_error": errors[p.name],
            "lower": ends[p.name][0],
            "upper": ends[p.name][1],
            "level": level,
            "given": p.name not in fit.names,
        }
        for p in fit.law.parameters
    ]


def fit_summary(fit: Estimate, level: float = 0.95) -> str:
    """The table of :meth:`Fit.summary`."""
    law, found = fit.law, fit.diagnostics
    lines = [law.title, f"  {law.formula}", f"  {law.source}", ""]
    if fit.points is not None:
        how = "bootstrap" if fit.replicates is not None else "profile"
        settings = fit.settings
        name = settings.objective.kind.replace("_", " ")
        detail = "" if name == "least squares" else f" (delta {settings.objective.delta:g}, summed)"
        residuals = "log residuals" if settings.space == "log" else "residuals"
        lines += [
            f"points      {found['points']} used of {found['given']}"
            + (f", {int(fit.points.groups.max()) + 1} groups" if fit.points.groups is not None else ""),
            *(
                f"{'range' if i == 0 else '':<12}{name} {low:.4g} to {high:.4g}"
                for i, (name, (low, high)) in enumerate(fit.ranges.items())
            ),
            f"objective   {name}{detail} on {residuals}: {found['objective']:.8g}",
            f"residuals   rms {_percent(fit, found['rms_residual'])}, "
            f"median {_percent(fit, found['median_abs_residual'])}; "
            f"R2 {found['r2']:.5f} (in sample: says nothing about extrapolation)",
            f"intervals   {100 * level:g} %, {how}"
            + (f", {len(fit.replicates)} refits" if fit.replicates is not None else ""),
            "",
        ]
    rows = [("parameter", "estimate", "std. error", f"{100 * level:g} % interval", "")]
    for row in estimates(fit, level):
        note = "given" if row["given"] else "at bound" if row["name"] in found.get("at_bounds", ()) else ""
        ends = "" if row["given"] or math.isnan(row["lower"]) else f"{row['lower']:.5g} to {row['upper']:.5g}"
        error = "" if row["given"] or math.isnan(row["standard_error"]) else f"{row['standard_error']:.3g}"
        if fit.status == FitStatus.PUBLISHED and row["standard_error"] == 0:
            error = ends = ""
        rows.append((row["name"], f"{row['value']:.6g}", error, ends, note or row["meaning"]))
    lines += table(rows, right=(1, 2))
    lines += ["", f"status      {fit.status}"]
    if fit.message:
        lines += textwrap.wrap(fit.message, _WIDTH, initial_indent="  ", subsequent_indent="  ")
    return "\n".join(lines)


def law_card(law: FunctionalForm) -> str:
    """All that is known of a law: formula, source, inputs, parameters, published constants, uses and pitfalls."""
    lines = [f"{law.name}: {law.title}" if not law.title.lower().startswith(law.name) else law.title]
    lines += [f"  {law.formula}", f"  {law.source}", "", f"used for    {', '.join(sorted(law.tags))}", "", "inputs"]
    lines += [f"  {line}" for line in table([(name, law.unit(name)) for name in law.inputs])]
    lines += ["", "parameters"]
    lines += [
        f"  {line}"
        for line in table([(p.name, p.meaning, "linear" if p.name in law.linear else "") for p in law.parameters])
    ]
    lines += ["", "published constants" + ("" if law.published else ": none that could be relied on; fit it")]
    for constants in law.published.values():
        values = ", ".join(f"{name} {value:.6g}" for name, value in constants.values.items())
        lines += [f"  {constants.name} ({constants.verified})"]
        for text in (values, str(constants.source), constants.note):
            lines += textwrap.wrap(text, _WIDTH, initial_indent="    ", subsequent_indent="    ")
    if law.pitfalls:
        lines += ["", "pitfalls"]
        for pitfall in law.pitfalls:
            lines += textwrap.wrap(pitfall, _WIDTH, initial_indent="  - ", subsequent_indent="    ")
    return "\n".join(lines)


def checklist(fit: Estimate) -> dict[str, Any]:
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
    for section, questions in _USER_ANSWERS.items():
        answers[section] = {question: said.pop(question, _NOT_STATED) for question in questions.split()}
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
    packages = {name: _version(name) for name in ("lightning-scaling", "numpy", "scipy")}
    answers["versions"] = {"python": platform.python_version()} | packages
    return answers


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "unknown"


def table(rows: Sequence[Sequence[str]], right: Sequence[int] = ()) -> list[str]:
    """Rows of words as aligned lines."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return [
        "  ".join(
            word.rjust(width) if i in right else word.ljust(width)
            for i, (word, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def _percent(fit: Estimate, size: float) -> str:
    return f"{100 * size:.3g} %" if fit.settings.space == "log" else f"{size:.3g}"
