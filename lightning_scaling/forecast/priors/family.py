"""The prior from past runs of the same family."""

from __future__ import annotations

import math
from collections.abc import Iterable
from copy import copy
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from lightning_scaling.forecast.config import DEFAULT
from lightning_scaling.forecast.priors.base import PUBLISHED, Correction, RunPrior, ShapePrior
from lightning_scaling.forecast.priors.final_loss import FinalLossPrior
from lightning_scaling.forecast.priors.gaussian_process import (
    FeatureSpace,
    GaussianProcess,
    GPScales,
    RunFeatures,
    replicates,
)
from lightning_scaling.forecast.priors.normalized_curves import NormalizedCurves
from lightning_scaling.forecast.priors.past_run import PastRun
from lightning_scaling.runs.history import RunHistory
from lightning_scaling.runs.run import Run
from lightning_scaling.schedule.plan import Plan

_CONFIG = DEFAULT.family
FRACTIONS = np.array(_CONFIG.fractions)
"""Parts of the run at which forecasts of past runs are compared with their outcomes."""

_LEVEL = GPScales(unit=0.1, offset=30.0, shared=(0.03, 0.1, 0.3, 1.0), individual=(0.003, 0.01, 0.03, 0.1))
_SHAPE = tuple(
    GPScales(unit=spread, middle=math.log(median))
    for median, spread in zip(_CONFIG.shape_medians, _CONFIG.shape_spreads, strict=True)
)
_CLIP = 3.0  # standardized errors beyond are outliers of the correlation


class Family:
    """Past runs of a family as a prior: each quantity of theirs as a function of their features.

    Args:
        past_runs: The past runs, those that :attr:`Relative.is_usable`.
        params: Number of parameters of the new run.
        tokens_per_step: Tokens (or samples) of one of its steps.
        with_final_loss: Those whose final losses alone count, if there are more of them.
    """

    def __init__(
        self,
        past_runs: list[PastRun],
        params: int | None = None,
        tokens_per_step: float | None = None,
        *,
        with_final_loss: list[PastRun] | None = None,
    ) -> None:
        self._past_runs = past_runs
        self._with_final_loss = with_final_loss or past_runs
        self._params = params
        self._tokens_per_step = tokens_per_step
        self._shaped = [r for r in past_runs if r.has_informative_shape]
        self._annealed = sum(falls(r.plan, r.reached) for r in self._shaped) >= _CONFIG.min_runs
        self._errors: dict[float, tuple[GaussianProcess, FeatureSpace, float] | None] = {}
        finished = sum(r.finished for r in past_runs)
        others = f" and {len(past_runs) - finished} unfinished" if finished < len(past_runs) else ""
        self.source = f"{finished} finished{others} runs of the family"

    @cached_property
    def _levels(self) -> tuple[FeatureSpace, GaussianProcess]:
        space = FeatureSpace([r.features for r in self._past_runs])
        log_final_loss = np.array([r.log_final_loss for r in self._past_runs])
        process = GaussianProcess(space.at, log_final_loss[:, 0], log_final_loss[:, 1], _LEVEL)
        return space, process.calibrate(_groups([r.features for r in self._past_runs]))

    @cached_property
    def _finals(self) -> FinalLossPrior | None:
        return FinalLossPrior.from_history(RunHistory(r.run for r in self._with_final_loss))

    def _log_final_loss(self, plan: Plan, features: RunFeatures) -> tuple[float, float]:
        """Mean and standard deviation of the log final loss, from past final losses alone.

        Combines a Gaussian process over the features with the law of final losses. The correlation of their errors is
        unknown, so the joint error is no smaller than theirs; weights are proportional to ``std**-4``, as both error
        estimates are least reliable when large.
        """
        space, levels = self._levels
        log, error = levels.predict(space.place(features))
        tokens = self._tokens_per_step and self._tokens_per_step * (plan.total_steps or 0)
        predicted = self._finals.predict(self._params, tokens or None, plan) if self._finals and plan.known else None
        if predicted is None or not math.isfinite(predicted.scale) or predicted <= 0:
            return log, error
        other = predicted.scale / float(predicted)
        weight = error**4 / (error**4 + other**4)
        return log + weight * (math.log(predicted) - log), math.sqrt(2 / (error**-2 + other**-2))

    @cached_property
    def _space(self) -> FeatureSpace:
        return FeatureSpace([r.features for r in self._shaped])

    @cached_property
    def _shapes(self) -> list[GaussianProcess]:
        values = np.stack([r.shape for r in self._shaped])
        return [
            GaussianProcess(self._space.at, values[:, i, 0], values[:, i, 1], scales) for i, scales in enumerate(_SHAPE)
        ]

    @cached_property
    def _replicates(self) -> list[NDArray[np.intp]]:
        """For each past run its own place, then those of its replicates."""
        return _groups([r.features for r in self._shaped])

    @cached_property
    def _priors(self) -> list[ShapePrior]:
        """For each past run the shape predicted by the others, its replicates left out."""
        predicted = [[process.without(group) for process in self._shapes] for group in self._replicates]
        return [_shape([(float(m[0]), float(s[0])) for m, s in each], self.source) for each in predicted]

    def _error(self, fraction: float) -> tuple[GaussianProcess, FeatureSpace, float] | None:
        """Errors of forecasts made at a fraction as a function of the run, by leave-one-out."""
        if fraction not in self._errors:
            self._errors[fraction] = self._learn_error(fraction)
        return self._errors[fraction]

    def _learn_error(self, fraction: float) -> tuple[GaussianProcess, FeatureSpace, float] | None:
        scored = [
            (i, past_run, predicted)
            for i, (past_run, prior) in enumerate(zip(self._shaped, self._priors, strict=True))
            if past_run.finished and (predicted := past_run.forecast(fraction, prior)) is not None
        ]
        if len(scored) < _CONFIG.min_runs:
            return None
        with_final_loss = np.array([past_run.log_final_loss for _, past_run, _ in scored])
        forecast = np.array([predicted for _, _, predicted in scored])
        off, scale = with_final_loss[:, 0] - forecast[:, 0], forecast[:, 1]
        unit = max(float(np.median(scale)), 1e-6)
        space = FeatureSpace([past_run.features for _, past_run, _ in scored])
        process = GaussianProcess(
            space.at,
            off,
            scale,
            GPScales(unit, middle=0.0, shared=(0.1, 0.3, 1.0), individual=(0.03, 0.1, 0.4), trusted=(0.3, 0.6, 1.0)),
        )
        process.calibrate(_groups([past_run.features for _, past_run, _ in scored]))
        return process, space, self._shared([i for i, _, _ in scored], process, scale)

    def _shared(self, scored: list[int], process: GaussianProcess, scale: NDArray[np.float64]) -> float:
        """Correlation of the residual errors with the errors of final losses predicted from past final losses."""
        place = {id(r): k for k, r in enumerate(self._past_runs)}
        levels = self._levels[1]
        rows = {i: k for k, i in enumerate(scored)}
        pairs = []
        for i in scored:
            group = [j for j in self._replicates[i] if j in rows]
            here, spread = process.without(np.array([rows[j] for j in group]))
            there, wide = levels.without(np.array([place[id(self._shaped[j])] for j in self._replicates[i]]))
            own = place[id(self._shaped[i])]
            pairs.append(
                (
                    (process.value[rows[i]] - here[0]) / math.hypot(spread[0], process.trusted * scale[rows[i]]),
                    (levels.value[own] - there[0]) / wide[0],
                )
            )
        one, other = np.clip(np.array(pairs), -_CLIP, _CLIP).T
        scale_ = math.sqrt(float(one @ one) * float(other @ other))
        found = float(one @ other) / scale_ if scale_ > 0 else 0.0
        return min(max(found * len(pairs) / (len(pairs) + _CONFIG.correlation_shrinkage), 0.0), _CONFIG.max_correlation)

    def with_batch_size(self, tokens_per_step: float) -> Family:
        """The same family for a run of so many tokens (or samples) per step."""
        other = copy(self)
        other._tokens_per_step = tokens_per_step
        return other

    def prepare(self) -> Family:
        """Compute everything now rather than at the first use."""
        if len(self._shaped) >= _CONFIG.min_runs:
            for fraction in FRACTIONS:
                self._error(float(fraction))
        return self

    def for_plan(self, plan: Plan, fractions: NDArray[np.float64] = FRACTIONS) -> RunPrior:
        """The prior of a new run under this plan.

        Args:
            plan: What the new run intends to do.
            fractions: Parts of the run at which its forecasts are going to be corrected.
        """
        if plan.total_steps is None:
            shape = PUBLISHED
            if len(self._shaped) >= _CONFIG.min_runs:
                middle = self._space.at.mean(0)[None]
                shape = _shape([process.predict(middle) for process in self._shapes], self.source)
            return RunPrior(shape)
        features = RunFeatures.of(plan, plan.total_steps, self._params, self._tokens_per_step)
        peer_curves = NormalizedCurves.among(self._past_runs, plan, features)
        log_final_loss = self._log_final_loss(plan, features)
        if not self._annealed and falls(plan):
            prior = PUBLISHED.for_plan(plan).shape
            log_final_loss = (
                log_final_loss[0],
                math.hypot(log_final_loss[1], _CONFIG.unseen_gain_spread * prior.kappa * prior.slope),
            )
        if len(self._shaped) < _CONFIG.min_runs or not plan.known:
            return RunPrior(
                PUBLISHED.for_plan(plan).shape,
                log_final_loss,
                annealed=self._annealed,
                source=self.source,
                peer_curves=peer_curves,
            )
        shape = _shape([process.predict(self._space.place(features)) for process in self._shapes], self.source)
        errors = [(f, e) for f in fractions if (e := self._error(float(f))) is not None]
        if not errors or (falls(plan) and not self._annealed):
            return RunPrior(shape, log_final_loss, annealed=self._annealed, source=self.source, peer_curves=peer_curves)
        predicted = np.array([process.predict(space.place(features)) for _, (process, space, _) in errors])
        correction = Correction(
            np.array([f for f, _ in errors]),
            predicted[:, 0],
            predicted[:, 1],
            np.array([process.trusted for _, (process, _, _) in errors]),
            np.array([shared for _, (_, _, shared) in errors]),
        )
        return RunPrior(shape, log_final_loss, correction, self._annealed, self.source, peer_curves)


def family_prior(
    history: RunHistory | Iterable[Run] | None, params: int | None = None, tokens_per_step: float | None = None
) -> Family | ShapePrior:
    """The prior from the runs of a history; the published one when there are too few.

    Args:
        history: Past runs of the same family; those not finished count by what they show so far.
        params: Number of parameters of the new run.
        tokens_per_step: Tokens (or samples) of one of its steps.

    Returns:
        What a :class:`Forecaster` takes for its prior.
    """
    past_runs = [past_run for run in history or () if (past_run := PastRun(run)).is_usable]
    if sum(r.finished for r in past_runs) < _CONFIG.min_runs:
        return PUBLISHED
    return Family(nearest_in_size(past_runs, params), params, tokens_per_step, with_final_loss=past_runs).prepare()


def falls(plan: Plan, step: float = math.inf) -> bool:
    """Whether the planned rate gives up much of its peak by a step after the warm-up."""
    rates = plan.lr[(plan.steps >= plan.warmup_end) & (plan.steps <= step)]
    return bool(-np.minimum(np.diff(rates), 0.0).sum() > _CONFIG.min_decay * plan.peak)


def nearest_in_size(past_runs: list[PastRun], params: int | None) -> list[PastRun]:
    """The past runs that are used: of many, those nearest in size, then the latest."""
    if len(past_runs) <= _CONFIG.max_runs:
        return past_runs
    size = math.log(params) if params else math.nan
    apart = [abs(r.features.values[0] - size) for r in past_runs]
    order = sorted(range(len(past_runs)), key=lambda i: (math.inf if math.isnan(apart[i]) else apart[i], -i))
    return [past_runs[i] for i in sorted(order[: _CONFIG.max_runs])]


def _groups(features: list[RunFeatures]) -> list[NDArray[np.intp]]:
    """For each run its own place, then those of its replicates."""
    alike = replicates(features)
    np.fill_diagonal(alike, False)
    return [np.concatenate([[i], np.flatnonzero(row)]) for i, row in enumerate(alike)]


def _shape(predicted: list[tuple[float, float]], source: str) -> ShapePrior:
    (alpha, alpha_spread), (kappa, kappa_spread), (slope, slope_spread) = (
        (math.exp(middle), max(spread, _CONFIG.min_shape_spread)) for middle, spread in predicted
    )
    return ShapePrior(alpha, alpha_spread, kappa, kappa_spread, slope, slope_spread, source)
