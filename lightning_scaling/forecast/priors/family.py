"""What past runs of the same family teach about a new one."""

from __future__ import annotations

import math
from collections.abc import Iterable
from copy import copy
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

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

FRACTIONS = np.array([0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.6, 0.75, 0.9])
"""Parts of the run at which forecasts of the relatives are compared with what came."""

_ENOUGH = 2
_MOST = 64
_MUCH = 0.15
_OF_GAIN = 0.6
_LEAST_SPREAD = 0.1
_SCARCE = 10.0
_MOST_SHARED = 0.8
_LEVEL = GPScales(unit=0.1, offset=30.0, related=(0.03, 0.1, 0.3, 1.0), apart=(0.003, 0.01, 0.03, 0.1))
_SHAPE = tuple(
    GPScales(unit=spread, middle=math.log(median))
    for median, spread in (
        (0.3, 0.6),
        (1.2, 0.45),
        (0.03, 0.8),
    )
)


class Family:
    """Past runs, and how each quantity of theirs depends on what they are.

    Args:
        relatives: The past runs, those that :attr:`Relative.is_usable`.
        params: Number of parameters of the new run.
        tokens_per_step: Tokens (or samples) of one of its steps.
        landed: Those whose final losses alone count, if there are more of them.
    """

    def __init__(
        self,
        relatives: list[PastRun],
        params: int | None = None,
        tokens_per_step: float | None = None,
        *,
        landed: list[PastRun] | None = None,
    ) -> None:
        self._relatives = relatives
        self._landed = landed or relatives
        self._params = params
        self._tokens_per_step = tokens_per_step
        self._shaped = [r for r in relatives if r.has_informative_shape]
        self._annealed = sum(falls(r.plan, r.reached) for r in self._shaped) >= _ENOUGH
        self._errors: dict[float, tuple[GaussianProcess, FeatureSpace, float] | None] = {}
        finished = sum(r.finished for r in relatives)
        others = f" and {len(relatives) - finished} unfinished" if finished < len(relatives) else ""
        self.source = f"{finished} finished{others} runs of the family"

    @cached_property
    def _levels(self) -> tuple[FeatureSpace, GaussianProcess]:
        space = FeatureSpace([r.features for r in self._relatives])
        log_final_loss = np.array([r.log_final_loss for r in self._relatives])
        process = GaussianProcess(space.at, log_final_loss[:, 0], log_final_loss[:, 1], _LEVEL)
        return space, process.calibrate(_groups([r.features for r in self._relatives]))

    @cached_property
    def _finals(self) -> FinalLossPrior | None:
        return FinalLossPrior.from_history(RunHistory(r.run for r in self._landed))

    def _landing(self, plan: Plan, features: RunFeatures) -> tuple[float, float]:
        """Where the run will land, from the landings alone: by likeness and by the law of final losses.

        Their errors are anything from independent to the same, so the joint one is taken to be no smaller than theirs;
        and as each knows its own best where it is small, the surer one counts by the fourth power.
        """
        space, levels = self._levels
        log, error = levels.predict(space.place(features))
        tokens = self._tokens_per_step and self._tokens_per_step * (plan.total_steps or 0)
        told = self._finals.predict(self._params, tokens or None, plan) if self._finals and plan.known else None
        if told is None or not math.isfinite(told.scale) or told <= 0:
            return log, error
        other = told.scale / float(told)
        weight = error**4 / (error**4 + other**4)
        return log + weight * (math.log(told) - log), math.sqrt(2 / (error**-2 + other**-2))

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
    def _twins(self) -> list[NDArray[np.intp]]:
        """For each relative, itself first, then the others of its size, length and schedule."""
        return _groups([r.features for r in self._shaped])

    @cached_property
    def _priors(self) -> list[ShapePrior]:
        """For each relative the shape that the others, its twins left out, would have given it."""
        told = [[process.without(group) for process in self._shapes] for group in self._twins]
        return [_shape([(float(m[0]), float(s[0])) for m, s in each], self.source) for each in told]

    def _error(self, fraction: float) -> tuple[GaussianProcess, FeatureSpace, float] | None:
        """How the errors of forecasts made at a fraction depend on the run, learnt by leaving each relative out."""
        if fraction not in self._errors:
            self._errors[fraction] = self._learn_error(fraction)
        return self._errors[fraction]

    def _learn_error(self, fraction: float) -> tuple[GaussianProcess, FeatureSpace, float] | None:
        judged = [
            (i, relative, told)
            for i, (relative, prior) in enumerate(zip(self._shaped, self._priors, strict=True))
            if relative.finished and (told := relative.forecast(fraction, prior)) is not None
        ]
        if len(judged) < _ENOUGH:
            return None
        landed = np.array([relative.log_final_loss for _, relative, _ in judged])
        forecast = np.array([told for _, _, told in judged])
        off, scale = landed[:, 0] - forecast[:, 0], forecast[:, 1]
        unit = max(float(np.median(scale)), 1e-6)
        space = FeatureSpace([relative.features for _, relative, _ in judged])
        process = GaussianProcess(
            space.at,
            off,
            scale,
            GPScales(unit, middle=0.0, related=(0.1, 0.3, 1.0), apart=(0.03, 0.1, 0.4), trusted=(0.3, 0.6, 1.0)),
        )
        process.calibrate(_groups([relative.features for _, relative, _ in judged]))
        return process, space, self._shared([i for i, _, _ in judged], process, scale)

    def _shared(self, judged: list[int], process: GaussianProcess, scale: NDArray[np.float64]) -> float:
        """Correlation of what is left of such errors with the errors of landings told by the relatives' landings."""
        place = {id(r): k for k, r in enumerate(self._relatives)}
        levels = self._levels[1]
        rows = {i: k for k, i in enumerate(judged)}
        pairs = []
        for i in judged:
            group = [j for j in self._twins[i] if j in rows]
            here, spread = process.without(np.array([rows[j] for j in group]))
            there, wide = levels.without(np.array([place[id(self._shaped[j])] for j in self._twins[i]]))
            own = place[id(self._shaped[i])]
            pairs.append(
                (
                    (process.value[rows[i]] - here[0]) / math.hypot(spread[0], process.trusted * scale[rows[i]]),
                    (levels.value[own] - there[0]) / wide[0],
                )
            )
        one, other = np.clip(np.array(pairs), -3, 3).T
        scale_ = math.sqrt(float(one @ one) * float(other @ other))
        found = float(one @ other) / scale_ if scale_ > 0 else 0.0
        return min(max(found * len(pairs) / (len(pairs) + _SCARCE), 0.0), _MOST_SHARED)

    def with_batch_size(self, tokens_per_step: float) -> Family:
        """The same family, asked about a run of so many tokens (or samples) per step."""
        other = copy(self)
        other._tokens_per_step = tokens_per_step
        return other

    def prepare(self) -> Family:
        """Work out everything now rather than when it is first asked for."""
        if len(self._shaped) >= _ENOUGH:
            for fraction in FRACTIONS:
                self._error(float(fraction))
        return self

    def for_plan(self, plan: Plan, fractions: NDArray[np.float64] = FRACTIONS) -> RunPrior:
        """What the family teaches of a new run under this plan.

        Args:
            plan: What the new run intends to do.
            fractions: Parts of the run at which its forecasts are going to be corrected.
        """
        if plan.total_steps is None:
            shape = PUBLISHED
            if len(self._shaped) >= _ENOUGH:
                middle = self._space.at.mean(0)[None]
                shape = _shape([process.predict(middle) for process in self._shapes], self.source)
            return RunPrior(shape)
        features = RunFeatures.of(plan, plan.total_steps, self._params, self._tokens_per_step)
        peer_curves = NormalizedCurves.among(self._relatives, plan, features)
        log_final_loss = self._landing(plan, features)
        if not self._annealed and falls(plan):
            prior = PUBLISHED.for_plan(plan).shape
            log_final_loss = log_final_loss[0], math.hypot(log_final_loss[1], _OF_GAIN * prior.kappa * prior.slope)
        if len(self._shaped) < _ENOUGH or not plan.known:
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
        told = np.array([process.predict(space.place(features)) for _, (process, space, _) in errors])
        correction = Correction(
            np.array([f for f, _ in errors]),
            told[:, 0],
            told[:, 1],
            np.array([process.trusted for _, (process, _, _) in errors]),
            np.array([shared for _, (_, _, shared) in errors]),
        )
        return RunPrior(shape, log_final_loss, correction, self._annealed, self.source, peer_curves)


def family_prior(
    history: RunHistory | Iterable[Run] | None, params: int | None = None, tokens_per_step: float | None = None
) -> Family | ShapePrior:
    """What the runs of a history teach; the published prior when there are too few.

    Args:
        history: Past runs of the same family; those not finished count by what they show so far.
        params: Number of parameters of the new run.
        tokens_per_step: Tokens (or samples) of one of its steps.

    Returns:
        What a :class:`Forecaster` takes for its prior.
    """
    relatives = [relative for run in history or () if (relative := PastRun(run)).is_usable]
    if sum(r.finished for r in relatives) < _ENOUGH:
        return PUBLISHED
    return Family(nearest_in_size(relatives, params), params, tokens_per_step, landed=relatives).prepare()


def falls(plan: Plan, step: float = math.inf) -> bool:
    """Whether the planned rate gives up much of its peak by a step after the warm-up."""
    rates = plan.lr[(plan.steps >= plan.warmup_end) & (plan.steps <= step)]
    return bool(-np.minimum(np.diff(rates), 0.0).sum() > _MUCH * plan.peak)


def nearest_in_size(relatives: list[PastRun], params: int | None) -> list[PastRun]:
    """The relatives that are used: of many, those nearest in size, then the latest."""
    if len(relatives) <= _MOST:
        return relatives
    size = math.log(params) if params else math.nan
    apart = [abs(r.features.values[0] - size) for r in relatives]
    order = sorted(range(len(relatives)), key=lambda i: (math.inf if math.isnan(apart[i]) else apart[i], -i))
    return [relatives[i] for i in sorted(order[:_MOST])]


def _groups(features: list[RunFeatures]) -> list[NDArray[np.intp]]:
    """For each run its own place, then those of its twins."""
    alike = replicates(features)
    np.fill_diagonal(alike, False)
    return [np.concatenate([[i], np.flatnonzero(row)]) for i, row in enumerate(alike)]


def _shape(told: list[tuple[float, float]], source: str) -> ShapePrior:
    (alpha, alpha_spread), (kappa, kappa_spread), (slope, slope_spread) = (
        (math.exp(middle), max(spread, _LEAST_SPREAD)) for middle, spread in told
    )
    return ShapePrior(alpha, alpha_spread, kappa, kappa_spread, slope, slope_spread, source)
