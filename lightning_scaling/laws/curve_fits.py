"""Fits of one law to many curves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lightning_scaling.laws.arrays import Array
from lightning_scaling.laws.estimate import FitStatus
from lightning_scaling.laws.estimator import estimate
from lightning_scaling.laws.form import FunctionalForm
from lightning_scaling.laws.initialization import starts_of_many
from lightning_scaling.laws.options import FitOptions, Settings
from lightning_scaling.laws.problem import Problem
from lightning_scaling.laws.results import Fit

_CELLS = 3_000_000


@dataclass(frozen=True, eq=False)
class Fits:
    """One law fitted to many curves.

    Attributes:
        law: The law.
        settings: How the fits were asked for.
        inputs: Inputs, each of shape ``(points,)`` or ``(curves, points)``.
        y: Observations, shape ``(curves, points)``.
        weights: Weights, likewise; zero for points that could not be used.
        params: Estimates by name, each of shape ``(curves,)``; nan where a curve has too few points.
        objective: Value of the objective, shape ``(curves,)``.
        status: ``"ok"``, ``"not_converged"`` or ``"too_few_points"``, shape ``(curves,)``.
    """

    law: FunctionalForm
    settings: Settings
    inputs: Mapping[str, Array]
    y: Array
    weights: Array
    params: Mapping[str, Array]
    objective: Array
    status: NDArray[np.str_]

    def __len__(self) -> int:
        return len(self.y)

    def predict(self, **inputs: Any) -> Array:
        """What each curve's law says.

        Args:
            **inputs: Inputs by name, numbers or arrays of shape ``(m,)`` or ``(curves, m)``.

        Returns:
            Predictions of shape ``(curves, m)``; nan for curves without a fit.
        """
        wide = {name: np.atleast_1d(np.asarray(value, dtype=np.float64)) for name, value in inputs.items()}
        return self.law.evaluate({name: value[:, None] for name, value in self.params.items()}, **wide)

    def __getitem__(self, curve: int) -> Fit:
        """The full fit of one curve, with intervals and diagnostics; fitted anew on its own points.

        Args:
            curve: Index of the curve.

        Returns:
            The fit.

        Raises:
            IndexError: There is no such curve.
            ValueError: It has too few points.
        """
        if not -len(self) <= curve < len(self):
            raise IndexError(f"there are {len(self)} curves, but curve {curve} was asked for.")
        used = self.weights[curve] > 0
        data = {name: (v[curve] if v.ndim == 2 else v)[used] for name, v in self.inputs.items()}
        options = self.settings.again(self.settings.loss, self.weights[curve][used])
        options = replace(options, fixed=self.settings.fixed, bounds=self.settings.bounds)
        return Fit.of(estimate(self.law, data | {options.loss: self.y[curve][used]}, options))


def fit_curves(form: FunctionalForm, data: Mapping[str, Any], options: FitOptions) -> Fits:
    """Estimate a law on many curves at once: :meth:`~lightning_scaling.laws.Law.fit_many`."""
    if options.delta == "auto":
        raise ValueError("`delta` must be a number when many curves are fitted at once, but got 'auto'.")
    settings = options.settings(form)
    inputs, y, w = _curves(form, data, options.loss, options.weights, settings.space)
    curves, n = y.shape
    params = {p.name: np.full(curves, settings.fixed.get(p.name, np.nan)) for p in form.parameters}
    objective = np.full(curves, np.nan)
    used = (w > 0).sum(axis=1)
    free = len(params) - len(settings.fixed)
    enough = np.flatnonzero(used >= free)
    status = np.where(used < free, FitStatus.TOO_FEW_POINTS, FitStatus.NOT_CONVERGED)
    size = max(1, _CELLS // (n * max(1, free)))
    for first in range(0, len(enough), size):
        rows = enough[first : first + size]
        part = {k: v[rows] if v.ndim == 2 else v for k, v in inputs.items()}
        problem = Problem(form, part, y[rows], w[rows], settings)
        ends = problem.descend(starts_of_many(problem))
        for name, values in zip(problem.names, problem.to_parameters(ends.u).T, strict=True):
            params[name][rows] = values
        objective[rows] = ends.value
        status[rows[ends.converged & np.isfinite(ends.value)]] = FitStatus.OK
    for values in params.values():
        values[used < free] = np.nan
    return Fits(form, settings, inputs, y, w, params, objective, status)


def _curves(
    form: FunctionalForm, data: Mapping[str, Any], loss: str, weights: Any, space: str
) -> tuple[dict[str, Array], Array, Array]:
    def array(name: str) -> Array:
        if name not in data:
            raise ValueError(f"`data` has no {name!r}; it needs {', '.join(form.inputs)} and {loss}.")
        values = np.asarray(data[name], dtype=np.float64)
        if values.ndim not in (1, 2):
            raise ValueError(f"{name!r} must have shape (points,) or (curves, points), but has {values.shape}.")
        return values

    y = np.atleast_2d(array(loss))
    inputs = {name: array(name) for name in form.inputs}
    for name, values in inputs.items():
        if values.shape not in (y.shape, y.shape[1:]):
            raise ValueError(f"{name!r} has shape {values.shape}, which does not go with {loss!r} of shape {y.shape}.")
    w = np.broadcast_to(np.asarray(1.0 if weights is None else weights, dtype=np.float64), y.shape)
    good = np.isfinite(y) & np.isfinite(w) & (w > 0) & ((y > 0) | (space != "log"))
    for name, values in inputs.items():
        usable = np.isfinite(values) & ((values >= 0) if name in form.zero_allowed else (values > 0))
        good &= usable
        inputs[name] = np.where(usable, values, 1.0)
    return inputs, np.where(good, y, 1.0), np.where(good, w, 0.0)
