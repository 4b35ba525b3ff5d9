"""Minimisation problem of a law and points: coordinates, residuals and derivatives."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lightning_scaling.laws.data import Points, typical
from lightning_scaling.laws.form import FunctionalForm, Parameter
from lightning_scaling.laws.options import Settings
from lightning_scaling.laws.solvers.dual import Dual, plain
from lightning_scaling.laws.solvers.levenberg import Minimum, minimize
from lightning_scaling.laws.solvers.objectives import Objective

Array = NDArray[np.float64]
Ints = NDArray[np.intp]

_LOG_SPAN = 90.0
_LOG_REACH = 4.0
_PRIOR_REACH = 3.0


@dataclass
class Problem:
    """``b`` fits of one law.

    Attributes:
        law: The law.
        inputs: Inputs, each of shape ``(n,)`` or ``(b, n)``.
        y: Observations, shape ``(n,)`` or ``(b, n)``.
        weights: Weights, shape ``(n,)`` or ``(b, n)``; zero for places without a point.
        objective: What is minimised.
        space: ``"log"``: residuals are differences of logarithms; ``"linear"``: of the values themselves.
        fixed: Parameters that are given.
        bounds: Bounds that replace those of the law.
        priors: Centre and standard deviation of the logarithm of parameters with a prior.
        scale: Weight of a squared standard deviation of a prior in the objective: the variance of a residual for
            least squares, its analogue for other objectives.
    """

    law: FunctionalForm
    inputs: Mapping[str, Array]
    y: Array
    weights: Array
    objective: Objective
    space: str
    fixed: Mapping[str, float]
    bounds: Mapping[str, tuple[float, float]]
    priors: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    scale: float = 0.0

    def __post_init__(self) -> None:
        self.x = self.law.features(self.inputs)
        self.free = [p for p in self.law.parameters if p.name not in self.fixed]
        self.ranges = {p.name: self._ranges(p) for p in self.free}
        self.log = np.array([p.log for p in self.free], dtype=bool)
        self.reach = np.array([self._reach(p) for p in self.free])
        self.target = np.log(self.y) if self.space == "log" else self.y
        limits = np.array([self.ranges[p.name][1] for p in self.free]).reshape(-1, 2)
        self.lower, self.upper = self._inner(limits[:, 0], low=True), self._inner(limits[:, 1], low=False)

    def _ranges(self, p: Parameter) -> tuple[tuple[float, float], tuple[float, float]]:
        unit = 1.0
        if p.of == "loss":
            unit = float(np.min(np.abs(self.y))) or 1.0
        elif p.of is not None:
            unit = typical(np.asarray(self.inputs[p.of]).ravel())
        low, high = self.bounds.get(p.name, (p.lower * unit, p.upper * unit))
        start = (p.start[0] * unit, p.start[1] * unit)
        first, last = max(start[0], low), min(start[1], high)
        if not first < last:
            width = abs(high - low) if np.isfinite(high - low) else 1.0
            first, last = (low, high) if np.isfinite(high - low) else (max(low, -width), max(low, -width) + width)
        return (first, last), (low, high)

    def _reach(self, p: Parameter) -> float:
        """Longest step: none for what is linear, which is solved in one; else what crosses the search range."""
        if p.log:
            return _LOG_REACH
        if p.name in self.law.linear and self.law.link == "identity":
            return np.inf
        return 4.0 * max(1.0, *map(abs, self.ranges[p.name][0]))

    def _inner(self, values: Array, *, low: bool) -> Array:
        with np.errstate(divide="ignore", invalid="ignore"):
            inner = np.where(self.log, np.log(np.maximum(values, 0.0)), values)
        edge = -_LOG_SPAN * 4 if low else _LOG_SPAN * 4
        return np.where(self.log & ~np.isfinite(inner), edge, inner)

    @property
    def size(self) -> int:
        """Number of points per fit."""
        return int(self.y.shape[-1])

    def to_parameters(self, u: Array) -> Array:
        """Parameters from coordinates."""
        with np.errstate(over="ignore"):
            return np.where(self.log, np.exp(np.where(self.log, u, 0.0)), u)

    def to_coordinates(self, values: Array) -> Array:
        """Coordinates from parameters, kept inside the bounds."""
        with np.errstate(divide="ignore", invalid="ignore"):
            inner = np.where(self.log, np.log(np.where(self.log, np.maximum(values, 1e-300), 1.0)), values)
        return np.clip(inner, self.lower, self.upper)

    def model(self, u: Array, rows: Ints) -> tuple[Array, Array]:
        """Residuals (law minus observation) and their derivatives, for :func:`minimize`."""
        values = self.to_parameters(u)
        p: dict[str, Any] = dict(self.fixed)
        for j, parameter in enumerate(self.free):
            v = values[:, j : j + 1]
            p[parameter.name] = Dual(v, {j: v if self.log[j] else np.ones_like(v)})
        x = SimpleNamespace(**{k: self._take(v, rows) for k, v in self.x.items()})
        with np.errstate(all="ignore"):
            out = self.law.value(SimpleNamespace(**p), x)
            val = plain(out)
            shape = (len(u), self.size)
            target = self._take(self.target, rows)
            slope: Any = 1.0
            if self.space == "log":
                slope = 1.0 / val
                val = np.log(val)
            r = val - target
            if r.shape != shape:
                r = np.broadcast_to(r, shape).copy()
            jac = np.zeros((len(u), len(self.free), self.size))
            if isinstance(out, Dual):
                for j, d in out.der.items():
                    jac[:, j, :] = d * slope
        bad = ~np.isfinite(jac)
        if bad.any():
            jac[bad] = 0.0
        return r, jac

    def within_prior(self, u: Array) -> Array:
        """Coordinates brought within three standard deviations of their priors, where the penalty is finite."""
        result = np.array(u)
        for j, p in enumerate(self.free):
            if p.name in self.priors:
                centre, spread = self.priors[p.name]
                ends = centre * np.exp(np.array([-_PRIOR_REACH, _PRIOR_REACH]) * spread)
                result[:, j] = np.clip(result[:, j], *(np.log(ends) if self.log[j] else ends))
        return np.clip(result, self.lower, self.upper)

    def penalty(self, u: Array) -> tuple[Array, Array, Array]:
        """What the priors add to the objective, its gradient and curvature, for :func:`minimize`."""
        total, gradient, curvature = np.zeros(len(u)), np.zeros_like(u), np.zeros_like(u)
        for j, p in enumerate(self.free):
            if p.name not in self.priors:
                continue
            centre, spread = self.priors[p.name]
            weight = self.scale / spread**2
            with np.errstate(divide="ignore", invalid="ignore"):
                away = (u[:, j] if self.log[j] else np.log(np.maximum(u[:, j], 0.0))) - np.log(centre)
                slope = np.ones(len(u)) if self.log[j] else 1.0 / np.maximum(u[:, j], 1e-300)
            total += 0.5 * weight * away**2
            gradient[:, j] = weight * away * slope
            curvature[:, j] = weight * slope**2
        return total, gradient, curvature

    def _take(self, value: Any, rows: Ints) -> Any:
        array = np.asarray(value)
        return array[rows] if array.ndim >= 2 and self.y.ndim == 2 and array.shape[0] == self.y.shape[0] else array

    def descend(
        self,
        start: Array,
        *,
        steps: int = 200,
        tolerance: float = 1e-13,
        weights: Array | None = None,
        lower: Array | None = None,
        upper: Array | None = None,
    ) -> Minimum:
        """Minimise from given coordinates, shape ``(b, p)``."""
        return minimize(
            self.model,
            start,
            self.lower if lower is None else lower,
            self.upper if upper is None else upper,
            self.objective,
            self.weights if weights is None else weights,
            penalty=self.penalty if self.priors and self.scale > 0 else None,
            steps=steps,
            tolerance=tolerance,
            reach=self.reach,
        )


def problem_of(law: FunctionalForm, points: Points, settings: Settings) -> Problem:
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
