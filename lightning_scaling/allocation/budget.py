"""Allocation of a compute budget under a fitted law."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lightning_scaling._utils.validation import positive, probability
from lightning_scaling.allocation.choice import Choice, weigh
from lightning_scaling.allocation.comparison import Comparison, compare, minima_of
from lightning_scaling.allocation.isoflop import IsoflopMinima, MinimaStatus
from lightning_scaling.allocation.result import Allocation, Alternative, Status
from lightning_scaling.allocation.root_finding import halve
from lightning_scaling.allocation.solve import (
    Bounds,
    Optimum,
    Values,
    at_flops,
    at_loss,
    at_size,
    at_tokens,
    parameter_rows,
)
from lightning_scaling.allocation.status import assess, extrapolation_of
from lightning_scaling.allocation.task import Extra, PerToken, Task, check_law, size_input
from lightning_scaling.laws.results import Fit

Array = NDArray[np.float64]


@dataclass(frozen=True)
class _Request:
    """What was given of a budget, a size, tokens and a loss."""

    flops: float | None
    params: float | None
    tokens: float | None
    target: float | None

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(name for name, value in vars(self).items() if value is not None)


def allocate(
    fit: Fit,
    flops: float | None = None,
    params: float | None = None,
    tokens: float | None = None,
    inference_tokens: float = 0,
    *,
    target: float | None = None,
    unique_tokens: float | None = None,
    level: float = 0.9,
    flops_per_token: PerToken | None = None,
    given: Mapping[str, Extra | Sequence[float]] | None = None,
    bounds: tuple[float, float] | None = None,
    minima: IsoflopMinima | None = None,
    draws: int = 400,
    seed: int = 0,
) -> Allocation:
    r"""How to spend a compute budget: the size and the tokens with which a law predicts the least loss.

    ``min over params of loss(params, tokens, ...)`` with ``flops = 6 params tokens + 2 params inference_tokens``
    (Hoffmann et al. 2022, arXiv 2203.15556, equation 4; inference: Sardana et al. 2024, arXiv 2401.00448, equation 3),
    searched numerically for any law, for its estimates and for all its draws at once. For ``E + A/params^alpha +
    B/tokens^beta`` without inference this is ``params = G (flops/6)^(beta/(alpha+beta))`` with
    ``G = (alpha A/(beta B))^(1/(alpha+beta))``.

    One of four questions is asked with one of `flops` (the best use of a budget), `params` (the tokens, and so the
    budget, for which a given size is best), `tokens` (the size for which given data are best) or `target` (the cheapest
    way to a loss). Two of `flops`, `params` and `tokens` describe a choice: the result is then the optimum of its
    budget, and its `choice` says what the choice costs against it.

    Args:
        fit: A fitted law, or published constants (``laws.get("chinchilla").known("besiroglu")``).
        flops: Compute budget in FLOPs, training and inference together.
        params: Size of the model, counted as in the fit (`active_params` for laws that take it).
        tokens: Training tokens, repeats included.
        inference_tokens: Tokens the model will process after training; each costs a third of a training token.
        target: Loss to be reached.
        unique_tokens: Distinct training tokens there are. Laws with this input count repeats; for others it only serves
            to report epochs.
        level: Probability of the intervals.
        flops_per_token: Training FLOPs per token as an increasing function of an array of sizes, for counting with
            attention (Bi et al. 2024, arXiv 2401.02954); keyword-only arguments it names are taken from `given`. Left
            out, 6 per active parameter (with a total count and a sparsity in the law, ``params (1 - sparsity)``).
        given: The law's other inputs: a number, a function of ``(params, tokens)``, or several numbers, of which the
            best is chosen, such as ``{"experts": [8, 16, 64]}``; several only with
            `flops` or `target` alone.
        bounds: Least and greatest size allowed; left out, 1 to 1e20.
        minima: IsoFLOP minima to compare with; left out, those of the fit's own points where it has them.
        draws: Draws of the parameters behind the intervals.
        seed: Seed of the draws.

    Returns:
        The allocation, with a status and a message, never an exception, where the loss has no optimum.

    Raises:
        ValueError: An argument is not a positive number, none or too many of the four questions are asked, or the law
            cannot split a budget or needs inputs that were not given.
        TypeError: `fit` is not a fit, or `minima` are none.

    Example:
        >>> from lightning_scaling import allocate, laws
        >>> best = allocate(laws.get("chinchilla").known("besiroglu"), flops=1e21)
        >>> f"{best.params / 1e9:.2f}B parameters, {best.tokens / 1e9:.0f}B tokens"
        '2.78B parameters, 60B tokens'
    """
    _check_types(fit, minima)
    request = _request(flops, params, tokens, target)
    level = probability("level", level)
    inference_tokens = positive("inference_tokens", inference_tokens, zero=True)
    tasks = _tasks(fit, given, unique_tokens, inference_tokens, flops_per_token)
    if len(tasks) > 1 and request.names not in {("flops",), ("target",)}:
        raise ValueError(
            "Several values in `given` compete at one budget or for one loss: give `flops` or `target` alone, not "
            f"{' and '.join(request.names)}."
        )
    limits = None if request.names == ("params",) else _limits(bounds)
    rows, vary = parameter_rows(fit.params, fit.draws(count=int(positive("draws", draws)), seed=seed))
    budget = _budget(tasks[0], request)
    solutions = [_solve(task, rows, request, budget, limits) for task in tasks]
    order = sorted(range(len(tasks)), key=lambda i: _rank(solutions[i], request))
    task, best = tasks[order[0]], solutions[order[0]]
    comparison = _compare(fit, task, rows, vary, best, minima)
    alternatives = tuple(_alternative(tasks[i], solutions[i]) for i in order) if len(tasks) > 1 else ()
    extrapolation = extrapolation_of(fit, task, best)
    seen = (alternatives, comparison, extrapolation)
    status, message = assess(fit, task, best, *seen, limits, request.names, request.target)
    there = status != Status.NO_OPTIMUM
    return Allocation(
        **_values(task, best, budget, there),
        extrapolation=extrapolation if there else math.nan,
        status=status,
        message=message,
        law=fit.law.name,
        size=task.size,
        level=level,
        inference_tokens=task.inference_tokens,
        unique_tokens=task.unique_tokens,
        given=dict(task.extras),
        alternatives=alternatives,
        choice=_choice(task, rows, request, budget, limits) if there else None,
        comparison=comparison,
        _fit=fit,
        _task=task,
        _draws=Optimum(*(array[1:] for array in vars(best).values())) if vary else None,
        _bounds=limits,
        _fixed=("flops",) if budget is not None else ("loss",) if request.target is not None else request.names,
    )


def _check_types(fit: Any, minima: Any) -> None:
    if not hasattr(fit, "draws") or not hasattr(fit, "law"):
        raise TypeError(
            "`fit` must be a fitted law, such as law.fit(data), laws.load(path) or law.known('name') for published "
            f"constants, but got {type(fit).__name__}."
        )
    if minima is not None and not isinstance(minima, IsoflopMinima):
        raise TypeError(f"`minima` must come from isoflop_minima, but is of type {type(minima).__name__}.")


def _choice(task: Task, rows: Values, request: _Request, budget: float | None, limits: Bounds) -> Choice | None:
    """What the described choice costs against the optimum of its budget; ``None`` where none is described."""
    if len(request.names) != 2 or budget is None:
        return None
    point = {name: value[:1] for name, value in rows.items()}
    return weigh(task, point, _chosen_size(task, request, budget), budget, limits)


def _values(task: Task, best: Optimum, budget: float | None, there: bool) -> dict[str, float]:
    """The numbers of the optimum; nan where there is none."""
    found = {
        "params": best.size,
        "tokens": best.tokens,
        "flops": best.flops,
        "loss": best.loss,
        "exponent": best.exponent,
        "training_flops": task.training_flops(best.size[:1], best.tokens[:1]),
    }
    values = {name: float(array[0]) if there else math.nan for name, array in found.items()}
    return values if budget is None else values | {"flops": budget}


def _request(flops: Any, params: Any, tokens: Any, target: Any) -> _Request:
    given = {"flops": flops, "params": params, "tokens": tokens, "target": target}
    request = _Request(**{name: None if value is None else positive(name, value) for name, value in given.items()})
    if len(request.names) == 1 or (len(request.names) == 2 and request.target is None):
        return request
    said = "nothing" if not request.names else " and ".join(request.names)
    raise ValueError(
        "Give one of `flops` (a budget), `params` (a size), `tokens` (data) or `target` (a loss), or two of the first "
        f"three to weigh a choice; got {said}."
    )


def _tasks(
    fit: Fit,
    given: Mapping[str, Any] | None,
    unique_tokens: float | None,
    inference_tokens: float,
    flops_per_token: PerToken | None,
) -> list[Task]:
    values = dict(given or {})
    check_law(fit.law, any(callable(value) for value in values.values()))
    unique = None if unique_tokens is None else positive("unique_tokens", unique_tokens)
    options: list[list[Extra]] = []
    for name, value in values.items():
        if callable(value):
            options.append([value])
            continue
        numbers = np.ravel(np.asarray(value, dtype=object))
        if not len(numbers):
            raise ValueError(f"given[{name!r}] is empty: give at least one value.")
        zero = name in fit.law.zero_allowed or name == "sparsity"
        options.append([positive(f"given[{name!r}]", number, zero=zero) for number in numbers])
    extras = (dict(zip(values, combination, strict=True)) for combination in itertools.product(*options))
    return [Task(fit.law, size_input(fit.law), one, unique, inference_tokens, flops_per_token) for one in extras]


def _limits(bounds: Any) -> Bounds:
    if bounds is None:
        return None
    try:
        lower, upper = bounds
    except (TypeError, ValueError):
        raise ValueError(f"`bounds` must be the least and the greatest size allowed, but got {bounds!r}.") from None
    lower, upper = positive("bounds", lower), positive("bounds", upper)
    if not lower < upper:
        raise ValueError(f"`bounds` must be a least and a greater size, but got {bounds!r}.")
    return lower, upper


def _budget(task: Task, request: _Request) -> float | None:
    """The budget asked about: given, or that of a choice of size and tokens."""
    if request.flops is not None or request.params is None or request.tokens is None:
        return request.flops
    size, tokens = np.array([request.params]), np.array([request.tokens])
    return float(task.flops(size, tokens)[0])


def _chosen_size(task: Task, request: _Request, budget: float) -> float:
    """The size of a choice; where budget and tokens are given, the one whose training costs what is left."""
    if request.params is not None:
        return request.params
    tokens = np.array([request.tokens])

    def reached(log_size: float) -> bool:
        return not task.flops(np.array([math.exp(log_size)]), tokens)[0] < budget

    return math.exp(0.5 * sum(halve(reached, math.log(1e-2), math.log(1e24))))


def _solve(task: Task, rows: Values, request: _Request, budget: float | None, limits: Bounds) -> Optimum:
    if budget is not None:
        return at_flops(task, rows, np.full((len(next(iter(rows.values()))), 1), budget), limits)
    if request.params is not None:
        return at_size(task, rows, request.params)
    if request.tokens is not None:
        return at_tokens(task, rows, request.tokens, limits)
    return at_loss(task, rows, float(request.target or 0.0), limits)


def _rank(best: Optimum, request: _Request) -> float:
    value = float(best.flops[0] if request.target is not None else best.loss[0])
    return value if math.isfinite(value) else math.inf


def _alternative(task: Task, best: Optimum) -> Alternative:
    numbers = {name: value for name, value in task.extras.items() if not callable(value)}
    return Alternative(numbers, float(best.size[0]), float(best.tokens[0]), float(best.flops[0]), float(best.loss[0]))


def _compare(
    fit: Fit, task: Task, rows: Values, vary: bool, best: Optimum, minima: IsoflopMinima | None
) -> Comparison | None:
    """Law against minima at the training budget, without the pull of inference, which the minima do not know."""
    found = minima if minima is not None else minima_of(fit, task.flops_per_token)
    if found is None or found.status == MinimaStatus.NO_MINIMUM or best.edge[0] or not math.isfinite(best.flops[0]):
        return None
    plain = replace(task, inference_tokens=0.0)
    training = float(task.training_flops(best.size[:1], best.tokens[:1])[0])
    return compare(plain, rows, vary, found, training)
