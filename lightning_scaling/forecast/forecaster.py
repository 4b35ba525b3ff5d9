"""The schedule-aware forecaster: a grid of Multi-Power shapes, solved exactly and averaged by evidence."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import median_filter

from lightning_scaling.forecast.priors.base import PUBLISHED, RunPrior, log_density
from lightning_scaling.forecast.priors.prior_path import ObservedLevel, PriorPath
from lightning_scaling.forecast.result import Forecast, PredictivePath, Trust
from lightning_scaling.laws.solvers import GridFit, fit_grid
from lightning_scaling.runs.curve import Points
from lightning_scaling.schedule.plan import Plan
from lightning_scaling.schedule.progress import ANNEAL_RATES, Progress

_ALPHAS = np.geomspace(0.08, 1.2, 12)
_KAPPAS = np.geomspace(0.2, 4.0, 9)
_BURN_IN = 0.04
_RECENCY = 3.0
_MIN_POINTS = 4
_FEW_POINTS = 6
_EVIDENCE = 0.3
_MAX_EVIDENCE = 100.0
_KEPT = 1e-4
_HAMPEL = 7
_SPIKE = 8.0
# Scale of the forecast error: maximum likelihood of a Student t on recorded runs (benchmarks/forecast.py --calibrate).
_OF_MIXTURE = 0.5
_OF_CHANGE = 0.12
_OF_DOUBT = 2.0
_OF_LEVEL = 3e-4

_SURE = 0.006
_SURE_UNSEEN = 0.002
_OF_FALLEN = 0.25
_HALF = 2.132
_OPEN_HORIZON = 2
_SHORT = 4.0
_NO_POINTS = Points(**{field.name: np.empty(0) for field in fields(Points)})


@dataclass(frozen=True)
class Mixture:
    """Weighted shapes of the law, with the scale of the error around their mean."""

    progress: Progress
    alpha: NDArray[np.float64]
    speed: NDArray[np.intp]
    kappa: NDArray[np.float64]
    offset: NDArray[np.float64]
    slope: NDArray[np.float64]
    weight: NDArray[np.float64]
    now: float
    doubt: float
    share_of_spread: float
    presumed: bool

    def __call__(self, steps: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Medians and scales at the given steps."""
        mean, spread = self._moments(steps)
        reference = self._moments(np.array([self.now]))[0]
        scale = np.sqrt(
            (self.share_of_spread * spread) ** 2
            + (_OF_CHANGE * (reference - mean)) ** 2
            + (_OF_DOUBT * self.doubt) ** 2
            + (_OF_LEVEL * mean) ** 2
        )
        if self.presumed:
            # Nothing is known of what the decay gains: no gain and twice the presumed one both belong to the interval.
            scale = np.maximum(scale, self._gain(steps) / _HALF)
        return mean, scale

    def _gain(self, steps: NDArray[np.float64]) -> NDArray[np.float64]:
        """What annealing is forecast to gain between now and then."""
        gain = self.progress.annealing(steps) - self.progress.annealing([self.now])
        return np.maximum((self.weight * self.slope * self.kappa * self.alpha) @ gain[self.speed], 0.0)

    def spread(self, step: float) -> tuple[float, float]:
        """Disagreement of the shapes at a step, and the change forecast from now to then."""
        mean, spread = self._moments(np.array([step, self.now]))
        return float(spread[0]), float(mean[1] - mean[0])

    def _moments(self, steps: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        log_progress = np.log(self.progress.progress(steps))
        gain = self.progress.annealing(steps)[self.speed]
        shape = np.exp(-self.alpha[:, None] * log_progress) - (self.kappa * self.alpha)[:, None] * gain
        values = self.offset[:, None] + self.slope[:, None] * shape
        mean = self.weight @ values
        return mean, np.sqrt(self.weight @ (values - mean) ** 2)


@dataclass(frozen=True)
class BlendedPath:
    """A path bent towards another end: the more of the change forecast has come, the more of the bend."""

    path: PredictivePath
    now: float
    horizon: float
    start: float
    end: float
    final: float
    scale: float

    def __call__(self, steps: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Medians and scales at the given steps."""
        medians, scales = self.path(steps)
        elapsed = np.clip((steps - self.now) / (self.horizon - self.now), 0.0, 1.0)
        change = self.start - self.end
        share = np.clip((self.start - medians) / change, 0.0, 1.0) if change > 1e-3 * abs(self.start) else elapsed
        share = np.where(elapsed <= 0, 0.0, np.where(elapsed >= 1, 1.0, share))
        scales = np.sqrt((1 - share) * scales**2 + share * self.scale**2)
        return medians + share * (self.final - self.end), scales


class PriorSource(Protocol):
    """What teaches something of a run before its losses do: a prior, or the run's family."""

    def with_batch_size(self, tokens_per_step: float) -> PriorSource:
        """The same teacher, for a run of so many tokens (or samples) per step."""

    def for_plan(self, plan: Plan) -> RunPrior:
        """What is believed of a run under this plan."""


class Forecaster:
    r"""Forecasts of one run under its plan.

    The law is the Multi-Power Law (Luo et al. 2025, arXiv 2503.12811) in units of the peak rate and of the whole
    plan, ``L(s) = L0 + A * (P(s) ** -alpha - kappa * alpha * LD_C(s))``, with ``P`` and ``LD_C`` of
    :class:`Progress`. Tying the gain of annealing to ``alpha * A``, the slope of the loss per unit of log progress,
    makes ``kappa`` alike for runs of very different losses (about 1 to 2.7 on public runs). ``L0`` and ``A`` are
    solved exactly for every shape ``(alpha, C, kappa)`` of a grid, and the shapes averaged by prior times evidence,
    with the number of points deflated by their autocorrelation.

    The error around that mean is a Student t whose squared scale adds the disagreement of the shapes, a share of the
    change forecast from now to then (the law itself is wrong by about that share), and the doubt about the present
    level: the noise of the losses over the root of how many independent ones there are, but not less than .03 % of it.

    Args:
        plan: What the run intends to do.
        prior: What is believed before the losses come: a prior of the shape, or what a family teaches.
    """

    law = "relative_multi_power"

    def __init__(self, plan: Plan, prior: PriorSource = PUBLISHED) -> None:
        self.plan = plan
        self.run_prior = prior.for_plan(plan)
        self.prior = self.run_prior.shape
        prior = self.prior
        alpha_prior = np.array([log_density(a, prior.alpha, prior.alpha_spread) for a in _ALPHAS])
        kappa_prior = np.array([log_density(k, prior.kappa, prior.kappa_spread) for k in _KAPPAS])
        self._shape_prior = (alpha_prior[:, None] + kappa_prior[None, :])[:, None, :]
        self._share = _ALPHAS[:, None] * _KAPPAS[None, :]
        self._progress: Progress | None = None

    def under(self, prior: PriorSource) -> Forecaster:
        """A forecaster of the same plan with other beliefs."""
        other = Forecaster(self.plan, prior)
        other._progress = self._progress
        return other

    def horizon(self, step: int) -> int:
        """Step of the final loss: the end of the plan, or twice the present progress where there is no end ahead."""
        total = self.plan.total_steps
        return total if total is not None and total >= step else _OPEN_HORIZON * max(step, 1)

    def fallen(self, step: int) -> float:
        """How much of its peak the planned rate has given up by a step, summed over all falls."""
        return self._progress_to(self.horizon(0) if self.plan.total_steps is None else self.plan.total_steps).fallen(
            step
        )

    def fit(self, points: Points, step: int) -> Forecast:
        """The forecast from the losses seen so far.

        Args:
            points: The curve.
            step: The present step.

        Returns:
            The forecast; while there is too little to fit it rests on beliefs alone.
        """
        horizon = self.horizon(step)
        progress = self._progress_to(horizon)
        usable = (points.last > self._burn_in(step)) & ~isolated_outliers(points.loss)
        if int(usable.sum()) < _MIN_POINTS:
            return self._from_prior(points, step, f"fewer than {_MIN_POINTS} points after the warm-up")
        at, loss, count = points.step[usable], points.loss[usable], points.count[usable]
        reach = progress.progress(at)
        weights = (reach / reach[-1]) ** _RECENCY * _precision(count, points.spread[usable], loss)
        base = np.exp(-_ALPHAS[:, None] * np.log(reach))
        fit = fit_grid(base, progress.annealing(at), self._share, loss, weights)
        weight, independent = self._weigh(fit, loss)
        kept = weight > _KEPT * weight.max()
        a, c, k = np.nonzero(kept)
        share = weight[kept] / weight[kept].sum()
        # Five parameters were found from these points: with few of them the residuals are too small.
        freedom = at.size / max(at.size - 5, 1)
        noise = math.sqrt(float(fit.weights @ fit.residual**2) * freedom)
        unseen = progress.unseen(step)
        mixture = Mixture(
            progress,
            _ALPHAS[a],
            c,
            _KAPPAS[k],
            fit.offset[kept],
            fit.slope[kept],
            share,
            float(step),
            noise / math.sqrt(independent),
            1.0 if unseen else _OF_MIXTURE,
            unseen and not self.run_prior.annealed,
        )
        falling = bool(fit.slope.flat[fit.best] > 0)
        if not falling and reach[-1] < _SHORT * reach[0]:
            return self._from_prior(points, step, "the curve has not begun to fall after the warm-up")
        params = {
            "L0": float(share @ fit.offset[kept]),
            "A": float(share @ fit.slope[kept]),
            "alpha": float(np.exp(share @ np.log(_ALPHAS[a]))),
            "kappa": float(np.exp(share @ np.log(_KAPPAS[k]))),
            "C": float(np.exp(share @ np.log(np.array(ANNEAL_RATES)[c]))),
            "noise": noise,
            "losses_per_point": float(np.median(count[-64:])),
            "points": float(usable.sum()),
            "effective_points": independent,
            "burn_in_step": float(self._burn_in(step)),
        }
        path = self._blended(mixture, step, horizon)
        trust, why = self._trust(step, progress, path, float(loss.max()))
        if at.size < _FEW_POINTS and self.run_prior.log_final_loss is None:
            trust, why = "none", f"only {at.size} points after the warm-up"
        if not falling:
            trust, why = "low", "the curve is not falling, so the law says only that it stays where it is"
        return Forecast(
            step,
            horizon,
            self.law,
            trust,
            why,
            params=params,
            path=path,
            own_path=mixture,
            peer_path=self._peer_path(points, step, horizon),
            is_falling=falling,
            at_plan_end=horizon == self.plan.total_steps,
            valid_until=progress.tells_up_to(step),
        )

    def _from_prior(self, points: Points, step: int, why: str) -> Forecast:
        """The forecast of a run that has shown at most a level: the shape is presumed, the end that of relatives."""
        horizon = self.horizon(step)
        progress = self._progress_to(horizon)
        anchor = ObservedLevel.of(points)
        own: PredictivePath | None = None if anchor is None else PriorPath(progress, self.prior, anchor)
        path = own
        trust: Trust = "none"
        log_final_loss = self.run_prior.log_final_loss
        if log_final_loss is not None and horizon == self.plan.total_steps:
            trust, why = "low", f"{why}; it rests on {self.run_prior.source or self.prior.source}"
            if anchor is not None and path is not None:
                path = self._blended(path, step, horizon)
            else:
                final = math.exp(log_final_loss[0])
                path = PriorPath(progress, self.prior, ObservedLevel(float(horizon), final, final * log_final_loss[1]))
        return Forecast(
            step,
            horizon,
            self.law,
            trust,
            why,
            path=path,
            own_path=own,
            peer_path=self._peer_path(points, step, horizon),
            is_falling=False,
            at_plan_end=horizon == self.plan.total_steps,
        )

    def before(self) -> Forecast:
        """The forecast before the first step: where relatives landed, if there are any."""
        return self._from_prior(_NO_POINTS, 0, "no losses yet")

    def _blended(self, path: PredictivePath, step: int, horizon: int) -> PredictivePath:
        """The path led to where the lesson has the run land."""
        if self.run_prior.log_final_loss is None or horizon != self.plan.total_steps or step >= horizon:
            return path
        medians, scales = path(np.array([float(step), float(horizon)]))
        final, scale = self.run_prior.correct(step / horizon, float(medians[1]), float(scales[1]))
        return BlendedPath(path, float(step), float(horizon), float(medians[0]), float(medians[1]), final, scale)

    def _peer_path(self, points: Points, step: int, horizon: int) -> PredictivePath | None:
        """Where relatives under the same schedule say that the run goes on; up to the peak rate many stumble."""
        peer_curves = self.run_prior.peer_curves
        if peer_curves is None or horizon != self.plan.total_steps or not self.plan.warmup_end <= step < horizon:
            return None
        return peer_curves.path(points, step, horizon)

    def _progress_to(self, horizon: int) -> Progress:
        if self._progress is None or self._progress.horizon != horizon:
            self._progress = Progress(self.plan, horizon)
        return self._progress

    def _burn_in(self, step: int) -> float:
        """The warm-up, and at least 4 % of the plan (Choshen et al. 2024, arXiv 2410.11840, drop the first tenth)."""
        total = self.plan.total_steps if self.plan.total_steps is not None else step
        return min(max(_BURN_IN * total, self.plan.warmup_end), 0.5 * step)

    def _weigh(self, fit: GridFit, loss: NDArray[np.float64]) -> tuple[NDArray[np.float64], float]:
        """Weights of the shapes, and how many independent points speak for the level."""
        residual = fit.residual - fit.residual.mean()
        power = float(residual @ residual)
        lag = max(float(residual[1:] @ residual[:-1]) / power if power > 0 else 0.0, 0.0)
        deflation = (1 - lag) / (1 + lag)
        evidence = min(max(2 * _EVIDENCE * loss.size * deflation, _MIN_POINTS), _MAX_EVIDENCE)
        independent = max(deflation / float(fit.weights @ fit.weights), 1.0)
        level = max(abs(float(loss.mean())), float(loss.std()), 1e-300)
        slope = np.maximum(_ALPHAS[:, None, None] * fit.slope / level, 1e-9)
        slope_prior = -0.5 * ((np.log(slope) - math.log(self.prior.slope)) / self.prior.slope_spread) ** 2
        floor = np.minimum(fit.offset / level, 0.0) * 50 if loss.min() > 0 else 0.0
        score = self._shape_prior + slope_prior + floor - 0.5 * evidence * np.log(fit.sse / fit.sse.min())
        weight = np.exp(score - score.max())
        return weight / weight.sum(), independent

    def _trust(self, step: int, progress: Progress, path: PredictivePath, top: float) -> tuple[Trust, str]:
        plan = self.plan
        if plan.total_steps is None or plan.total_steps < step:
            reason = plan.why if plan.total_steps is None and plan.why else "the run has no planned end ahead"
            return "low", f"{reason}; the forecast is for twice the present progress"
        if not plan.known:
            return "low", plan.why or "the learning rate ahead is not known"
        alone = self.run_prior.log_final_loss is None
        if step <= plan.warmup_end and alone:
            return "none", "the warm-up is not over"
        final, scale = (float(values[0]) for values in path(np.array([progress.horizon])))
        unsure = scale / max(abs(final), _OF_FALLEN * (top - final), 1e-300)
        if not self.run_prior.annealed and unsure > _SURE_UNSEEN and progress.unseen(step):
            return "low", (
                f"the learning rate has hardly begun to fall: what its decay gains is taken from {self.prior.source}"
            )
        if unsure > _SURE:
            taught = "" if alone else f", even with what {self.run_prior.source or self.prior.source} teach"
            return "low", f"the 90% interval still reaches {_HALF * unsure:.1%} to either side{taught}"
        return "ok", ""


def isolated_outliers(loss: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Isolated outliers by Hampel's rule: far from the running median, by the running spread and by 1 % of the loss.

    Three bins in a row are no outliers: what lasts is part of the curve.
    """
    if loss.size < _HAMPEL:
        return np.zeros(loss.shape, dtype=bool)
    distance = np.abs(loss - median_filter(loss, _HAMPEL, mode="reflect"))
    spread = 1.4826 * float(np.median(distance[-64:]))
    outlying: NDArray[np.bool_] = distance > np.maximum(_SPIKE * spread, 0.01 * np.abs(loss))
    outlying[: _HAMPEL // 2] = False  # the steep beginning has no neighbours on its left to be compared with
    return outlying


def _precision(
    count: NDArray[np.float64], spread: NDArray[np.float64], loss: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Inverse variance of a bin's mean, up to a factor: noise over its count, plus what no law follows."""
    known = spread[np.isfinite(spread)]
    if known.size == 0:
        return np.ones_like(count)
    noise = float(np.median(known[-64:])) ** 2
    law = (5e-4 * float(np.median(np.abs(loss)))) ** 2
    return 1.0 / (noise / count + law + 1e-300)
