"""Estimation of one law from one table of points."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from lightning_scaling.laws.arrays import Array
from lightning_scaling.laws.data import Points, read
from lightning_scaling.laws.estimate import Estimate
from lightning_scaling.laws.form import FunctionalForm
from lightning_scaling.laws.initialization import starts
from lightning_scaling.laws.options import FitOptions
from lightning_scaling.laws.problem import Problem, problem_of
from lightning_scaling.laws.quality import assess
from lightning_scaling.laws.solvers.levenberg import Minimum
from lightning_scaling.laws.solvers.objectives import Objective, robust_scale
from lightning_scaling.laws.solvers.resample import draw_weights

Progress = Callable[[int], Any]

_CHUNK = 3_000_000
_ROUNDS = 3
_CLIP = 1.5
_LEAST_DELTA = 5e-4
_STEPS_AGAIN = 600


def estimate(form: FunctionalForm, data: Any, options: FitOptions, progress: Progress | None = None) -> Estimate:
    """Estimate a law's parameters from points.

    Args:
        form: The law.
        data: Mapping of arrays, DataFrame, or anything indexable by column name.
        options: How, as described in :meth:`~lightning_scaling.laws.Law.fit`.
        progress: Called with the number of refits finished since its last call.

    Returns:
        The estimate, with a status and a message.

    Raises:
        TypeError: `data` has no columns.
        ValueError: A column is missing, no or too few usable points are left, or an option is out of its range.
    """
    settings = options.settings(form)
    points = read(form, data, options.loss, options.weights, options.columns, options.groups, settings.space)
    settings = replace(settings, priors=options.prior_values(form, points))
    problem = problem_of(form, points, settings)
    free = len(problem.free)
    if len(points) < free:
        raise ValueError(
            f"{len(points)} usable points cannot determine the {free} free parameters of {form.name} "
            f"({', '.join(problem.names)}); add points, or give some of them in `fixed`."
        )
    ends = problem.descend(starts(problem))
    if not np.isfinite(ends.value).any():
        raise ValueError(
            f"{form.name} has no admissible value at these points: it falls to zero or below; use space='linear'."
        )
    if options.delta == "auto" or settings.priors:
        problem, ends = _with_scale(problem, ends, adaptive=options.delta == "auto")
    best = int(np.argmin(ends.value))
    if not ends.converged[best]:
        ends = _descend_again(problem, ends.u)
        best = int(np.argmin(ends.value))
    found = assess(points, problem.settings, problem, ends, best)
    if options.bootstrap:
        found = replace(found, replicates=_refits(problem, found, points, options, progress))
    return found


def _with_scale(problem: Problem, ends: Minimum, *, adaptive: bool) -> tuple[Problem, Minimum]:
    """Repeat the descent with the threshold and the weight of the priors that the residuals' scale asks for."""
    free = len(problem.free)
    for _ in range(_ROUNDS):
        best = ends.u[[int(np.argmin(ends.value))]]
        r = problem.residuals(best[0])
        if adaptive:
            delta = max(_CLIP * robust_scale(r, problem.weights, free), _LEAST_DELTA)
            problem = _with_objective(problem, replace(problem.settings.objective, delta=delta))
        problem = replace(problem, scale=problem.settings.objective.unit(r, problem.weights, free))
        ends = problem.descend(np.concatenate([best, problem.within_prior(np.concatenate([best, ends.u]))]))
        if not np.isfinite(ends.value).any():
            raise ValueError(
                f"{problem.law.name} is not positive at these points where its priors would have it; leave them out."
            )
    return problem, ends


def _descend_again(problem: Problem, u: Array) -> Minimum:
    """Once more by way of least squares: far from the optimum a robust objective has hardly any curvature."""
    smooth = _with_objective(problem, Objective("least_squares"))
    return problem.descend(np.concatenate([smooth.descend(u, steps=_STEPS_AGAIN).u, u]), steps=_STEPS_AGAIN)


def _with_objective(problem: Problem, objective: Objective) -> Problem:
    return replace(problem, settings=replace(problem.settings, objective=objective))


def _refits(problem: Problem, found: Estimate, points: Points, options: FitOptions, progress: Progress | None) -> Array:
    rng = np.random.default_rng(options.seed)
    count = int(options.bootstrap)
    per_chunk = max(1, _CHUNK // (problem.size * max(1, len(problem.free))))
    done: list[Array] = []
    for first in range(0, count, per_chunk):
        part = min(per_chunk, count - first)
        weights = draw_weights(rng, part, points.weights, points.groups, found.block)
        ends = problem.descend(np.tile(found.u, (part, 1)), weights=weights)
        done.append(problem.to_parameters(ends.u[np.isfinite(ends.value)]))
        if progress is not None:
            progress(part)
    return np.concatenate(done)
