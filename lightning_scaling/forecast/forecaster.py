"""The schedule-aware forecaster: a grid of Multi-Power shapes, solved exactly and averaged by evidence."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from lightning_scaling.forecast.config import DEFAULT, ErrorConfig, ForecastConfig
from lightning_scaling.forecast.law_grid import CurveFit, LawGridFit, burn_in, fit_curve, fit_shapes, isolated_outliers
from lightning_scaling.forecast.priors.base import PUBLISHED, RunPrior, log_density
from lightning_scaling.forecast.priors.prior_path import ObservedLevel, PriorPath
from lightning_scaling.forecast.result import Forecast, PredictivePath, Trust
from lightning_scaling.runs.curve import Points
from lightning_scaling.schedule.plan import Plan
from lightning_scaling.schedule.progress import ANNEAL_RATES, Progress

_PARAMETERS = 5  # of the law: L0, A, alpha, C and kappa
_TINY = 1e-300
_NO_POINTS = Points(**{field.name: np.empty(0) for field in fields(Points)})


@dataclass(frozen=True)
class Mixture:
    """Weighted shapes of the law, with the scale of the error around their mean; ``n`` shapes.

    Attributes:
        progress: Progress and annealing of the plan.
        alpha: Exponents, shape ``(n,)``.
        speed: Index of the annealing speed, shape ``(n,)``.
        kappa: Annealing gains, shape ``(n,)``.
        offset: ``L0``, shape ``(n,)``.
        slope: ``A``, shape ``(n,)``.
        weight: Posterior weights, shape ``(n,)``, summing to 1.
        now: Step of the forecast.
        level_error: Standard error of the present level.
        spread_factor: Factor on the disagreement of the shapes.
        gain_unknown: Whether the gain of annealing is taken from the prior alone.
        config: Scale of the error.
    """

    progress: Progress
    alpha: NDArray[np.float64]
    speed: NDArray[np.intp]
    kappa: NDArray[np.float64]
    offset: NDArray[np.float64]
    slope: NDArray[np.float64]
    weight: NDArray[np.float64]
    now: float
    level_error: float
    spread_factor: float
    gain_unknown: bool
    config: ErrorConfig = DEFAULT.error

    def __call__(self, steps: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Medians and scales at steps of shape ``(m,)``."""
        mean, spread = self._moments(steps)
        reference = self._moments(np.array([self.now]))[0]
        scale = np.sqrt(
            (self.spread_factor * spread) ** 2
            + (self.config.change_share * (reference - mean)) ** 2
            + (self.config.level_error_factor * self.level_error) ** 2
            + (self.config.min_share_of_loss * mean) ** 2
        )
        if self.gain_unknown:
            # the 90 % interval holds a decay that gains nothing and one that gains twice the prior's
            scale = np.maximum(scale, self._gain(steps) / self.config.interval_half_width)
        return mean, scale

    def _gain(self, steps: NDArray[np.float64]) -> NDArray[np.float64]:
        """Forecast gain of annealing between the present and the given steps."""
        gain = self.progress.annealing(steps) - self.progress.annealing([self.now])
        return np.maximum((self.weight * self.slope * self.kappa * self.alpha) @ gain[self.speed], 0.0)

    def spread(self, step: float) -> tuple[float, float]:
        """Disagreement of the shapes at a step, and the forecast change from the present to it."""
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
    """A path moved to another final loss, in proportion to the share of the forecast change already made.

    Attributes:
        path: The path by the run's own losses.
        now: Step of the forecast.
        horizon: Last step.
        start: Median of the path now.
        end: Its median at the horizon.
        final: Median at the horizon after the move.
        scale: Scale there.
    """

    path: PredictivePath
    now: float
    horizon: float
    start: float
    end: float
    final: float
    scale: float

    def __call__(self, steps: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Medians and scales at steps of shape ``(m,)``."""
        medians, scales = self.path(steps)
        elapsed = np.clip((steps - self.now) / (self.horizon - self.now), 0.0, 1.0)
        change = self.start - self.end
        falls = change > _NO_CHANGE * abs(self.start)
        share = np.clip((self.start - medians) / change, 0.0, 1.0) if falls else elapsed
        share = np.where(elapsed <= 0, 0.0, np.where(elapsed >= 1, 1.0, share))
        scales = np.sqrt((1 - share) * scales**2 + share * self.scale**2)
        return medians + share * (self.final - self.end), scales


_NO_CHANGE = 1e-3  # of the loss: below, a path is moved in proportion to the steps instead


class PriorSource(Protocol):
    """A prior that can be specialized to a run: a published one, or the past runs of a family."""

    def with_batch_size(self, tokens_per_step: float) -> PriorSource:
        """The same for a run of so many tokens (or samples) per step."""

    def for_plan(self, plan: Plan) -> RunPrior:
        """The prior of a run under this plan."""


class Forecaster:
    r"""Forecasts of one run under its plan.

    The law is the Multi-Power Law (Luo et al. 2025, arXiv 2503.12811) in units of the peak rate and of the whole
    plan, ``L(s) = L0 + A * (P(s) ** -alpha - kappa * alpha * LD_C(s))``, with ``P`` and ``LD_C`` of
    :class:`Progress`. Tying the gain of annealing to ``alpha * A``, the slope of the loss per unit of log progress,
    makes ``kappa`` alike for runs of very different losses (about 1 to 2.7 on public runs). ``L0`` and ``A`` are
    solved exactly for every shape ``(alpha, C, kappa)`` of a grid, and the shapes averaged by prior times evidence,
    with the number of points deflated by their autocorrelation.

    The error around that mean is a Student t whose squared scale adds the disagreement of the shapes, a share of the
    change forecast from now on (the law itself is wrong by about that share), and the error of the present level: the
    noise of the losses over the root of how many independent ones there are, but not less than .03 % of it.

    Args:
        plan: Plan of the run.
        prior: A prior of the shape, or past runs of the family.
        config: The tuned numbers.
    """

    law = "relative_multi_power"

    def __init__(self, plan: Plan, prior: PriorSource = PUBLISHED, config: ForecastConfig = DEFAULT) -> None:
        self.plan = plan
        self.config = config
        self.run_prior = prior.for_plan(plan)
        self.shape_prior = self.run_prior.shape
        shape = self.shape_prior
        alphas = log_density(config.grid.alphas, shape.alpha, shape.alpha_spread)
        kappas = log_density(config.grid.kappas, shape.kappa, shape.kappa_spread)
        self._log_prior = (alphas[:, None] + kappas)[:, None, :]
        self._progress: Progress | None = None

    def with_prior(self, prior: PriorSource) -> Forecaster:
        """A forecaster of the same plan with another prior."""
        other = Forecaster(self.plan, prior, self.config)
        other._progress = self._progress
        return other

    def horizon(self, step: int) -> int:
        """Step of the final loss: the end of the plan, or twice the present progress where there is no end ahead."""
        total = self.plan.total_steps
        return total if total is not None and total >= step else self.config.error.open_horizon_factor * max(step, 1)

    def shapes(self, points: Points, step: int) -> LawGridFit | None:
        """The losses up to a step fitted in every shape, to be compared with another run's.

        Returns:
            ``None`` without an end of the plan ahead, in a blow-up, or with fewer than four points after the burn-in.
        """
        total = self.plan.total_steps
        if total is None or step > total:
            return None
        return fit_shapes(self.plan, self._progress_to(total), self._log_prior, points, step, self.config.grid)

    def fit(self, points: Points, step: int) -> Forecast:
        """The forecast from the losses seen so far.

        Args:
            points: The curve.
            step: The present step.

        Returns:
            The forecast; while there is too little to fit it rests on the prior alone.
        """
        grid = self.config.grid
        horizon = self.horizon(step)
        progress = self._progress_to(horizon)
        used = (points.last > burn_in(self.plan, step, grid)) & ~isolated_outliers(points.loss, grid)
        if int(used.sum()) < grid.min_points:
            return self._from_prior(points, step, f"fewer than {grid.min_points} points after the warm-up")
        curve = fit_curve(points, used, progress, grid)
        mixture, params = self._mixture(curve, progress, step)
        is_falling = bool(curve.fit.slope.flat[curve.fit.best] > 0)
        if not is_falling and curve.reach[-1] < self.config.error.min_progress_ratio * curve.reach[0]:
            return self._from_prior(points, step, "the curve has not begun to fall after the warm-up")
        path = self._blended(mixture, step, horizon)
        trust, why = self._trust(step, progress, path, float(curve.loss.max()))
        if curve.step.size < self.config.error.few_points and self.run_prior.log_final_loss is None:
            trust, why = "none", f"only {curve.step.size} points after the warm-up"
        if not is_falling:
            trust, why = "low", "the curve is not falling, so the law says only that it stays where it is"
        known = {"params": params, "is_falling": is_falling, "valid_until": progress.tells_up_to(step)}
        return self._forecast(points, step, trust, why, path, mixture, **known)

    def _forecast(
        self,
        points: Points,
        step: int,
        trust: Trust,
        why: str,
        path: PredictivePath | None,
        own_path: PredictivePath | None,
        **known: Any,
    ) -> Forecast:
        """The forecast, with the path by past runs under the same schedule.

        There is none before the peak rate, up to which many runs stumble.
        """
        horizon, peers = self.horizon(step), self.run_prior.peer_curves
        at_plan_end = horizon == self.plan.total_steps
        compared = peers is not None and at_plan_end and self.plan.warmup_end <= step < horizon
        known["peer_path"] = peers.path(points, step, horizon) if peers is not None and compared else None
        known |= {"path": path, "own_path": own_path, "at_plan_end": at_plan_end}
        return Forecast(step, horizon, self.law, trust, why, **known)

    def _mixture(self, curve: CurveFit, progress: Progress, step: int) -> tuple[Mixture, dict[str, float]]:
        """The shapes weighted by prior and evidence, and the parameters that are shown of them."""
        error, grid, fit = self.config.error, self.config.grid, curve.fit
        weight = self._weigh(curve)
        kept = weight > error.min_weight_ratio * weight.max()
        a, c, k = np.nonzero(kept)
        share = weight[kept] / weight[kept].sum()
        # the parameters were fitted to these points: with few of them the residuals are too small
        size = curve.step.size
        noise = math.sqrt(float(fit.weights @ fit.residual**2) * (size / max(size - _PARAMETERS, 1)))
        unseen = progress.unseen(step)
        level_error, now = noise / math.sqrt(curve.effective_points), float(step)
        spread_factor, gain_unknown = (1.0, not self.run_prior.annealed) if unseen else (error.mixture_share, False)
        alpha, kappa, offset, slope = grid.alphas[a], grid.kappas[k], fit.offset[kept], fit.slope[kept]
        mixture = Mixture(
            progress, alpha, c, kappa, offset, slope, share, now, level_error, spread_factor, gain_unknown, error
        )
        params = {
            "L0": float(share @ offset),
            "A": float(share @ slope),
            "alpha": float(np.exp(share @ np.log(alpha))),
            "kappa": float(np.exp(share @ np.log(kappa))),
            "C": float(np.exp(share @ np.log(np.array(ANNEAL_RATES)[c]))),
            "noise": noise,
            "losses_per_point": float(np.median(curve.count[-grid.noise_window_points :])),
            "points": float(size),
            "effective_points": curve.effective_points,
            "burn_in_step": float(burn_in(self.plan, step, grid)),
        }
        return mixture, params

    def _from_prior(self, points: Points, step: int, why: str) -> Forecast:
        """The prior-predictive forecast of a run that has shown a level at most."""
        horizon = self.horizon(step)
        progress = self._progress_to(horizon)
        shape, config = self.shape_prior, self.config.prior
        observed = ObservedLevel.of(points, config)
        own = None if observed is None else PriorPath(progress, shape, observed, config)
        path: PredictivePath | None = own
        trust: Trust = "none"
        expected = self.run_prior.log_final_loss
        if expected is not None and horizon == self.plan.total_steps:
            trust, why = "low", f"{why}; it rests on {self.run_prior.source or shape.source}"
            final = math.exp(expected[0])
            level = ObservedLevel(float(horizon), final, final * expected[1])
            path = PriorPath(progress, shape, level, config) if own is None else self._blended(own, step, horizon)
        return self._forecast(points, step, trust, why, path, own, is_falling=False)

    def before(self) -> Forecast:
        """The forecast before the first step, from the final losses of past runs, if there are any."""
        return self._from_prior(_NO_POINTS, 0, "no losses yet")

    def _blended(self, path: PredictivePath, step: int, horizon: int) -> PredictivePath:
        """The path combined with the prior of the final loss."""
        if self.run_prior.log_final_loss is None or horizon != self.plan.total_steps or step >= horizon:
            return path
        medians, scales = path(np.array([float(step), float(horizon)]))
        final, scale = self.run_prior.correct(step / horizon, float(medians[1]), float(scales[1]))
        return BlendedPath(path, float(step), float(horizon), float(medians[0]), float(medians[1]), final, scale)

    def _progress_to(self, horizon: int) -> Progress:
        if self._progress is None or self._progress.horizon != horizon:
            self._progress = Progress(self.plan, horizon)
        return self._progress

    def _weigh(self, curve: CurveFit) -> NDArray[np.float64]:
        """Posterior weights of the shapes, shape ``(a, c, k)``, summing to 1."""
        grid, fit, loss, shape = self.config.grid, curve.fit, curve.loss, self.shape_prior
        level = max(abs(float(loss.mean())), float(loss.std()), _TINY)
        slope = np.maximum(grid.alphas[:, None, None] * fit.slope / level, _MIN_SLOPE)
        floor = np.minimum(fit.offset / level, 0.0) * grid.negative_floor_penalty if loss.min() > 0 else 0.0
        score = self._log_prior + log_density(slope, shape.slope, shape.slope_spread) + floor
        score = score - 0.5 * curve.evidence_points * np.log(fit.sse / fit.sse.min())
        weight = np.exp(score - score.max())
        return np.asarray(weight / weight.sum())

    def _trust(self, step: int, progress: Progress, path: PredictivePath, top: float) -> tuple[Trust, str]:
        plan, config = self.plan, self.config.error
        if plan.total_steps is None or plan.total_steps < step:
            reason = plan.why if plan.total_steps is None and plan.why else "the run has no planned end ahead"
            return "low", f"{reason}; the forecast is for twice the present progress"
        if not plan.known:
            return "low", plan.why or "the learning rate ahead is not known"
        alone = self.run_prior.log_final_loss is None
        if step <= plan.warmup_end and alone:
            return "none", "the warm-up is not over"
        final, scale = (float(values[0]) for values in path(np.array([progress.horizon])))
        relative = scale / max(abs(final), config.fallen_share * (top - final), _TINY)
        unseen = not self.run_prior.annealed and progress.unseen(step)
        if unseen and relative > config.max_relative_scale_before_decay:
            source = self.shape_prior.source
            return "low", f"the learning rate has hardly begun to fall: what its decay gains is taken from {source}"
        if relative > config.max_relative_scale:
            past = "" if alone else f", even with {self.run_prior.source or self.shape_prior.source}"
            reach = f"{config.interval_half_width * relative:.1%} to either side{past}"
            return "low", f"the 90% interval still reaches {reach}"
        return "ok", ""


_MIN_SLOPE = 1e-9  # relative; a rising curve gets the density of this slope
