"""Points of a fit: read from any table, validated, with a count of the rows left out."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from lightning_scaling.laws.arrays import Array, Bools, Ints
from lightning_scaling.laws.form import FunctionalForm

_LIKELY_LEAST = {"params": 1e3, "active_params": 1e3, "tokens": 1e4, "unique_tokens": 1e4, "flops": 1e8}

_FRONTIER_WIDTH = 0.02
_FRONTIER_REACH = 2.0
_SAME_COMPUTE = 1.02


@dataclass(frozen=True)
class Points:
    """Usable points.

    Attributes:
        inputs: Every input of the law, each of shape ``(n,)``.
        y: What the law predicts, shape ``(n,)``.
        weights: Weights, the greatest 1, shape ``(n,)``.
        groups: Number of the group (run) of each point, shape ``(n,)``, or None.
        given: How many points were given.
        dropped: How many were left out, by reason.
        warnings: What looks wrong without being impossible.
    """

    inputs: Mapping[str, Array]
    y: Array
    weights: Array
    groups: Ints | None = None
    given: int = 0
    dropped: Mapping[str, int] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.y)

    @property
    def ranges(self) -> dict[str, tuple[float, float]]:
        """Least and greatest value of every input."""
        return {name: (float(v.min()), float(v.max())) for name, v in self.inputs.items()}


def known_names(argument: str, given: Mapping[str, Any] | None, what: str, names: Sequence[str]) -> Mapping[str, Any]:
    """The mapping that an argument gave by name, empty for None.

    Raises:
        ValueError: It has other names.
    """
    unknown = [repr(name) for name in given or {} if name not in names]
    if unknown:
        raise ValueError(f"`{argument}` names {', '.join(unknown)}, but the {what} are {', '.join(names)}.")
    return given or {}


def column(data: Any, name: str, purpose: str) -> Array:
    """One column of a mapping or table as floats, copied only when needed.

    Raises:
        TypeError: `data` has no columns.
        ValueError: The column is missing, not one-dimensional or not of numbers.
    """
    return _numbers(_raw(data, name, purpose), f"{purpose} ({name!r})")


def _raw(data: Any, name: str, purpose: str) -> Any:
    if not hasattr(data, "__getitem__") or isinstance(data, (str, bytes, Sequence, np.ndarray)):
        raise TypeError(
            f"`data` must be a mapping of arrays or a table with named columns, but got {type(data).__name__}."
        )
    try:
        return data[name]
    except (KeyError, IndexError):
        names = data.keys() if hasattr(data, "keys") else getattr(data, "columns", [])
        known = ", ".join(map(str, names)) or "none"
        raise ValueError(
            f"`data` has no column {name!r} for the {purpose}; it has {known}. Rename it or name it in `columns`."
        ) from None


def _numbers(values: Any, what: str) -> Array:
    if hasattr(values, "detach"):
        values = values.detach().cpu()
        values = values.double().numpy() if hasattr(values, "double") else values
    try:
        array = np.atleast_1d(np.asarray(values, dtype=np.float64))
    except (TypeError, ValueError):
        text = repr(np.asarray(values).ravel()[:3].tolist())
        excerpt = text if len(text) < 80 else text[:77] + "..."
        raise ValueError(f"The {what} must hold numbers, but got {excerpt}.") from None
    if array.ndim != 1:
        raise ValueError(f"The {what} must be one-dimensional, but has shape {array.shape}.")
    return array


def read(
    law: FunctionalForm,
    data: Any,
    loss: str,
    weights: Any = None,
    columns: Mapping[str, str] | None = None,
    groups: Any = None,
    space: str = "log",
) -> Points:
    """Take what a law needs from a table, leaving out rows that cannot be used.

    Args:
        law: The law.
        data: Mapping of arrays, DataFrame, or anything indexable by column name.
        loss: Column of what the law predicts.
        weights: Weights of the points, or the name of a column; left out, all equal.
        columns: Column by input, where names differ.
        groups: Column (or values) that says which points belong together.
        space: Scale of the residuals; in ``"log"`` what is predicted must be positive.

    Returns:
        The points.

    Raises:
        TypeError: `data` has no columns.
        ValueError: A column is missing, lengths differ, or no usable point is left.
    """
    columns = known_names("columns", columns, f"inputs of {law.name}", law.inputs)
    arrays = {name: column(data, columns.get(name, name), f"input {name!r}") for name in law.inputs}
    y = column(data, loss, law.output)
    frontier = isinstance(weights, str) and weights == "frontier"
    w = np.ones(len(y)) if frontier else _weights(data, weights, len(y))
    lengths = {name: len(values) for name, values in {**arrays, law.output: y}.items()}
    if len(set(lengths.values())) > 1:
        given = ", ".join(f"{name} {size}" for name, size in lengths.items())
        raise ValueError(f"The columns of `data` must be equally long, but got {given}.")
    good, dropped = _usable(law, arrays, y, w, space)
    if not good.any():
        reasons = ", ".join(f"{count} with {reason}" for reason, count in dropped.items())
        raise ValueError(f"`data` has no usable point for {law.name}: {reasons or 'it is empty'}.")
    inputs = {name: values[good] for name, values in arrays.items()}
    w = _frontier(law, inputs, y[good]) if frontier else w[good]
    labels = _labels(data, groups, good)
    return Points(inputs, y[good], w / w.max(), labels, len(y), dropped, _unit_warnings(inputs))


def _weights(data: Any, weights: Any, count: int) -> Array:
    if weights is None:
        return np.ones(count)
    values = column(data, weights, "weights") if isinstance(weights, str) else _numbers(weights, "weights")
    if len(values) != count:
        raise ValueError(f"`weights` must have one value per point ({count}), but has {len(values)}.")
    if np.any(values < 0):
        raise ValueError(f"`weights` must not be negative, but the least is {values.min():g}.")
    return values


def _frontier(law: FunctionalForm, inputs: Mapping[str, Array], y: Array) -> Array:
    if not {"params", "tokens"} <= set(law.inputs):
        raise ValueError(
            f"weights='frontier' needs a law of params and tokens, but {law.name} has {', '.join(law.inputs)}."
        )
    return frontier_weights(inputs["params"], inputs["tokens"], y)


def _labels(data: Any, groups: Any, good: Bools) -> Ints | None:
    """Numbers of the groups of the usable points."""
    if groups is None:
        return None
    values = np.asarray(_raw(data, groups, "groups") if isinstance(groups, str) else groups)
    if values.shape != good.shape:
        raise ValueError(f"`groups` must have one label per point ({len(good)}), but has shape {values.shape}.")
    values = values[good]
    return np.unique(values.astype(str) if values.dtype == object else values, return_inverse=True)[1]


def _usable(
    law: FunctionalForm, arrays: Mapping[str, Array], y: Array, w: Array, space: str
) -> tuple[Bools, dict[str, int]]:
    checks = [(~np.isfinite(y), f"{law.output} not finite")]
    if space == "log":
        checks.append((y <= 0, f"{law.output} not positive"))
    for name, values in arrays.items():
        zero = name in law.zero_allowed
        checks.append((~np.isfinite(values), f"{name} not finite"))
        checks.append((values < 0, f"{name} negative") if zero else (values <= 0, f"{name} not positive"))
    checks.append((~(np.isfinite(w) & (w > 0)), "no weight"))
    good = np.ones(len(y), dtype=bool)
    dropped: dict[str, int] = {}
    for bad, reason in checks:
        if count := int(np.sum(good & bad)):
            dropped[reason] = count
            good &= ~bad
    return good, dropped


def _unit_warnings(inputs: Mapping[str, Array]) -> tuple[str, ...]:
    found = []
    for name, least in _LIKELY_LEAST.items():
        largest = float(inputs[name].max()) if name in inputs else math.inf
        if largest < least:
            unit = "billions" if largest < 1e3 else "millions" if largest < 1e5 else "other units"
            found.append(
                f"the largest {name} is {largest:g}: inputs are counted in units of one, so if these are {unit}, "
                "multiply them out first"
            )
    return tuple(found)


def unit_of(quantity: str | None, inputs: Mapping[str, Array], y: Array) -> float:
    """In what a parameter is counted (:attr:`Parameter.of`): the least loss, an input's geometric mean, or 1."""
    if quantity is None:
        return 1.0
    if quantity == "loss":
        return float(np.min(np.abs(y))) or 1.0
    positive = inputs[quantity][inputs[quantity] > 0]
    return math.exp(float(np.mean(np.log(positive)))) if len(positive) else 1.0


def frontier_weights(
    params: Any, tokens: Any, loss: Any, *, width: float = _FRONTIER_WIDTH, reach: float = _FRONTIER_REACH
) -> Array:
    """Weights for runs near the compute-optimal frontier, and near the greatest compute.

    ``1 / (1 + (excess/width)^2) / (1 + (ln(C_max/C)/reach)^2)``. Runs far above the frontier, too large for their data
    or stopped in their warm-up, follow no power law; being half of many ladders they are no outliers that a robust
    objective would ignore, and decide the exponents if all runs count alike.

    Args:
        params: Model sizes, shape ``(n,)``.
        tokens: Training tokens, shape ``(n,)``.
        loss: Losses, positive, shape ``(n,)``.
        width: Excess, in log loss over the best run of no more compute, at which a weight is halved.
        reach: Distance below the greatest compute, in natural logarithms, at which a weight is halved.

    Returns:
        The weights, between 0 and 1, shape ``(n,)``.
    """
    compute = np.asarray(params, dtype=np.float64) * np.asarray(tokens, dtype=np.float64)
    log_loss = np.log(np.asarray(loss, dtype=np.float64))
    order = np.argsort(compute, kind="stable")
    best = np.minimum.accumulate(log_loss[order])
    last = np.searchsorted(compute[order], compute * _SAME_COMPUTE, side="right") - 1
    excess = log_loss - best[last]
    below = np.log(compute.max() / compute)
    return np.asarray(1.0 / (1.0 + (excess / width) ** 2) / (1.0 + (below / reach) ** 2))
