"""Minimisation problem of a law and points: coordinates, residuals and derivatives."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np

from lightning_scaling.laws.arrays import Array, Ints
from lightning_scaling.laws.data import Points, unit_of
from lightning_scaling.laws.form import FunctionalForm, Parameter
from lightning_scaling.laws.options import Settings
from lightning_scaling.laws.solvers.dual import Dual, plain
from lightning_scaling.laws.solvers.levenberg import Minimum, minimize

_LOG_LIMIT = 360.0
_LOG_REACH = 4.0
_PRIOR_REACH = 3.0


def differentiate(
    law: FunctionalForm,
    params: Mapping[str, Any],
    free: Sequence[Parameter],
    x: Mapping[str, Any],
    shape: tuple[int, int],
    space: str,
) -> tuple[Array, Array]:
    """A law and its derivatives by the coordinates of its free parameters.

    Args:
        law: The law.
        params: Values of all parameters, those of free ones of shape ``(b, 1)``.
        free: Parameters to differentiate by, with respect to their logarithm where they have one as coordinate.
        x: Inputs and features.
        shape: Number ``b`` of parameter sets and ``n`` of points.
        space: ``"log"`` for the logarithm of the law, ``"linear"`` for the law itself.

    Returns:
        Values that broadcast to ``(b, n)``, and derivatives of shape ``(b, free, n)``, 0 where they are not finite.
    """
    p = dict(params)
    for j, parameter in enumerate(free):
        v = p[parameter.name]
        p[parameter.name] = Dual(v, {j: v if parameter.log else np.ones_like(v)})
    jac = np.zeros((shape[0], len(free), shape[1]))
    with np.errstate(all="ignore"):
        out = law.value(SimpleNamespace(**p), SimpleNamespace(**x))
        value: Array = plain(out)
        slope: Any = 1.0
        if space == "log":
            value, slope = np.log(value), 1.0 / value
        if isinstance(out, Dual):
            for j, d in out.der.items():
                jac[:, j, :] = d * slope
    np.copyto(jac, 0.0, where=~np.isfinite(jac))
    return value, jac


@dataclass
class Problem:
    """``b`` fits of one law.

    Attributes:
        law: The law.
        inputs: Inputs, each of shape ``(n,)`` or ``(b, n)``.
        y: Observations, shape ``(n,)`` or ``(b, n)``.
        weights: Weights, shape ``(n,)`` or ``(b, n)``; zero for places without a point.
        settings: Objective, space, fixed parameters, bounds and priors.
        scale: Weight of a squared standard deviation of a prior in the objective: the variance of a residual for
            least squares, its analogue for other objectives.
        size: Number of points per fit.
        free: The parameters that are not fixed.
        names: Their names.
        log: Which of their coordinates are logarithms, shape ``(p,)``.
        ranges: By name, the range that the search for a start covers and the bounds.
        lower: Lower bounds of the coordinates, shape ``(p,)``.
        upper: Upper bounds, likewise.
        priors: Index, centre and standard deviation of the logarithm of the free parameters with a prior.
        target: What residuals are taken from, of the shape of `y`.
        x: Inputs and features.
    """

    law: FunctionalForm
    inputs: Mapping[str, Array]
    y: Array
    weights: Array
    settings: Settings
    scale: float = 0.0

    def __post_init__(self) -> None:
        settings = self.settings
        self.size = int(self.y.shape[-1])
        self.x = self.law.features(self.inputs)
        self.free = [p for p in self.law.parameters if p.name not in settings.fixed]
        self.names = [p.name for p in self.free]
        self.log = np.array([p.log for p in self.free], dtype=bool)
        self.ranges = {p.name: self._ranges(p) for p in self.free}
        self.reach = np.array([self._reach(p) for p in self.free])
        self.priors = [(j, *settings.priors[name]) for j, name in enumerate(self.names) if name in settings.priors]
        self.target = np.log(self.y) if settings.space == "log" else self.y
        limits = np.array([self.ranges[name][1] for name in self.names]).reshape(-1, 2).T
        with np.errstate(divide="ignore", invalid="ignore"):
            inner = np.where(self.log, np.log(np.maximum(limits, 0.0)), limits)
        open_ended = self.log & ~np.isfinite(inner)
        self.lower, self.upper = np.where(open_ended, [[-_LOG_LIMIT], [_LOG_LIMIT]], inner)

    def _ranges(self, p: Parameter) -> tuple[tuple[float, float], tuple[float, float]]:
        unit = unit_of(p.of, self.inputs, self.y)
        low, high = self.settings.bounds.get(p.name, (p.lower * unit, p.upper * unit))
        first, last = max(p.start[0] * unit, low), min(p.start[1] * unit, high)
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

    def to_parameters(self, u: Array) -> Array:
        """Parameters from coordinates."""
        with np.errstate(over="ignore"):
            return np.where(self.log, np.exp(np.where(self.log, u, 0.0)), u)

    def to_coordinates(self, values: Array) -> Array:
        """Coordinates from parameters, kept inside the bounds."""
        with np.errstate(divide="ignore", invalid="ignore"):
            inner = np.where(self.log, np.log(np.where(self.log, np.maximum(values, 1e-300), 1.0)), values)
        return np.clip(inner, self.lower, self.upper)

    def model(self, u: Array, rows: Ints | None = None) -> tuple[Array, Array]:
        """Residuals (law minus observation) and their derivatives, for :func:`minimize`.

        Args:
            u: Coordinates, shape ``(r, p)``.
            rows: To which of many curves they belong, shape ``(r,)``; may be left out with one curve.

        Returns:
            Residuals of shape ``(r, n)`` and derivatives of shape ``(r, p, n)``.
        """
        values = self.to_parameters(u)
        params = {**self.settings.fixed} | {name: values[:, j : j + 1] for j, name in enumerate(self.names)}
        x = {name: self._take(value, rows) for name, value in self.x.items()}
        shape = len(u), self.size
        value, jac = differentiate(self.law, params, self.free, x, shape, self.settings.space)
        with np.errstate(all="ignore"):
            r = np.subtract(value, self._take(self.target, rows), out=np.empty(shape))
        return r, jac

    def residuals(self, u: Array) -> Array:
        """Residuals of a single fit at coordinates of shape ``(p,)``."""
        return np.asarray(self.model(u[None])[0][0])

    def _take(self, value: Any, rows: Ints | None) -> Any:
        many = self.y.ndim == 2 and np.ndim(value) >= 2 and np.shape(value)[0] == self.y.shape[0]
        return value[rows] if many else value

    def within_prior(self, u: Array) -> Array:
        """Coordinates brought within three standard deviations of their priors, where the penalty is finite."""
        result = np.array(u)
        for j, centre, spread in self.priors:
            ends = centre * np.exp(np.array([-_PRIOR_REACH, _PRIOR_REACH]) * spread)
            result[:, j] = np.clip(result[:, j], *(np.log(ends) if self.log[j] else ends))
        return np.clip(result, self.lower, self.upper)

    def penalty(self, u: Array) -> tuple[Array, Array, Array]:
        """What the priors add to the objective, its gradient and curvature, for :func:`minimize`."""
        total, gradient, curvature = np.zeros(len(u)), np.zeros_like(u), np.zeros_like(u)
        for j, centre, spread in self.priors:
            weight = self.scale / spread**2
            with np.errstate(divide="ignore", invalid="ignore"):
                away = (u[:, j] if self.log[j] else np.log(np.maximum(u[:, j], 0.0))) - np.log(centre)
                slope = np.ones(len(u)) if self.log[j] else 1.0 / np.maximum(u[:, j], 1e-300)
            total += 0.5 * weight * away**2
            gradient[:, j] = weight * away * slope
            curvature[:, j] = weight * slope**2
        return total, gradient, curvature

    def descend(self, start: Array, **options: Any) -> Minimum:
        """Minimise from given coordinates.

        Args:
            start: Coordinates, shape ``(b, p)``.
            **options: Arguments of :func:`minimize` that win over the problem's own, such as ``steps`` or ``weights``.
        """
        own: dict[str, Any] = {"objective": self.settings.objective, "weights": self.weights, "reach": self.reach}
        bounds = {"lower": self.lower, "upper": self.upper}
        penalty = self.penalty if self.priors and self.scale > 0 else None
        return minimize(self.model, start, penalty=penalty, **(own | bounds | options))


def problem_of(law: FunctionalForm, points: Points, settings: Settings) -> Problem:
    """The minimisation that a fit with these settings solves."""
    return Problem(law, points.inputs, points.y, points.weights, settings)
