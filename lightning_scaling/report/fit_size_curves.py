"""Laws of a size and something else: a curve for each of some sizes, and the best size at every budget."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lightning_scaling.laws.form import UNITS, FunctionalForm
from lightning_scaling.laws.results import Fit
from lightning_scaling.report.numbers import count

Array = NDArray[np.float64]

_MOST_SIZES = 8
_MOST_CURVES = 24
_SAME_SIZE = 0.05
_STEADY = 0.02
_BUDGETS = 13
_BEYOND = 10.0
_GRID = 60


@dataclass(frozen=True, eq=False)
class Curve:
    """The law along the horizontal axis.

    Attributes:
        x: Places, shape ``(m,)``.
        y: What the law says there.
        inside: Whether they lie within what was fitted on.
        size: Size of the model, or None.
        lower: Lower end of the interval of a new observation, or None.
        upper: Its upper end, or None.
        hover: What to say at each place beyond its two coordinates; empty when nothing.
    """

    x: Array
    y: Array
    inside: NDArray[np.bool_]
    size: float | None = None
    lower: Array | None = None
    upper: Array | None = None
    hover: tuple[str, ...] = ()

    @property
    def middle(self) -> tuple[float, float]:
        """A place half-way along the part that lies inside, for its name."""
        places = np.flatnonzero(self.inside)
        at = int(places[len(places) // 2])
        return float(self.x[at]), float(self.y[at])


@dataclass(frozen=True)
class Spent:
    """The horizontal axis: what was spent at each point.

    Attributes:
        at: Amount at each point, shape ``(n,)``.
        label: What is counted.
        along: The input that grows along a curve of one size.
        compute: Whether the axis counts training FLOPs.
    """

    at: Array
    label: str
    along: str
    compute: bool


def size_name(law: FunctionalForm) -> str | None:
    """The input that counts the size of the model, or None."""
    return next((name for name in ("active_params", "params") if name in law.inputs), None)


def _active(law: FunctionalForm, inputs: Mapping[str, Array]) -> Array:
    """Parameters that a token passes through."""
    if "active_params" in law.inputs:
        return inputs["active_params"]
    if "sparsity" in law.inputs and law.unit("params") == UNITS["params"]:
        return np.asarray(inputs["params"] * (1.0 - inputs["sparsity"]))
    return inputs["params"]


def spent(law: FunctionalForm, inputs: Mapping[str, Array]) -> Spent | None:
    """What to draw a law of a size and something else against, or None when it has no such axis.

    Args:
        law: A law with the input `params` or `active_params`.
        inputs: Its inputs at the points.
    """
    if "flops" in law.inputs:
        return Spent(inputs["flops"], UNITS["flops"], "flops", compute=True)
    if "tokens" in law.inputs:
        return Spent(6.0 * _active(law, inputs) * inputs["tokens"], _compute_label(law), "tokens", compute=True)
    if len(law.inputs) == 2:
        other = next(name for name in law.inputs if name != size_name(law))
        if np.all(inputs[other] > 0):
            return Spent(inputs[other], law.unit(other), other, compute=False)
    return None


def _compute_label(law: FunctionalForm) -> str:
    size = "active params" if "active_params" in law.inputs or "sparsity" in law.inputs else "params"
    return f"training compute (FLOPs), 6 x {size} x tokens"


def draw_sizes(
    fit: Fit, inputs: Mapping[str, Array], where: Spent, name: str, level: float
) -> tuple[tuple[Curve, ...], Curve | None, str]:
    """The law's curve for each of at most eight sizes, the best use of every budget, and how to read them.

    Args:
        fit: The fit.
        inputs: The inputs at the points drawn.
        where: The horizontal axis.
        name: The input that counts the size.
        level: Probability of the band around the best.
    """
    groups, whole = _groups(inputs[name])
    others = [other for other in fit.law.inputs if other not in (name, where.along)]
    parts = [part for rows in groups for part in _alike(inputs, others, rows)]
    split = len(groups) < len(parts) <= _MOST_CURVES
    loose = sorted({other for other in others for rows in groups if not _steady(inputs[other][rows])})
    curves = []
    for rows in groups:
        size = float(np.exp(np.median(np.log(inputs[name][rows]))))
        for part in _alike(inputs, others, rows) if split else [rows]:
            curves.append(_curve(fit, inputs, where, name, size, part))
    note = "a curve per size" if whole else f"curves at {len(groups)} of the sizes"
    if loose:
        note += f" and {', '.join(loose)}" if split else f", {', '.join(loose)} at the median"
    frontier = None
    if where.compute and all(_steady(inputs[other]) for other in others):
        frontier, doubt = _frontier(fit, inputs, where, name, others, level)
        note += doubt
    if frontier is not None and frontier.lower is not None:
        note += f"; black: the least loss for each budget; band: {level:.0%} range of a new run"
    return tuple(curves), frontier, note


def _steady(values: Array) -> bool:
    return bool(np.ptp(values) <= _STEADY * np.max(np.abs(values)))


def _groups(size: Array) -> tuple[list[NDArray[np.intp]], bool]:
    """Rows of like size: by the sizes there are, or by a few stretches of the logarithm when there are too many."""
    log = np.log(size)
    order = np.argsort(log, kind="stable")
    cuts = np.flatnonzero(np.diff(log[order]) > _SAME_SIZE) + 1
    groups = np.split(order, cuts)
    if len(groups) <= _MOST_SIZES:
        return groups, True
    edges = np.linspace(log.min(), log.max(), _MOST_SIZES + 1)
    place = np.clip(np.searchsorted(edges, log, side="right") - 1, 0, _MOST_SIZES - 1)
    return [np.flatnonzero(place == j) for j in range(_MOST_SIZES) if np.any(place == j)], False


def _alike(inputs: Mapping[str, Array], others: Sequence[str], rows: NDArray[np.intp]) -> list[NDArray[np.intp]]:
    """Rows of one size, parted by the values of the other inputs."""
    if not others:
        return [rows]
    values = np.array([[float(f"{inputs[other][row]:.3g}") for other in others] for row in rows])
    place = np.unique(values, axis=0, return_inverse=True)[1].ravel()
    return [rows[place == j] for j in range(int(place.max()) + 1)]


def _curve(
    fit: Fit, inputs: Mapping[str, Array], where: Spent, name: str, size: float, rows: NDArray[np.intp]
) -> Curve:
    along = inputs[where.along][rows]
    low, high = float(along.min()), float(along.max())
    room = 1.1 if high / low > 1.5 else 1.6
    x = np.geomspace(low / room, high * room, _GRID)
    given: dict[str, Array] = {}
    for other in fit.law.inputs:
        value = np.full(_GRID, float(np.median(inputs[other][rows])))
        given[other] = x if other == where.along else np.full(_GRID, size) if other == name else value
    if where.along == "flops" and "tokens" in given:
        given["tokens"] = x / (6.0 * _active(fit.law, given))
    place = 6.0 * _active(fit.law, given) * x if where.along == "tokens" else x
    return Curve(place, fit.predict(**given), np.ones(_GRID, dtype=bool), size)


def _frontier(
    fit: Fit, inputs: Mapping[str, Array], where: Spent, name: str, others: Sequence[str], level: float
) -> tuple[Curve | None, str]:
    """The least loss at every budget and up to a decade beyond, with the interval there, and what speaks against it."""
    if not fit.ok or _steady(inputs[name]):
        return None, ""
    try:
        from lightning_scaling.allocation import allocate
    except ImportError:
        return None, ""
    given = {other: float(np.median(inputs[other])) for other in others}
    unique = given.pop("unique_tokens", None)
    low, high = float(where.at.min()), float(where.at.max())
    budgets = np.unique([*np.geomspace(low, high, _BUDGETS), *np.geomspace(high, high * _BEYOND, 5)])
    found = []
    for budget in budgets:
        try:
            best = allocate(fit, flops=float(budget), unique_tokens=unique, given=given, draws=1)
        except (TypeError, ValueError):
            return None, ""
        if math.isfinite(best.params) and math.isfinite(best.loss) and best.status not in ("no_optimum", "at_bounds"):
            found.append((float(budget), best))
    if len(found) < 3:
        return None, ""
    x = np.array([budget for budget, _ in found])
    inside = x <= high * (1 + 1e-9)
    size, tokens = (np.array([getattr(best, what) for _, best in found]) for what in ("params", "tokens"))
    values: dict[str, Array] = {other: np.full(len(x), value) for other, value in given.items()}
    values |= {name: size, "tokens": tokens, "flops": x}
    if unique is not None:
        values["unique_tokens"] = np.full(len(x), unique)
    there: dict[str, Any] = {other: values[other] for other in fit.law.inputs}
    lower, upper = fit.interval(level, **there)
    told = tuple(f"{name} {count(s)}<br>tokens {count(t)}" for s, t in zip(size, tokens, strict=True))
    banded = bool(np.all(np.isfinite(lower)) and np.all(np.isfinite(upper)))
    doubt = "; the runs' own minima contradict the frontier" if found[-1][1].status == "contradicted" else ""
    best_loss = np.array([best.loss for _, best in found])
    return Curve(x, best_loss, inside, None, lower if banded else None, upper if banded else None, told), doubt
