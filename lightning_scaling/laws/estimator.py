"""From points to a fit: one law on one table, or on many curves at once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from lightning_scaling.laws.base import Law
from lightning_scaling.laws.curve_fits import Fits
from lightning_scaling.laws.data import Points, read, typical
from lightning_scaling.laws.problem import Problem
from lightning_scaling.laws.quality import judge
from lightning_scaling.laws.results import Fit, Settings
from lightning_scaling.laws.solvers.levenberg import Minimum
from lightning_scaling.laws.solvers.objectives import Kind, Objective
from lightning_scaling.laws.solvers.resample import draw_weights

Array = NDArray[np.float64]

_CHUNK = 3_000_000
_COARSE = {1: 24, 2: 10}
_ROUNDS = 3
_CLIP = 1.5
_WIDE = 1e6
_LEAST_DELTA = 5e-4
_MORE = 600


def fit_law(
    law: Law,
    data: Any,
    loss: str = "loss",
    objective: Kind = "huber",
    delta: float | Literal["auto"] = 1e-3,
    weights: Any = None,
    bootstrap: int = 0,
    seed: int = 0,
    *,
    columns: Mapping[str, str] | None = None,
    groups: Any = None,
    space: str | None = None,
    quantile: float = 0.5,
    fixed: Mapping[str, float] | None = None,
    bounds: Mapping[str, tuple[float, float]] | None = None,
    priors: Mapping[str, tuple[float, float]] | Literal["default"] | None = None,
    training: Mapping[str, Any] | None = None,
    progress: Any = None,
) -> Fit:
    """Estimate a law's parameters: :meth:`Law.fit`, where the arguments are described."""
    auto = delta == "auto"
    settings = Settings(
        Objective(objective, _WIDE if auto else float(delta), quantile),
        _space(law, space),
        _fixed(law, fixed),
        _bounds(law, bounds),
        loss=loss,
        weights=weights if isinstance(weights, str) else None if weights is None else "given",
        columns=dict(columns or {}),
        groups=groups if isinstance(groups, str) else None if groups is None else "given",
        seed=int(seed),
        training=dict(training or {}),
    )
    if bootstrap < 0:
        raise ValueError(f"`bootstrap` must be a number of refits, 0 for none, but got {bootstrap}.")
    points = read(law, data, loss, weights=weights, columns=columns, groups=groups, space=settings.space)
    settings = replace(settings, priors=_priors(law, priors, points))
    problem = problem_of(law, points, settings)
    free = len(problem.free)
    if len(points) < free:
        raise ValueError(
            f"{len(points)} usable points cannot determine the {free} free parameters of {law.name} "
            f"({', '.join(p.name for p in problem.free)}); add points, or give some of them in `fixed`."
        )
    ends = problem.descend(problem.starts())
    if not np.isfinite(ends.value).any():
        raise ValueError(
            f"{law.name} has no admissible value at these points: it falls to zero or below; use space='linear'."
        )
    for _ in range(_ROUNDS if auto or settings.priors else 0):
        best = ends.u[[int(np.argmin(ends.value))]]
        r = problem.model(best, np.array([0]))[0][0]
        if auto:
            size = max(_CLIP * _scale(r, points.weights, free), _LEAST_DELTA)
            settings = replace(settings, objective=Objective(objective, size, quantile))
        problem = problem_of(law, points, settings)
        problem.unit = settings.objective.unit(r, points.weights, free)
        again = np.concatenate([best, problem.believable(np.concatenate([best, ends.u]))])
        held = problem.descend(again)
        if not np.isfinite(held.value).any():
            raise ValueError(
                f"{law.name} is not positive at these points where its priors would have it; leave them out."
            )
        ends = held
    best_of = int(np.argmin(ends.value))
    if not ends.converged[best_of]:
        ends = _again(problem, ends.u)
        best_of = int(np.argmin(ends.value))
    fit = judge(law, points, settings, problem, ends, best_of)
    if bootstrap:
        fit = replace(fit, replicates=_refits(problem, fit, points, int(bootstrap), seed, progress))
    return fit


def _again(problem: Problem, u: Array) -> Minimum:
    """Once more by way of least squares: far from the optimum a robust objective has hardly any curvature."""
    smooth = replace(problem, objective=Objective("least_squares"))
    return problem.descend(np.concatenate([smooth.descend(u, steps=_MORE).u, u]), steps=_MORE)


def _scale(r: Array, weights: Array, free: int) -> float:
    """Standard deviation of a residual of unit weight, from the median."""
    spare = max(len(r) - free, 1)
    return 1.4826 * float(np.median(np.sqrt(weights) * np.abs(r))) * float(np.sqrt(len(r) / spare))


def _priors(law: Law, priors: Any, points: Points) -> dict[str, tuple[float, float]]:
    if priors is None:
        return {}
    if isinstance(priors, str):
        if priors != "default":
            raise ValueError(f"`priors` must be a mapping, 'default' or None, but got {priors!r}.")
        least = float(np.min(np.abs(points.y)))
        found = {}
        for p in law.parameters:
            if p.prior is not None:
                unit = least if p.of == "loss" else typical(points.inputs[p.of]) if p.of else 1.0
                found[p.name] = (p.prior[0] * unit, p.prior[1])
        return found
    result = {}
    for name, (centre, spread) in _known(law, priors, "priors").items():
        if not (centre > 0 and spread > 0):
            raise ValueError(
                f"The prior of {name!r} must be (centre, spread), both positive, but got ({centre}, {spread})."
            )
        result[name] = (float(centre), float(spread))
    return result


def problem_of(law: Law, points: Points, settings: Settings) -> Problem:
    """The minimisation that a fit with these settings solves."""
    return Problem(
        law,
        points.inputs,
        points.y,
        points.weights,
        settings.objective,
        settings.space,
        settings.fixed,
        settings.bounds,
        settings.priors,
    )


def _refits(problem: Problem, fit: Fit, points: Points, count: int, seed: int, progress: Any) -> Array:
    rng = np.random.default_rng(seed)
    per_chunk = max(1, _CHUNK // (problem.size * max(1, len(problem.free))))
    done: list[Array] = []
    while count > 0:
        part = min(per_chunk, count)
        weights = draw_weights(rng, part, points.weights, points.groups, fit.block)
        ends = problem.descend(np.tile(fit.u, (part, 1)), weights=weights)
        done.append(problem.outward(ends.u[np.isfinite(ends.value)]))
        count -= part
        if progress is not None:
            progress(part)
    return np.concatenate(done)


def fit_curves(
    law: Law,
    data: Mapping[str, Any],
    loss: str = "loss",
    objective: Kind = "least_squares",
    delta: float = 1e-3,
    weights: Any = None,
    *,
    space: str | None = None,
    quantile: float = 0.5,
    fixed: Mapping[str, float] | None = None,
    bounds: Mapping[str, tuple[float, float]] | None = None,
) -> Fits:
    """Estimate a law on many curves at once; :meth:`Law.fit_many` with the law as first argument."""
    settings = Settings(
        Objective(objective, delta, quantile), _space(law, space), _fixed(law, fixed), _bounds(law, bounds), loss=loss
    )
    inputs, y, w = _curves(law, data, loss, weights, settings.space)
    curves, n = y.shape
    names = [p.name for p in law.parameters]
    values = np.full((curves, len(names)), np.nan)
    objectives = np.full(curves, np.nan)
    converged = np.zeros(curves, dtype=bool)
    used = (w > 0).sum(axis=1)
    free = len(names) - len(settings.fixed)
    enough = np.flatnonzero(used >= free)
    size = max(1, _CHUNK // (n * max(1, free)))
    for first in range(0, len(enough), size):
        rows = enough[first : first + size]
        part = {k: v[rows] if v.ndim == 2 else v for k, v in inputs.items()}
        problem = Problem(
            law, part, y[rows], w[rows], settings.objective, settings.space, settings.fixed, settings.bounds
        )
        ends = problem.descend(problem.starts_of_many(_COARSE))
        found = problem.outward(ends.u)
        for j, p in enumerate(problem.free):
            values[rows, names.index(p.name)] = found[:, j]
        for name, value in settings.fixed.items():
            values[rows, names.index(name)] = value
        objectives[rows], converged[rows] = ends.value, ends.converged & np.isfinite(ends.value)
    status = np.where(used < free, "too few points", np.where(converged, "ok", "not converged"))
    return Fits(law, settings, inputs, y, w, {name: values[:, j] for j, name in enumerate(names)}, objectives, status)


def _curves(
    law: Law, data: Mapping[str, Any], loss: str, weights: Any, space: str
) -> tuple[dict[str, Array], Array, Array]:
    def array(name: str) -> Array:
        if name not in data:
            raise ValueError(f"`data` has no {name!r}; it needs {', '.join(law.inputs)} and {loss}.")
        values = np.asarray(data[name], dtype=np.float64)
        if values.ndim not in (1, 2):
            raise ValueError(f"{name!r} must have shape (points,) or (curves, points), but has {values.shape}.")
        return values

    y = np.atleast_2d(array(loss))
    inputs = {name: array(name) for name in law.inputs}
    for name, values in inputs.items():
        if values.shape not in (y.shape, y.shape[1:]):
            raise ValueError(f"{name!r} has shape {values.shape}, which does not go with {loss!r} of shape {y.shape}.")
    w = np.ones_like(y) if weights is None else np.broadcast_to(np.asarray(weights, dtype=np.float64), y.shape).copy()
    good = np.isfinite(y) & np.isfinite(w) & (w > 0)
    if space == "log":
        good &= y > 0
    for name, values in inputs.items():
        good &= np.isfinite(values) & ((values >= 0) if name in law.zero_allowed else (values > 0))
    clean = {}
    for name, values in inputs.items():
        bad = ~(np.isfinite(values) & ((values >= 0) if name in law.zero_allowed else (values > 0)))
        clean[name] = np.where(bad, 1.0, values) if bad.any() else values
    return clean, np.where(good, y, 1.0), np.where(good, w, 0.0)


def _space(law: Law, space: str | None) -> str:
    if space is None:
        return law.space
    if space not in ("log", "linear"):
        raise ValueError(f"`space` must be 'log' or 'linear', but got {space!r}.")
    return space


def _fixed(law: Law, fixed: Mapping[str, float] | None) -> dict[str, float]:
    return {name: float(value) for name, value in _known(law, fixed, "fixed").items()}


def _bounds(law: Law, bounds: Mapping[str, tuple[float, float]] | None) -> dict[str, tuple[float, float]]:
    result = {}
    for name, (low, high) in _known(law, bounds, "bounds").items():
        if not low < high:
            raise ValueError(
                f"`bounds` of {name!r} must be (lower, upper) with lower < upper, but got ({low}, {high})."
            )
        result[name] = (float(low), float(high))
    return result


def _known(law: Law, given: Mapping[str, Any] | None, argument: str) -> Mapping[str, Any]:
    names = [p.name for p in law.parameters]
    unknown = [name for name in given or {} if name not in names]
    if unknown:
        raise ValueError(
            f"`{argument}` names {', '.join(map(repr, unknown))}, but the parameters of {law.name} are "
            f"{', '.join(names)}."
        )
    return given or {}
