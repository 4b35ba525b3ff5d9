"""Optimal split of a budget under one law, for its estimates and all their draws at once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lightning_scaling.allocation.root_finding import STEP, Found, halve, minimum, root, slope
from lightning_scaling.allocation.task import Task

Array = NDArray[np.float64]
Values = Mapping[str, Array]
Bounds = tuple[float, float] | None

_LARGEST = float(np.log(1e20))
_CURVATURE_STEP = 3e-3
_LOWEST, _HIGHEST = float(np.log(1e4)), float(np.log(1e44))
_BISECTIONS = 50
_NEWTON_STEPS = 30
_LONGEST = 4.0


@dataclass(frozen=True)
class Optimum:
    """Where the loss is least for the compute spent.

    All of shape ``(b,)``, one per set of parameters.

    Attributes:
        size: Size of the model.
        tokens: Training tokens.
        flops: Training and inference together.
        loss: The loss there.
        edge: 0 for an optimum inside the range searched, -1 or 1 where it ran into the lower or upper end.
        exponent: Change of ln size with ln flops along the optima; nan at an edge.
    """

    size: Array
    tokens: Array
    flops: Array
    loss: Array
    edge: NDArray[np.int64]
    exponent: Array


def at_flops(task: Task, values: Values, flops: Array, bounds: Bounds) -> Optimum:
    """The optimum of a budget: the least loss over all sizes, the tokens following from the budget.

    Args:
        task: The law and its costs.
        values: Parameters, each of shape ``(b, 1)``.
        flops: Budgets, shape ``(b, 1)``.
        bounds: Sizes between which to search, or None for a wide range.
    """
    found = _found(task, values, flops, bounds)
    size = np.exp(found.x)
    tokens = task.tokens_for(size[:, None], flops)[:, 0]
    return _finish(task, values, found, size, tokens, np.broadcast_to(flops, values_shape(values))[:, 0])


def at_size(task: Task, values: Values, size: float) -> Optimum:
    """The tokens, and so the budget, for which a given size is the optimum."""
    fixed = np.array([[size]])

    found = root(lambda log_tokens: -_along(task, values, fixed, np.exp(log_tokens)), 0.0, _LARGEST)
    tokens = np.exp(found.x)
    sizes = np.full(tokens.shape, size)
    return _finish(task, values, found, sizes, tokens, task.flops(fixed, tokens[:, None])[:, 0])


def at_tokens(task: Task, values: Values, tokens: float, bounds: Bounds) -> Optimum:
    """The size, and so the budget, for which a given number of tokens is the optimum."""
    fixed = np.array([[tokens]])

    found = root(lambda log_size: _along(task, values, np.exp(log_size), fixed), *_range(bounds))
    size = np.exp(found.x)
    return _finish(task, values, found, size, np.full(size.shape, tokens), task.flops(size[:, None], fixed)[:, 0])


def at_loss(task: Task, values: Values, target: float, bounds: Bounds) -> Optimum:
    """The least budget with which the loss is reached; infinite flops where the law never gets there.

    The first set of parameters is bracketed over forty decades and bisected; the others follow from it by Newton steps.

    Args:
        task: The law and its costs.
        values: Parameters, each of shape ``(b, 1)``.
        target: The loss to reach.
        bounds: Sizes between which to search, or None for a wide range.
    """
    centre = _first_budget(task, {name: value[:1] for name, value in values.items()}, target, bounds)
    log_flops = np.full(values_shape(values)[0], centre)
    if np.isfinite(centre) and len(log_flops) > 1:
        log_flops[1:] = _newton(task, {name: value[1:] for name, value in values.items()}, target, bounds, centre)
    known = np.isfinite(log_flops)
    best = at_flops(task, values, np.exp(np.where(known, log_flops, _HIGHEST))[:, None], bounds)
    unknown = (np.inf, np.inf, np.inf, np.nan, 1, np.nan)
    return Optimum(*(np.where(known, v, other) for v, other in zip(vars(best).values(), unknown, strict=True)))


def cheapest_flops(task: Task, values: Values, target: float, bounds: Bounds, near: float) -> float:
    """The least budget with which one set of parameters (shape ``(1, 1)`` each) reaches a loss; inf if none does.

    Args:
        task: The law and its costs.
        values: The parameters.
        target: The loss.
        bounds: Sizes between which to search.
        near: A budget to start from.
    """
    found = float(_newton(task, values, target, bounds, float(np.log(near)))[0])
    return float(np.exp(found if np.isfinite(found) else _first_budget(task, values, target, bounds)))


def _first_budget(task: Task, values: Values, target: float, bounds: Bounds) -> float:
    def reached(log_flops: float) -> bool:
        return bool(_least(task, values, np.array([[log_flops]]), bounds)[0][0] <= target)

    return halve(reached, _LOWEST, _HIGHEST, _BISECTIONS)[1] if reached(_HIGHEST) else float("inf")


def _newton(task: Task, values: Values, target: float, bounds: Bounds, start: float) -> Array:
    """By the envelope theorem the least loss falls with ln flops as the loss does at a fixed size."""
    c = np.full(values_shape(values), start)
    for _ in range(_NEWTON_STEPS):
        loss, falling = _least(task, values, c, bounds)
        with np.errstate(divide="ignore", invalid="ignore"):
            step = np.clip(np.nan_to_num((loss - target) / -falling, nan=0.0), -_LONGEST, _LONGEST)
        c = np.clip(c + step[:, None], _LOWEST, _HIGHEST)
        if np.max(np.abs(step)) < 1e-9:
            break
    return np.where((np.abs(step) < 1e-6) & np.isfinite(loss), c[:, 0], np.inf)


def _least(task: Task, values: Values, log_flops: Array, bounds: Bounds) -> tuple[Array, Array]:
    flops = np.exp(log_flops)
    found = _found(task, values, flops, bounds)
    x = found.x[:, None]
    loss = task.on_budget(values, flops)(x)[:, 0]
    more, less = (task.on_budget(values, np.exp(log_flops + step))(x)[:, 0] for step in (STEP, -STEP))
    with np.errstate(invalid="ignore"):
        return loss, (more - less) / (2 * STEP)


def _found(task: Task, values: Values, flops: Array, bounds: Bounds) -> Found:
    lower, upper = _range(bounds)
    if bounds is None:
        upper = max(min(upper, float(np.log(np.max(flops)))), lower + 1.0)
    return minimum(task.on_budget(values, flops), lower, upper)


def values_shape(values: Values) -> tuple[int, int]:
    """``(b, 1)``."""
    return (next(iter(values.values())).shape[0], 1)


def _range(bounds: Bounds) -> tuple[float, float]:
    return (0.0, _LARGEST) if bounds is None else (float(np.log(bounds[0])), float(np.log(bounds[1])))


def _along(task: Task, values: Values, size: Array, tokens: Array) -> Array:
    """Slope of the loss in ln size along the budget that passes through a size and its tokens."""
    flops = task.flops(size, tokens)
    at = np.log(np.broadcast_to(size, flops.shape))
    return slope(task.on_budget(values, flops), at)


def _finish(task: Task, values: Values, found: Found, size: Array, tokens: Array, flops: Array) -> Optimum:
    loss = task.loss(values, size[:, None], tokens[:, None])[:, 0]
    exponent = np.where(found.edge == 0, _exponent(task, values, np.log(size), np.log(flops)), np.nan)
    return Optimum(size, tokens, flops, loss, found.edge, exponent)


def _exponent(task: Task, values: Values, x: Array, c: Array) -> Array:
    """Change of ln size with ln flops along the optima: minus the mixed over the second derivative of the loss."""
    h = _CURVATURE_STEP
    x, c = x[:, None], c[:, None]

    def loss(dx: float, dc: float) -> Array:
        return task.on_budget(values, np.exp(c + dc))(x + dx)[:, 0]

    with np.errstate(divide="ignore", invalid="ignore"):
        second = loss(h, 0.0) - 2 * loss(0.0, 0.0) + loss(-h, 0.0)
        mixed = (loss(h, h) - loss(h, -h) - loss(-h, h) + loss(-h, -h)) / 4
        return np.asarray(-mixed / second, dtype=np.float64)


def point_values(point: Mapping[str, float]) -> dict[str, Array]:
    """The estimates alone, each of shape ``(1, 1)``."""
    return {name: np.array([[float(value)]]) for name, value in point.items()}


def parameter_rows(point: Mapping[str, float], draws: Mapping[str, Any]) -> tuple[dict[str, Array], bool]:
    """The estimates as first row, the draws below: values of shape ``(1 + draws, 1)``; and whether the draws differ."""
    count = min((np.size(value) for value in draws.values()), default=0)
    rows = {
        name: np.concatenate([[float(value)], np.asarray(draws[name], dtype=np.float64).ravel()[:count]])[:, None]
        for name, value in point.items()
    }
    finite = np.all([np.isfinite(value[:, 0]) for value in rows.values()], axis=0)
    finite[0] = True
    rows = {name: value[finite] for name, value in rows.items()}
    vary = any(bool(np.ptp(value[1:]) > 0) for value in rows.values() if len(value) > 1)
    return (rows if vary else {name: value[:1] for name, value in rows.items()}), vary
