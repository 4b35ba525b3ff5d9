"""Starting values: linear parameters solved exactly over a cover of the shape parameters."""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import numpy as np

from lightning_scaling.laws.arrays import Array, Bools, Ints
from lightning_scaling.laws.problem import Problem
from lightning_scaling.laws.solvers.starts import cover, solve_linear

_STARTS = 4
_POINTS = 160
_POINTS_PER_CURVE = 48
_CELLS = 2_000_000
_DISTINCT = 0.12
"""Candidates closer than this, as a share of the range in every parameter, are one start."""
_PER_AXIS_OF_MANY = {1: 24, 2: 10}
"""Cover of the shape parameters, per axis, where many curves are fitted at once."""


def starts(problem: Problem) -> Array:
    """Coordinates to start one fit from.

    Args:
        problem: The fit, with observations of shape ``(n,)``.

    Returns:
        The coordinates, best first, shape ``(s, p)`` with at most four starts.

    Raises:
        ValueError: The law has no finite value at the points for any of the parameters covered.
    """
    solved, covered = _split(problem)
    points = cover([problem.ranges[problem.names[j]][0] for j in covered])
    thin = _thinned(problem)
    score = np.full(len(points), np.inf)
    values = np.zeros((len(points), len(problem.free)))
    values[:, covered] = points
    x = {k: (v[thin] if np.ndim(v) and np.shape(v)[0] == problem.size else v) for k, v in problem.x.items()}
    wide = max([1, *(int(np.size(v)) for v in x.values())])
    chunk = max(1, _CELLS // wide)
    for first in range(0, len(points), chunk):
        part = slice(first, first + chunk)
        given = {problem.names[j]: values[part, j : j + 1] for j in covered}
        values[part, solved], score[part] = _project(problem, solved, given, x, problem.y[thin], problem.weights[thin])
    order = np.argsort(score, kind="stable")
    order = order[np.isfinite(score[order])]
    if not len(order):
        raise ValueError(
            f"{problem.law.name} has no finite value at these points for any plausible parameters; check the units of "
            f"{', '.join(problem.law.inputs)}."
        )
    return problem.to_coordinates(values[_distinct(order, points)])


def starts_of_many(problem: Problem) -> Array:
    """One start for each of many curves, shape ``(b, p)``; the observations have shape ``(b, n)``."""
    solved, covered = _split(problem)
    ranges = [problem.ranges[problem.names[j]][0] for j in covered]
    thin = np.linspace(0, problem.size - 1, min(problem.size, _POINTS_PER_CURVE)).astype(int)
    y, w = problem.y[:, thin], problem.weights[:, thin]
    x = {k: v[..., thin] if np.shape(v)[-1:] == (problem.size,) else v for k, v in problem.x.items()}
    best = np.full(len(y), np.inf)
    result = np.zeros((len(y), len(problem.free)))
    for point in cover(ranges, size=_PER_AXIS_OF_MANY.get(len(covered))):
        given = {problem.names[j]: float(v) for j, v in zip(covered, point, strict=True)}
        coefficients, score = _project(problem, solved, given, x, y, w)
        better = score < best
        best = np.where(better, score, best)
        result[np.ix_(better, covered)] = point
        result[np.ix_(better, solved)] = coefficients[better]
    return problem.to_coordinates(result)


def _split(problem: Problem) -> tuple[Ints, Ints]:
    """Which of the free parameters are solved exactly, and which are covered."""
    exact = problem.settings.space != "linear" or problem.law.link != "log"
    solved = [problem.names.index(name) for name in problem.law.linear if exact and name in problem.names]
    covered = [j for j in range(len(problem.free)) if j not in solved]
    return np.array(solved, dtype=np.intp), np.array(covered, dtype=np.intp)


def _thinned(problem: Problem) -> Ints:
    if problem.size <= _POINTS:
        return np.arange(problem.size)
    by = np.lexsort(tuple(np.broadcast_to(v, problem.y.shape) for v in problem.inputs.values()))
    return np.sort(by[np.linspace(0, problem.size - 1, _POINTS).astype(int)])


def _project(
    problem: Problem, solved: Ints, given: Mapping[str, Any], x: Mapping[str, Any], y: Array, w: Array
) -> tuple[Array, Array]:
    """Linear parameters of ``b`` fits with given shapes, and the squared error that remains.

    Args:
        problem: The fits.
        solved: Indices of the free parameters to solve for.
        given: Values of the others, numbers or of shape ``(b, 1)``.
        x: Inputs and features of the points used.
        y: Observations, shape ``(n,)`` or ``(b, n)``.
        w: Weights, likewise.

    Returns:
        The linear parameters, shape ``(b, k)``, and the errors, shape ``(b,)``; infinite where the law is not finite.
    """
    law, space, fixed = problem.law, problem.settings.space, problem.settings.fixed
    linear = [problem.names[j] for j in solved]
    p: dict[str, Any] = {**fixed, **given}
    rows = max([len(y) if y.ndim > 1 else 1, *(len(v) for v in given.values() if np.ndim(v))])
    log = law.link == "log" or (space == "log" and not linear)
    inputs = SimpleNamespace(**x)

    def seen(values: Mapping[str, Any]) -> Array:
        value = np.asarray(law.value(SimpleNamespace(**values), inputs), dtype=np.float64)
        return np.log(value) if log else value

    with np.errstate(all="ignore"):
        target = np.log(y) if log else y
        scale = w if log or space == "linear" or not linear else w / y**2
        if not linear:
            total = np.broadcast_to(np.sum(scale * (seen(p) - target) ** 2, axis=-1), rows)
            return np.zeros((rows, 0)), np.where(np.isfinite(total), total, np.inf)
        held = any(name in fixed for name in law.linear)
        offset: Any = seen(p | dict.fromkeys(linear, 0.0)) if held else 0.0
        zero = dict.fromkeys(law.linear, 0.0)
        wide = (rows, y.shape[-1])
        columns = np.stack([np.broadcast_to(seen(p | zero | {name: 1.0}), wide) for name in linear], axis=1)
        target = np.broadcast_to(target - offset, wide)
        finite = np.asarray(np.isfinite(columns).all(axis=(1, 2)) & np.isfinite(target).all(axis=1))
        columns = np.where(finite[:, None, None], columns, 0.0)
        weighted = columns * (scale if scale.ndim == 1 else scale[:, None, :])
        gram = np.matmul(weighted, columns.transpose(0, 2, 1))
        cross = np.einsum("skn,sn->sk", weighted, np.where(finite[:, None], target, 0.0))
        free = np.array([problem.ranges[name][1][0] < 0 for name in linear])
        coefficients, fall = solve_linear(gram, cross, free)
        if space == "log" and not log and free.any():
            finite &= _keep_positive(coefficients, fall, columns, offset, gram, cross)
        total = np.sum(scale * target**2, axis=-1) - fall
    return coefficients, np.where(finite, np.maximum(total, 0.0), np.inf)


def _keep_positive(coefficients: Array, fall: Array, columns: Array, offset: Any, gram: Array, cross: Array) -> Bools:
    """Replace negative coefficients, in place, where they make the law negative; returns where that helped."""

    def least(rows: Any) -> Array:
        shift = offset[rows] if np.shape(offset)[:1] == coefficients.shape[:1] else offset
        return np.asarray(np.min(np.einsum("sk,skn->sn", coefficients[rows], columns[rows]) + shift, axis=1))

    bad = np.flatnonzero(least(slice(None)) <= 0)
    if len(bad):
        none = np.zeros(coefficients.shape[1], dtype=bool)
        coefficients[bad], fall[bad] = solve_linear(gram[bad], cross[bad], none)
    good = np.ones(len(coefficients), dtype=bool)
    good[bad] = least(bad) > 0
    return good


def _distinct(order: Ints, points: Array) -> list[int]:
    """The best candidates that are not close neighbours of a better one."""
    if points.shape[1] == 0:
        return [int(order[0])]
    spread = np.maximum(points.max(axis=0) - points.min(axis=0), 1e-300)
    chosen: list[int] = []
    for i in map(int, order[: 40 * _STARTS]):
        if all(np.max(np.abs(points[i] - points[j]) / spread) >= _DISTINCT for j in chosen):
            chosen.append(i)
        if len(chosen) == _STARTS:
            break
    return chosen
