"""The law on a grid of shapes: design, evidence and effective sample size of one curve."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import median_filter

from lightning_scaling._utils.stats import MAD_TO_STD
from lightning_scaling.forecast.config import DEFAULT, GridConfig
from lightning_scaling.laws.solvers import GridFit, fit_grid
from lightning_scaling.runs.curve import Points
from lightning_scaling.schedule.plan import Plan
from lightning_scaling.schedule.progress import Progress

Array = NDArray[np.float64]
_TINY = 1e-300


def before(points: Points, step: int) -> Points:
    """The part of a curve up to a step."""
    kept = points.last <= step
    return Points(**{name: values[kept] for name, values in vars(points).items()})


def burn_in(plan: Plan, step: int, config: GridConfig = DEFAULT.grid) -> float:
    """Step up to which losses are left out: the warm-up, and at least 4 % of the plan."""
    total = plan.total_steps if plan.total_steps is not None else step
    return min(max(config.burn_in_share * total, plan.warmup_end), config.max_burn_in_share_seen * step)


@dataclass(frozen=True)
class CurveFit:
    """The law fitted to some points of a curve in every shape ``(alpha, C, kappa)``.

    Attributes:
        fit: Offsets, slopes and squared errors, shape ``(a, c, k)``, with the residuals of the best shape.
        step: Steps of the points, shape ``(n,)``.
        loss: Their losses.
        count: Losses per point.
        reach: Progress at the points.
        deflation: Effective over nominal sample size, ``(1 - r) / (1 + r)`` by the lag-1 autocorrelation ``r`` of the
            residuals.
        evidence_points: Points that count between shapes.
        effective_points: Independent points that fix the level.
    """

    fit: GridFit
    step: Array
    loss: Array
    count: Array
    reach: Array
    deflation: float
    evidence_points: float
    effective_points: float


def fit_curve(points: Points, used: NDArray[np.bool_], progress: Progress, config: GridConfig) -> CurveFit:
    """Fit the law in every shape of the grid to the used points, recent ones weighted most."""
    step, loss, count = points.step[used], points.loss[used], points.count[used]
    reach = progress.progress(step)
    precision = _precision(count, points.spread[used], loss, config)
    weights = (reach / reach[-1]) ** config.recency_power * precision
    base = np.exp(-config.alphas[:, None] * np.log(reach))
    fit = fit_grid(base, progress.annealing(step), gain_shares(config), loss, weights)
    residual = fit.residual - fit.residual.mean()
    power = float(residual @ residual)
    lag = max(float(residual[1:] @ residual[:-1]) / power if power > 0 else 0.0, 0.0)
    deflation = (1 - lag) / (1 + lag)
    evidence = 2 * config.evidence_per_point * loss.size * deflation
    evidence = min(max(evidence, config.min_points), config.max_evidence_points)
    effective = max(deflation / float(fit.weights @ fit.weights), 1.0)
    return CurveFit(fit, step, loss, count, reach, deflation, evidence, effective)


def gain_shares(config: GridConfig) -> Array:
    """``kappa * alpha`` of the grid, shape ``(a, k)``."""
    return config.alphas[:, None] * config.kappas[None, :]


@dataclass(frozen=True)
class LawGridFit:
    """A run up to one step in every shape ``(alpha, C, kappa)`` of the law, an axis each, to be compared with others.

    Attributes:
        level: Loss at the step: the best shape there, moved to the middle of the latest losses.
        noise: Standard deviation of the level.
        slope: ``A`` of the law, shape ``(a, c, k)``, in units of the loss.
        power: How much ``P ** -alpha`` falls from the step to the end of the plan, shape ``(a,)``.
        gain: How much ``LD_C`` grows from the step to the end of the plan, shape ``(c,)``.
        share: ``kappa * alpha``, shape ``(a, k)``.
        evidence: Log-likelihood of the shapes up to a constant, shape ``(a, c, k)``.
        belief: Their log prior density, the same.
        peak: Highest planned rate.
        unsure: Relative standard error of the slope, by the noise of the losses.
        settled: Step at which the warm-up, or the last blow-up the run has recovered from, was over.
    """

    level: float
    noise: float
    slope: Array
    power: Array
    gain: Array
    share: Array
    evidence: Array
    belief: Array
    peak: float
    unsure: float
    settled: float


def fit_shapes(
    plan: Plan, progress: Progress, log_prior: Array, points: Points, step: int, config: GridConfig = DEFAULT.grid
) -> LawGridFit | None:
    """Fit the losses up to a step in every shape.

    Args:
        plan: Plan of the run, with an end.
        progress: Its progress up to that end.
        log_prior: Log prior density of the shapes, broadcast to ``(a, c, k)``.
        points: The curve.
        step: The step.
        config: The grid.

    Returns:
        ``None`` in a blow-up, or with fewer than four points after the burn-in.
    """
    seen = before(points, step)
    out = sustained_outliers(seen.loss, config)
    used = (seen.last > burn_in(plan, step, config)) & ~isolated_outliers(seen.loss, config) & ~out
    if out[-1:].any() or int(used.sum()) < config.min_points:
        return None
    curve = fit_curve(seen, used, progress, config)
    fit, share = curve.fit, gain_shares(config)
    ends = np.array([float(step), progress.horizon])
    powers = np.exp(-config.alphas[:, None] * np.log(progress.progress(ends)))
    gains = progress.annealing(ends)
    a, c, k = np.unravel_index(fit.best, fit.sse.shape)
    here = fit.offset[a, c, k] + fit.slope[a, c, k] * (powers[a, 0] - share[a, k] * gains[c, 0])
    late = curve.step > step - config.level_window_share * progress.horizon
    late[-1] = True
    level = float(here + np.average(fit.residual[late], weights=curve.count[late]))
    least = float(fit.sse.flat[fit.best])
    explained = float(fit.weights @ (curve.loss - fit.weights @ curve.loss) ** 2) - least
    return LawGridFit(
        level=level,
        noise=float(np.sqrt(fit.weights @ fit.residual**2) / np.sqrt(late.sum())),
        slope=fit.slope,
        power=powers[:, 0] - powers[:, 1],
        gain=gains[:, 1] - gains[:, 0],
        share=share,
        evidence=-0.5 * curve.evidence_points * np.log(fit.sse / max(float(fit.sse.min()), _TINY)),
        belief=np.broadcast_to(log_prior, fit.sse.shape),
        peak=plan.peak,
        unsure=float(np.sqrt(least / max(explained, 1e-3 * least, _TINY) / curve.effective_points)),
        settled=max(float(plan.warmup_end), float(seen.last[out].max(initial=0.0))),
    )


def isolated_outliers(loss: Array, config: GridConfig = DEFAULT.grid) -> NDArray[np.bool_]:
    """Isolated outliers by Hampel's rule: far from the running median, by the running spread and by 1 % of the loss.

    Three bins in a row are no outliers: what lasts is part of the curve.
    """
    if loss.size < config.outlier_window_points:
        return np.zeros(loss.shape, dtype=bool)
    distance = np.abs(loss - median_filter(loss, config.outlier_window_points, mode="reflect"))
    spread = MAD_TO_STD * float(np.median(distance[-config.noise_window_points :]))
    least = config.outlier_min_share_of_loss * np.abs(loss)
    outlying: NDArray[np.bool_] = distance > np.maximum(config.outlier_threshold * spread, least)
    outlying[: config.outlier_window_points // 2] = False  # no neighbours on the left of the steep beginning
    return outlying


def sustained_outliers(loss: Array, config: GridConfig = DEFAULT.grid) -> NDArray[np.bool_]:
    """Losses far above the lowest one before: a blow-up and the recovery from it, which no law describes.

    Far is more than a fiftieth of what the loss had fallen in all, and more than eight times its noise.

    Args:
        loss: Losses in the order of training, shape ``(n,)``.
        config: The thresholds.
    """
    if loss.size < config.min_points:
        return np.zeros(loss.shape, dtype=bool)
    lowest = np.minimum.accumulate(loss)
    before_it = np.concatenate([loss[:1], lowest[:-1]])
    noise = MAD_TO_STD * float(np.median(np.abs(np.diff(loss))[-config.noise_window_points :]))
    fallen = np.maximum.accumulate(loss) - lowest
    height = np.maximum(config.blow_up_min_share_of_fall * fallen, config.blow_up_min_noise * noise)
    out: NDArray[np.bool_] = loss > before_it + height
    return out


def _precision(count: Array, spread: Array, loss: Array, config: GridConfig) -> Array:
    """Inverse variance of a bin's mean, up to a factor: noise over its count, plus the misfit of the law."""
    known = spread[np.isfinite(spread)]
    if not known.size:
        return np.ones_like(count)
    noise = float(np.median(known[-config.noise_window_points :])) ** 2
    misfit = (config.misfit_share_of_loss * float(np.median(np.abs(loss)))) ** 2
    return 1.0 / (noise / count + misfit + _TINY)
