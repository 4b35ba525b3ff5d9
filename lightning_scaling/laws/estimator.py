"""Estimation of one law from one table of points."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lightning_scaling._utils.stats import MAD_TO_STD
from lightning_scaling.laws.data import Points, read
from lightning_scaling.laws.estimate import Estimate
from lightning_scaling.laws.form import FunctionalForm
from lightning_scaling.laws.initialization import starts
from lightning_scaling.laws.options import FitOptions, Settings
from lightning_scaling.laws.problem import Problem, problem_of
from lightning_scaling.laws.quality import assess
from lightning_scaling.laws.solvers.levenberg import Minimum
from lightning_scaling.laws.solvers.objectives import Objective
from lightning_scaling.laws.solvers.resample import draw_weights

Array = NDArray[np.float64]
Progress = Callable[[int], Any]

_CHUNK = 3_000_000
_ROUNDS = 3
_CLIP = 1.5
_FIRST_DELTA = 1e6
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
    settings = options.settings(form, _FIRST_DELTA)
    points = read(
        form,
        data,
        options.loss,
        weights=options.weights,
        columns=options.columns,
        groups=options.groups,
        space=settings.space,
    )
    settings = replace(settings, priors=options.prior_values(form, points))
    problem = problem_of(form, points, settings)
    free = len(problem.free)
    if len(points) < free:
        raise ValueError(
            f"{len(points)} usable points cannot determine the {free} free parameters of {form.name} "
            f"({', '.join(p.name for p in problem.free)}); add points, or give some of them in `fixed`."
        )
    ends = problem.descend(starts(problem))
    if not np.isfinite(ends.value).any():
        raise ValueError(
            f"{form.name} has no admissible value at these points: it falls to zero or below; use space='linear'."
        )
    if options.adaptive or settings.priors:
        settings, problem, ends = _with_scale(form, points, settings, ends, options.adaptive)
    best = int(np.argmin(ends.value))
    if not ends.converged[best]:
        ends = _descend_again(problem, ends.u)
        best = int(np.argmin(ends.value))
    found = assess(points, settings, problem, ends, best)
    if options.bootstrap:
        found = replace(found, replicates=_refits(problem, found, points, options, progress))
    return found


def _with_scale(
    form: FunctionalForm, points: Points, settings: Settings, ends: Minimum, adaptive: bool
) -> tuple[Settings, Problem, Minimum]:
    """Repeat the descent with the threshold and the weight of the priors that the residuals' scale asks for."""
    for _ in range(_ROUNDS):
        problem = problem_of(form, points, settings)
        best = ends.u[[int(np.argmin(ends.value))]]
        r = problem.model(best, np.array([0]))[0][0]
        free = len(problem.free)
        if adaptive:
            delta = max(_CLIP * _scale(r, points.weights, free), _LEAST_DELTA)
            settings = replace(settings, objective=replace(settings.objective, delta=delta))
            problem = problem_of(form, points, settings)
        problem.scale = settings.objective.unit(r, points.weights, free)
        ends = problem.descend(np.concatenate([best, problem.within_prior(np.concatenate([best, ends.u]))]))
        if not np.isfinite(ends.value).any():
            raise ValueError(
                f"{form.name} is not positive at these points where its priors would have it; leave them out."
            )
    return settings, problem, ends


def _descend_again(problem: Problem, u: Array) -> Minimum:
    """Once more by way of least squares: far from the optimum a robust objective has hardly any curvature."""
    smooth = replace(problem, objective=Objective("least_squares"))
    return problem.descend(np.concatenate([smooth.descend(u, steps=_STEPS_AGAIN).u, u]), steps=_STEPS_AGAIN)


def _scale(r: Array, weights: Array, free: int) -> float:
    """Standard deviation of a residual of unit weight, from the median."""
    dof = max(len(r) - free, 1)
    return MAD_TO_STD * float(np.median(np.sqrt(weights) * np.abs(r))) * float(np.sqrt(len(r) / dof))


def _refits(problem: Problem, found: Estimate, points: Points, options: FitOptions, progress: Progress | None) -> Array:
    rng = np.random.default_rng(options.seed)
    count = int(options.bootstrap)
    per_chunk = max(1, _CHUNK // (problem.size * max(1, len(problem.free))))
    done: list[Array] = []
    while count > 0:
        part = min(per_chunk, count)
        weights = draw_weights(rng, part, points.weights, points.groups, found.block)
        ends = problem.descend(np.tile(found.u, (part, 1)), weights=weights)
        done.append(problem.to_parameters(ends.u[np.isfinite(ends.value)]))
        count -= part
        if progress is not None:
            progress(part)
    return np.concatenate(done)
