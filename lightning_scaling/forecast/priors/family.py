"""The prior from past runs of the same family."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from copy import copy
from dataclasses import replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from lightning_scaling.forecast.config import DEFAULT, ForecastConfig
from lightning_scaling.forecast.priors.base import PUBLISHED, Correction, RunPrior, ShapePrior
from lightning_scaling.forecast.priors.config import FamilyConfig, QuantityScales
from lightning_scaling.forecast.priors.features import FeatureProcess, RunFeatures
from lightning_scaling.forecast.priors.final_loss import FinalLossPrior
from lightning_scaling.forecast.priors.normalized_curves import NormalizedCurves
from lightning_scaling.forecast.priors.past_run import PastRun
from lightning_scaling.runs.history import RunHistory
from lightning_scaling.runs.replicates import replicate_matrix
from lightning_scaling.runs.run import Run
from lightning_scaling.schedule.plan import Plan

Array = NDArray[np.float64]

_MIN_UNIT = 1e-6  # of forecast errors, relative to the loss: keeps covariances regular


class Family:
    """Past runs of a family as a prior: each quantity of theirs as a function of their features.

    Args:
        past_runs: The past runs, those that :attr:`PastRun.is_usable`.
        params: Number of parameters of the new run.
        tokens_per_step: Tokens (or samples) of one of its steps.
        with_final_loss: Those whose final losses alone count, if there are more of them.
        config: The tuned numbers.
    """

    def __init__(
        self,
        past_runs: list[PastRun],
        params: int | None = None,
        tokens_per_step: float | None = None,
        *,
        with_final_loss: list[PastRun] | None = None,
        config: ForecastConfig = DEFAULT,
    ) -> None:
        self._past_runs = past_runs
        self._with_final_loss = with_final_loss or past_runs
        self._params = params
        self._tokens_per_step = tokens_per_step
        self._config = config
        self._shaped = [r for r in past_runs if r.has_informative_shape]
        shown = sum(falls(r.plan, r.reached, config.family) for r in self._shaped)
        self._annealed = shown >= config.family.min_runs
        self._errors: dict[float, tuple[FeatureProcess, float] | None] = {}
        finished = sum(r.finished for r in past_runs)
        others = f" and {len(past_runs) - finished} unfinished" if finished < len(past_runs) else ""
        self.source = f"{finished} finished{others} runs of the family"

    def _process(self, runs: list[PastRun], values: Array, scales: QuantityScales) -> FeatureProcess:
        """The process of a quantity of runs, given with its errors, shape ``(n, 2)``."""
        return FeatureProcess([r.features for r in runs], values[:, 0], values[:, 1], scales, self._config.features)

    @cached_property
    def _levels(self) -> FeatureProcess:
        runs = self._past_runs
        log_final_loss = np.array([r.log_final_loss for r in runs])
        return self._process(runs, log_final_loss, self._config.family.level).calibrated(_groups(runs))

    @cached_property
    def _final_loss_prior(self) -> FinalLossPrior | None:
        return FinalLossPrior.from_history(RunHistory(r.run for r in self._with_final_loss), self._config.final_loss)

    def _log_final_loss(self, plan: Plan, features: RunFeatures) -> tuple[float, float]:
        """Mean and standard deviation of the log final loss, from past final losses alone.

        Combines a Gaussian process over the features with the law of final losses. The correlation of their errors is
        unknown, so the joint error is no smaller than theirs; weights are proportional to ``std**-4``, as both error
        estimates are least reliable when large.
        """
        log, error = self._levels.predict_for(features)
        tokens = self._tokens_per_step and self._tokens_per_step * (plan.total_steps or 0)
        law = self._final_loss_prior if plan.known else None
        predicted = law.predict(self._params, tokens or None, plan) if law else None
        if predicted is None or not math.isfinite(predicted.scale) or predicted <= 0:
            return log, error
        other = predicted.scale / float(predicted)
        weight = error**4 / (error**4 + other**4)
        return log + weight * (math.log(predicted) - log), math.sqrt(2 / (error**-2 + other**-2))

    @cached_property
    def _shapes(self) -> list[FeatureProcess]:
        values = np.stack([r.shape for r in self._shaped], axis=1)
        scales = self._config.family.shapes
        return [self._process(self._shaped, value, scale) for value, scale in zip(values, scales, strict=True)]

    def _shape(self, predicted: Iterable[tuple[float, float]]) -> ShapePrior:
        least = self._config.family.min_shape_spread
        alpha, kappa, slope = ((math.exp(middle), max(spread, least)) for middle, spread in predicted)
        return ShapePrior(*alpha, *kappa, *slope, self.source)

    @cached_property
    def _replicates(self) -> list[NDArray[np.intp]]:
        """For each past run its own place, then those of its replicates."""
        return _groups(self._shaped)

    @cached_property
    def _priors(self) -> list[ShapePrior]:
        """For each past run the shape predicted by the others, its replicates left out."""
        predicted = [[process.without(group) for process in self._shapes] for group in self._replicates]
        return [self._shape((float(m[0]), float(s[0])) for m, s in each) for each in predicted]

    def _error(self, fraction: float) -> tuple[FeatureProcess, float] | None:
        """Errors of forecasts made at a fraction as a function of the run, by leave-one-out.

        Returns:
            The process of errors, and the correlation of its residuals with the errors of final losses predicted from
            past final losses; ``None`` with too few finished past runs.
        """
        if fraction not in self._errors:
            self._errors[fraction] = self._learn_error(fraction)
        return self._errors[fraction]

    def _learn_error(self, fraction: float) -> tuple[FeatureProcess, float] | None:
        scored = [
            (past_run, predicted)
            for past_run, prior in zip(self._shaped, self._priors, strict=True)
            if past_run.finished and (predicted := past_run.forecast(fraction, prior)) is not None
        ]
        if len(scored) < self._config.family.min_runs:
            return None
        runs = [past_run for past_run, _ in scored]
        forecast, scale = np.array([predicted for _, predicted in scored]).T
        off = np.array([r.log_final_loss[0] for r in runs]) - forecast
        unit = max(float(np.median(scale)), _MIN_UNIT)
        process = self._process(runs, np.stack([off, scale], 1), replace(self._config.family.error, unit=unit))
        return process.calibrated(_groups(runs)), self._shared(runs, process, scale)

    def _shared(self, runs: list[PastRun], process: FeatureProcess, scale: Array) -> float:
        """Correlation of the residual errors with the errors of final losses predicted from past final losses."""
        config, levels = self._config.family, self._levels
        place = {id(r): k for k, r in enumerate(self._past_runs)}
        replicates = dict(zip(map(id, self._shaped), self._replicates, strict=True))
        pairs = []
        for i, group in enumerate(_groups(runs)):
            here, spread = process.without(group)
            own = [place[id(self._shaped[j])] for j in replicates[id(runs[i])]]
            there, wide = levels.without(np.array(own))
            noise = math.hypot(spread[0], process.chosen.error_factor * scale[i])
            pairs.append(((process.value[i] - here[0]) / noise, (levels.value[own[0]] - there[0]) / wide[0]))
        one, other = np.clip(np.array(pairs), -config.max_error, config.max_error).T
        power = math.sqrt(float(one @ one) * float(other @ other))
        found = float(one @ other) / power if power > 0 else 0.0
        found *= len(pairs) / (len(pairs) + config.correlation_shrinkage)
        return min(max(found, 0.0), config.max_correlation)

    def with_batch_size(self, tokens_per_step: float) -> Family:
        """The same family for a run of so many tokens (or samples) per step."""
        other = copy(self)
        other._tokens_per_step = tokens_per_step
        return other

    def prepare(self) -> Family:
        """Compute everything now rather than at the first use."""
        if len(self._shaped) >= self._config.family.min_runs:
            for fraction in self._config.family.fractions:
                self._error(fraction)
        return self

    def for_plan(self, plan: Plan) -> RunPrior:
        """The prior of a new run under this plan."""
        config = self._config.family
        enough = len(self._shaped) >= config.min_runs
        if plan.total_steps is None:
            middle = self._shape(process.predict_for(None) for process in self._shapes) if enough else PUBLISHED
            return RunPrior(middle)
        features = RunFeatures.of(plan, self._params, self._tokens_per_step)
        log, error = self._log_final_loss(plan, features)
        shape = PUBLISHED.for_plan(plan, self._config.prior).shape
        unseen = not self._annealed and falls(plan, config=config)
        if unseen:
            error = math.hypot(error, config.unseen_gain_spread * shape.kappa * shape.slope)
        rows = []
        if enough and plan.known:
            shape = self._shape(process.predict_for(features) for process in self._shapes)
            for fraction in () if unseen else config.fractions:
                if (found := self._error(fraction)) is not None:
                    process, shared = found
                    rows.append((fraction, *process.predict_for(features), process.chosen.error_factor, shared))
        return RunPrior(
            shape,
            (log, error),
            Correction(*np.array(rows).T) if rows else None,
            self._annealed,
            self.source,
            NormalizedCurves.among(self._past_runs, plan, features, self._config.peers),
            self._config.prior,
        )


def family_prior(
    history: RunHistory | Iterable[Run] | None,
    params: int | None = None,
    tokens_per_step: float | None = None,
    config: ForecastConfig = DEFAULT,
) -> Family | ShapePrior:
    """The prior from the runs of a history; the published one when there are too few.

    Args:
        history: Past runs of the same family; those not finished count by what they show so far.
        params: Number of parameters of the new run.
        tokens_per_step: Tokens (or samples) of one of its steps.
        config: The tuned numbers.

    Returns:
        What a :class:`Forecaster` takes for its prior.
    """
    past_runs = [past_run for run in history or () if (past_run := PastRun(run, config)).is_usable]
    if sum(r.finished for r in past_runs) < config.family.min_runs:
        return PUBLISHED
    nearest = nearest_in_size(past_runs, params, config.family)
    return Family(nearest, params, tokens_per_step, with_final_loss=past_runs, config=config).prepare()


def falls(plan: Plan, step: float = math.inf, config: FamilyConfig = DEFAULT.family) -> bool:
    """Whether the planned rate gives up much of its peak by a step after the warm-up."""
    rates = plan.lr[(plan.steps >= plan.warmup_end) & (plan.steps <= step)]
    return bool(-np.minimum(np.diff(rates), 0.0).sum() > config.min_decay * plan.peak)


def nearest_in_size(
    past_runs: list[PastRun], params: int | None, config: FamilyConfig = DEFAULT.family
) -> list[PastRun]:
    """The past runs that are used: of many, those nearest in size, then the latest."""
    if len(past_runs) <= config.max_runs:
        return past_runs
    size = math.log(params) if params else math.nan
    apart = np.nan_to_num([abs(r.features.values[0] - size) for r in past_runs], nan=math.inf)
    order = sorted(range(len(past_runs)), key=lambda i: (apart[i], -i))
    return [past_runs[i] for i in sorted(order[: config.max_runs])]


def _groups(runs: Sequence[PastRun]) -> list[NDArray[np.intp]]:
    """For each run its own place, then those of its replicates."""
    alike = replicate_matrix([r.plan for r in runs], [r.run.params for r in runs])
    np.fill_diagonal(alike, False)
    return [np.concatenate([[i], np.flatnonzero(row)]) for i, row in enumerate(alike)]
