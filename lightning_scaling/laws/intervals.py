"""Prediction intervals from the sum of the known sources of uncertainty."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np

from lightning_scaling._utils.stats import t_quantile
from lightning_scaling.laws.arrays import Array
from lightning_scaling.laws.estimate import Estimate, FitStatus
from lightning_scaling.laws.estimator import estimate
from lightning_scaling.laws.form import FunctionalForm
from lightning_scaling.laws.problem import differentiate
from lightning_scaling.laws.solvers.objectives import robust_scale

# Chosen on 29 recorded ladders of 9 sources, fitted on the cheaper part and asked for the rest (benchmarks/laws.py).
_NOISE_FACTOR = 2.0
_EXCESS_FACTOR = 0.2
_FORMS_FACTOR = 0.5
_DISTANCE_FACTOR = 0.15
_TAILS = 6.0

_SEED_LOW, _SEED_HIGH = (3.0, 0.002), (7.0, 0.05)
_SIZES = np.exp(np.linspace(-7.0, 7.0, 57))


class PredictionSpread:
    """Components of a prediction interval, as standard deviations in the space of the fit.

    ``law``: the spread of the estimated parameters. ``noise``: twice that of the residuals, because held-out runs
    scatter more than fitted ones. ``seed``: between seeds, by the model of Porian et al. 2024 (arXiv 2406.19146):
    .002 nats up to a loss of 3, .05 from 7 on, between them a straight line in logarithms. ``excess``: a fifth of how
    far the point lies above the law's own frontier, for laws of params and tokens, where predictions are less accurate.
    ``forms``: half the distance to other plausible laws fitted to the same points in the same way. ``distance``: .15
    of how far the prediction lies below the lowest fitted value. A Student t with 6 degrees of freedom (fewer when
    fewer are left after the parameters) goes around their root of squares.
    """

    def __init__(self, fit: Estimate) -> None:
        self.fit = fit
        self.log = fit.settings.space == "log"

    @cached_property
    def noise(self) -> float:
        """Standard deviation of a residual of the greatest weight; nan without residual degrees of freedom."""
        fit = self.fit
        if fit.points is None:
            return 0.0
        if fit.dof_resid <= 0:
            return float("nan")
        r, weights, free = fit.residuals(), fit.points.weights, len(fit.names)
        rms = float(np.sqrt(np.sum((np.sqrt(weights) * np.abs(r)) ** 2) / max(len(r) - free, 1)))
        core = robust_scale(r, weights, free)
        return min(rms, 2.0 * core) if core > 0 else rms

    @cached_property
    def siblings(self) -> list[Estimate]:
        """Other plausible laws of the same inputs, fitted to the same points in the same way."""
        fit = self.fit
        if fit.points is None:
            return []
        options = fit.settings.again("y", fit.points.weights)
        options = replace(options, priors="default" if fit.settings.priors else None)
        found = []
        for name in fit.law.siblings:
            with suppress(ValueError):
                found.append(estimate(FunctionalForm.lookup(name), {**fit.points.inputs, "y": fit.points.y}, options))
        return [other for other in found if other.status != FitStatus.NOT_CONVERGED]

    def law(self, inputs: Mapping[str, Any]) -> Array:
        """Standard deviation from the estimated parameters: of the refits, else by the delta method."""
        fit = self.fit
        flat, shape = _flat(inputs)
        if fit.replicates is not None:
            rows = {name: fit.replicates[:, [j]] for j, name in enumerate(fit.names)}
            values = fit.law.evaluate({**fit.params} | rows, **flat)
            values = np.log(values) if self.log else values
            return np.asarray(fit.small_sample_factor * np.std(values, axis=0, ddof=1)).reshape(shape)
        size = next(iter(flat.values())).size
        free = [p for p in fit.law.parameters if p.name in fit.names]
        params = {name: np.array([[value]]) for name, value in fit.params.items()}
        jac = differentiate(fit.law, params, free, fit.law.features(flat), (1, size), fit.settings.space)[1]
        jac = jac.reshape(len(free), *shape)
        variance = np.einsum("i...,ij,j...->...", jac, fit.cov, jac)
        return np.asarray(np.sqrt(np.maximum(variance, 0.0)))

    def seed(self, inputs: Mapping[str, Any]) -> Array:
        """Standard deviation between seeds, for losses of language models (nats per token, at least 1)."""
        predicted = self.fit.predict(**inputs)
        if self.fit.law.output != "loss" or not {"params", "tokens", "flops"} & set(self.fit.law.inputs):
            return np.zeros(predicted.shape)
        (low, least), (high, most) = _SEED_LOW, _SEED_HIGH
        with np.errstate(divide="ignore", invalid="ignore"):
            share = np.clip(np.log(predicted / low) / np.log(high / low), 0.0, 1.0)
            nats = least * (most / least) ** share
            return np.asarray(np.where(predicted >= 1.0, nats / predicted if self.log else nats, 0.0))

    def excess(self, inputs: Mapping[str, Any]) -> Array:
        """How far the law itself puts a point above its best for the same params times tokens."""
        predicted = self.fit.predict(**inputs)
        if not self.log or not {"params", "tokens"} <= set(inputs):
            return np.zeros(predicted.shape)
        flat, shape = _flat(inputs)
        wide = {name: value[:, None] for name, value in flat.items()}
        wide["params"], wide["tokens"] = wide["params"] * _SIZES, wide["tokens"] / _SIZES
        around = self.fit.predict(**wide)
        return np.asarray(np.maximum(np.log(predicted) - np.log(around.min(axis=1).reshape(shape)), 0.0))

    def forms(self, inputs: Mapping[str, Any]) -> Array:
        """Root mean square distance to the siblings."""
        own = self._seen(self.fit, inputs)
        others = [self._seen(other, inputs) - own for other in self.siblings]
        return np.sqrt(np.mean(np.square(others), axis=0)) if others else np.zeros(own.shape)

    def distance(self, inputs: Mapping[str, Any]) -> Array:
        """How far the prediction lies below the lowest fitted value."""
        own = self._seen(self.fit, inputs)
        if self.fit.points is None:
            return np.zeros(own.shape)
        return np.maximum(float(np.min(self._seen(self.fit, self.fit.points.inputs))) - own, 0.0)

    def scale(self, inputs: Mapping[str, Any]) -> Array:
        """Scale of a new observation around the prediction."""
        return np.sqrt(
            self.law(inputs) ** 2
            + (_NOISE_FACTOR * self.noise) ** 2
            + self.seed(inputs) ** 2
            + (_EXCESS_FACTOR * self.excess(inputs)) ** 2
            + (_FORMS_FACTOR * self.forms(inputs)) ** 2
            + (_DISTANCE_FACTOR * self.distance(inputs)) ** 2
        )

    def interval(self, level: float, of: str, inputs: Mapping[str, Any]) -> tuple[Array, Array]:
        """See :meth:`Fit.interval`."""
        if of not in ("observation", "law"):
            raise ValueError(f"`of` must be 'observation' or 'law', but got {of!r}.")
        middle = self.fit.predict(**inputs)
        if self.fit.points is None or self.fit.dof_resid <= 0:
            return np.full(middle.shape, np.nan), np.full(middle.shape, np.nan)
        tails = self.fit.dof_resid if of == "law" else min(self.fit.dof_resid, _TAILS)
        half = t_quantile((1 + level) / 2, tails) * (self.law(inputs) if of == "law" else self.scale(inputs))
        if self.log:
            return middle * np.exp(-half), middle * np.exp(half)
        return middle - half, middle + half

    def sample(self, count: int, rng: np.random.Generator, inputs: Mapping[str, Any]) -> Array:
        """Draws of a new observation, shape ``(count, ...)``; all equal where no error is known."""
        middle = self.fit.predict(**inputs)
        if self.fit.points is None or self.fit.dof_resid <= 0:
            return np.broadcast_to(middle, (count, *middle.shape))
        away = rng.standard_t(min(self.fit.dof_resid, _TAILS), (count, *middle.shape)) * self.scale(inputs)
        return np.asarray(middle * np.exp(away) if self.log else middle + away)

    def _seen(self, fit: Estimate, inputs: Mapping[str, Any]) -> Array:
        with np.errstate(divide="ignore", invalid="ignore"):
            value = fit.predict(**inputs)
            return np.asarray(np.log(value)) if self.log else value


def _flat(inputs: Mapping[str, Any]) -> tuple[dict[str, Array], tuple[int, ...]]:
    arrays = {name: np.asarray(value, dtype=np.float64) for name, value in inputs.items()}
    shape = np.broadcast_shapes(*(a.shape for a in arrays.values()))
    return {name: np.broadcast_to(a, shape).ravel() for name, a in arrays.items()}, shape
