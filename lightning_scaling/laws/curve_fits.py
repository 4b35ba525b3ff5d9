"""Fits of one law to many curves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lightning_scaling.laws.form import FunctionalForm
from lightning_scaling.laws.initialization import starts_of_many
from lightning_scaling.laws.options import FitOptions, Settings
from lightning_scaling.laws.problem import Problem
from lightning_scaling.laws.results import Fit, fit_form

Array = NDArray[np.float64]

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
        status: ``"ok"``, ``"not converged"`` or ``"too few points"``, shape ``(curves,)``.
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
        settings = self.settings
        options = FitOptions(
            settings.loss,
            settings.objective.kind,
            settings.objective.delta,
            self.weights[curve][used],
            space=settings.space,
            quantile=settings.objective.quantile,
            fixed=settings.fixed,
            bounds=settings.bounds,
        )
        return fit_form(self.law, data | {settings.loss: self.y[curve][used]}, options)


def fit_curves(form: FunctionalForm, data: Mapping[str, Any], options: FitOptions) -> Fits:
    """Estimate a law on many curves at once: :meth:`~lightning_scaling.laws.Law.fit_many`."""
    settings = options.settings(form)
    inputs, y, w = _curves(form, data, options.loss, options.weights, settings.space)
    curves, n = y.shape
    names = [p.name for p in form.parameters]
    values = np.full((curves, len(names)), np.nan)
    objectives = np.full(curves, np.nan)
    converged = np.zeros(curves, dtype=bool)
    used = (w > 0).sum(axis=1)
    free = len(names) - len(settings.fixed)
    enough = np.flatnonzero(used >= free)
    size = max(1, _CELLS // (n * max(1, free)))
    for first in range(0, len(enough), size):
        rows = enough[first : first + size]
        part = {k: v[rows] if v.ndim == 2 else v for k, v in inputs.items()}
        problem = Problem(
            form, part, y[rows], w[rows], settings.objective, settings.space, settings.fixed, settings.bounds
        )
        ends = problem.descend(starts_of_many(problem))
        found = problem.to_parameters(ends.u)
        for j, p in enumerate(problem.free):
            values[rows, names.index(p.name)] = found[:, j]
        for name, value in settings.fixed.items():
            values[rows, names.index(name)] = value
        objectives[rows], converged[rows] = ends.value, ends.converged & np.isfinite(ends.value)
    status = np.where(used < free, "too few points", np.where(converged, "ok", "not converged"))
    return Fits(form, settings, inputs, y, w, {name: values[:, j] for j, name in enumerate(names)}, objectives, status)


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
    w = np.ones_like(y) if weights is None else np.broadcast_to(np.asarray(weights, dtype=np.float64), y.shape).copy()
    good = np.isfinite(y) & np.isfinite(w) & (w > 0)
    if space == "log":
        good &= y > 0
    for name, values in inputs.items():
        good &= np.isfinite(values) & ((values >= 0) if name in form.zero_allowed else (values > 0))
    clean = {}
    for name, values in inputs.items():
        bad = ~(np.isfinite(values) & ((values >= 0) if name in form.zero_allowed else (values > 0)))
        clean[name] = np.where(bad, 1.0, values) if bad.any() else values
    return clean, np.where(good, y, 1.0), np.where(good, w, 0.0)
