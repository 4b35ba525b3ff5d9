"""A law and points as a minimisation: coordinates, residuals, their derivatives, and where to start."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lightning_scaling.laws.base import Law, Parameter
from lightning_scaling.laws.data import typical
from lightning_scaling.laws.solvers.dual import Dual, plain
from lightning_scaling.laws.solvers.levenberg import Minimum, minimize
from lightning_scaling.laws.solvers.objectives import Objective
from lightning_scaling.laws.solvers.starts import cover, solve_linear

Array = NDArray[np.float64]
Ints = NDArray[np.intp]

_THIN = 160
_CELLS = 2_000_000
_STARTS = 4
_THIN_MANY = 48
_LOG_SPAN = 90.0
_LOG_REACH = 4.0
_BELIEF = 3.0


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
        unit: What a squared standard deviation of a prior is worth in the objective: the variance of a residual for
            least squares, its like for others.
    """

    law: Law
    inputs: Mapping[str, Array]
    y: Array
    weights: Array
    objective: Objective
    space: str
    fixed: Mapping[str, float]
    bounds: Mapping[str, tuple[float, float]]
    priors: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    unit: float = 0.0

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

    def outward(self, u: Array) -> Array:
        """Parameters from coordinates."""
        with np.errstate(over="ignore"):
            return np.where(self.log, np.exp(np.where(self.log, u, 0.0)), u)

    def inward(self, values: Array) -> Array:
        """Coordinates from parameters, kept inside the bounds."""
        with np.errstate(divide="ignore", invalid="ignore"):
            inner = np.where(self.log, np.log(np.where(self.log, np.maximum(values, 1e-300), 1.0)), values)
        return np.clip(inner, self.lower, self.upper)

    def model(self, u: Array, rows: Ints) -> tuple[Array, Array]:
        """Residuals (law minus observation) and their derivatives, for :func:`minimize`."""
        values = self.outward(u)
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

    def believable(self, u: Array) -> Array:
        """Coordinates brought within three standard deviations of their priors, where the penalty is finite."""
        result = np.array(u)
        for j, p in enumerate(self.free):
            if p.name in self.priors:
                centre, spread = self.priors[p.name]
                ends = centre * np.exp(np.array([-_BELIEF, _BELIEF]) * spread)
                result[:, j] = np.clip(result[:, j], *(np.log(ends) if self.log[j] else ends))
        return np.clip(result, self.lower, self.upper)

    def penalty(self, u: Array) -> tuple[Array, Array, Array]:
        """What the priors add to the objective, its gradient and curvature, for :func:`minimize`."""
        total, gradient, curvature = np.zeros(len(u)), np.zeros_like(u), np.zeros_like(u)
        for j, p in enumerate(self.free):
            if p.name not in self.priors:
                continue
            centre, spread = self.priors[p.name]
            weight = self.unit / spread**2
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
            penalty=self.penalty if self.priors and self.unit > 0 else None,
            steps=steps,
            tolerance=tolerance,
            reach=self.reach,
        )

    def starts(self, count: int = _STARTS, *, per_axis: int | None = None) -> Array:
        """Coordinates to start from for one fit, best first, shape ``(count, p)``; needs one-dimensional `y`."""
        names = [p.name for p in self.free]
        linear = [n for n in self.law.linear if n in names]
        if self.space == "linear" and self.law.link == "log":
            linear = []
        shape = [p for p in self.free if p.name not in linear]
        points = cover([self.ranges[p.name][0] for p in shape], size=per_axis)
        thin = self._thin()
        score = np.full(len(points), np.inf)
        values = np.zeros((len(points), len(names)))
        for j, p in enumerate(shape):
            values[:, names.index(p.name)] = points[:, j]
        x = {k: (v[thin] if np.ndim(v) and np.shape(v)[0] == self.size else v) for k, v in self.x.items()}
        wide = max([1, *(int(np.size(v)) for v in x.values())])
        chunk = max(1, _CELLS // wide)
        for first in range(0, len(points), chunk):
            part = slice(first, first + chunk)
            coefficients, score[part] = self._project(shape, linear, points[part], x, thin)
            for j, name in enumerate(linear):
                values[part, names.index(name)] = coefficients[:, j]
        order = np.argsort(score, kind="stable")
        order = order[np.isfinite(score[order])]
        if not len(order):
            raise ValueError(
                f"{self.law.name} has no finite value at these points for any plausible parameters; check the units of "
                f"{', '.join(self.law.inputs)}."
            )
        chosen = _apart(order, points, count)
        return self.inward(values[chosen])

    def starts_of_many(self, per_axis: Mapping[int, int]) -> Array:
        """One start for each of many curves, shape ``(b, p)``; needs two-dimensional `y`."""
        names = [p.name for p in self.free]
        linear = [n for n in self.law.linear if n in names]
        if self.space == "linear" and self.law.link == "log":
            linear = []
        shape = [p for p in self.free if p.name not in linear]
        points = cover([self.ranges[p.name][0] for p in shape], size=per_axis.get(len(shape)))
        thin = np.linspace(0, self.size - 1, min(self.size, _THIN_MANY)).astype(int)
        best = np.full(len(self.y), np.inf)
        result = np.zeros((len(self.y), len(names)))
        y, w = self.y[:, thin], self.weights[:, thin]
        x = {k: v[..., thin] if np.shape(v)[-1:] == (self.size,) else v for k, v in self.x.items()}
        for point in points:
            values = {p.name: float(v) for p, v in zip(shape, point, strict=True)}
            coefficients, score = self._project_many(values, linear, x, y, w)
            better = score < best
            best = np.where(better, score, best)
            for j, p in enumerate(self.free):
                if p.name in linear:
                    result[better, j] = coefficients[better, linear.index(p.name)]
                else:
                    result[better, j] = values[p.name]
        return self.inward(result)

    def _project_many(
        self, values: Mapping[str, float], linear: list[str], x: Mapping[str, Any], y: Array, w: Array
    ) -> tuple[Array, Array]:
        p: dict[str, Any] = {**self.fixed, **values}
        log = self.law.link == "log" or (self.space == "log" and not linear)
        inputs = SimpleNamespace(**x)
        with np.errstate(all="ignore"):
            target = np.log(y) if log else y
            scale = np.asarray(w if log or self.space == "linear" else w / y**2)
            if not linear:
                total = np.sum(scale * (self._seen(p, inputs, log) - target) ** 2, axis=-1)
                return np.zeros((len(y), 0)), np.where(np.isfinite(total), total, np.inf)
            zero = dict.fromkeys(self.law.linear, 0.0)
            if len(linear) < len(self.law.linear):
                target = target - self._seen(p | dict.fromkeys(linear, 0.0), inputs, log)
            columns = [np.broadcast_to(self._seen(p | zero | {n: 1.0}, inputs, log), y.shape) for n in linear]
            size = len(linear)
            gram, cross = np.zeros((len(y), size, size)), np.zeros((len(y), size))
            for i, first in enumerate(columns):
                weighted = scale * first
                cross[:, i] = np.einsum("bn,bn->b", weighted, target)
                for j in range(i + 1):
                    gram[:, i, j] = gram[:, j, i] = np.einsum("bn,bn->b", weighted, columns[j])
            finite = np.asarray(np.isfinite(gram).all(axis=(1, 2)) & np.isfinite(cross).all(axis=1), dtype=bool)
            gram[~finite], cross[~finite] = 0.0, 0.0
            free = np.array([self.ranges[name][1][0] < 0 for name in linear])
            coefficients, fall = solve_linear(gram, cross, free)
            total = np.einsum("bn,bn->b", scale * target, target) - fall
        return coefficients, np.where(finite & np.isfinite(total), total, np.inf)

    def _thin(self) -> Ints:
        if self.size <= _THIN:
            return np.arange(self.size)
        by = np.lexsort(tuple(np.broadcast_to(v, self.y.shape) for v in self.inputs.values()))
        return np.sort(by[np.linspace(0, self.size - 1, _THIN).astype(int)])

    def _project(
        self, shape: list[Parameter], linear: list[str], points: Array, x: Mapping[str, Any], thin: Ints
    ) -> tuple[Array, Array]:
        p: dict[str, Any] = dict(self.fixed)
        p.update({parameter.name: points[:, j : j + 1] for j, parameter in enumerate(shape)})
        log_link = self.law.link == "log"
        y, w = self.y[thin], self.weights[thin]
        target = np.log(y) if log_link or (self.space == "log" and not linear) else y
        scale = w if log_link or self.space == "linear" or not linear else w / y**2
        inputs = SimpleNamespace(**x)
        with np.errstate(all="ignore"):
            zero = dict.fromkeys(self.law.linear, 0.0)
            held = any(name in self.fixed for name in self.law.linear)
            offset: Any = self._seen(p | dict.fromkeys(linear, 0.0), inputs, log_link) if linear and held else 0.0
            if not linear:
                r = self._seen(p, inputs, self.space == "log") - target
                total = np.sum(scale * r * r, axis=-1)
                return np.zeros((len(points), 0)), np.where(np.isfinite(total), total, np.inf)
            columns = np.stack(
                [
                    np.broadcast_to(self._seen(p | zero | {name: 1.0}, inputs, log_link), (len(points), len(y)))
                    for name in linear
                ],
                axis=1,
            )
            target = np.broadcast_to(target - offset, (len(points), len(y)))
            finite = np.asarray(np.isfinite(columns).all(axis=(1, 2)) & np.isfinite(target).all(axis=1))
            columns = np.where(finite[:, None, None], columns, 0.0)
            weighted = columns * scale
            gram = np.matmul(weighted, columns.transpose(0, 2, 1))
            cross = np.einsum("skn,sn->sk", weighted, np.where(finite[:, None], target, 0.0))
            free = np.array([self.ranges[name][1][0] < 0 for name in linear])
            coefficients, fall = solve_linear(gram, cross, free)
            if self.space == "log" and not log_link and free.any():
                finite &= self._keep_positive(coefficients, fall, columns, offset, gram, cross)
            total = np.sum(scale * target**2, axis=-1) - fall
        return coefficients, np.where(finite, np.maximum(total, 0.0), np.inf)

    @staticmethod
    def _keep_positive(
        coefficients: Array, fall: Array, columns: Array, offset: Any, gram: Array, cross: Array
    ) -> NDArray[np.bool_]:
        """Give up negative coefficients, in place, where they make the law negative; says where that helped."""

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

    def _seen(self, p: Mapping[str, Any], x: Any, log: bool) -> Array:
        value = np.asarray(self.law.value(SimpleNamespace(**p), x), dtype=np.float64)
        return np.log(value) if log else value


def _apart(order: Ints, points: Array, count: int) -> list[int]:
    """The best candidates that are not mere neighbours of a better one."""
    if points.shape[1] == 0:
        return [int(order[0])]
    spread = np.maximum(points.max(axis=0) - points.min(axis=0), 1e-300)
    chosen: list[int] = []
    for i in order[: 40 * count]:
        near = [np.max(np.abs(points[i] - points[j]) / spread) < 0.12 for j in chosen]
        if not any(near):
            chosen.append(int(i))
        if len(chosen) == count:
            break
    return chosen
