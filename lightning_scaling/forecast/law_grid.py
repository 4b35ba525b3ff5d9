"""The law fitted to a run in every shape at once, for runs that are compared with each other."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lightning_scaling.forecast import forecaster as law
from lightning_scaling.forecast.forecaster import Forecaster
from lightning_scaling.forecast.priors.past_run import before
from lightning_scaling.laws.solvers import fit_grid
from lightning_scaling.runs.curve import Points

_RECENT = 0.04
_OUT_OF_FALL, _OUT_OF_NOISE = 0.02, 8.0


@dataclass(frozen=True)
class LawGridFit:
    """A run up to one step in every shape ``(alpha, C, kappa)`` of the law, an axis each.

    Attributes:
        level: Loss at the step: the best shape there, moved to the middle of the latest losses.
        noise: Standard deviation of the level.
        slope: ``A`` of the law, shape ``(a, c, k)``, in units of the loss.
        power: How much ``P ** -alpha`` falls from the step to the end of the plan, shape ``(a,)``.
        gain: How much ``LD_C`` grows from the step to the end of the plan, shape ``(c,)``.
        share: ``kappa * alpha``, shape ``(a, k)``.
        evidence: What the run says of the shapes, logarithm up to a constant, shape ``(a, c, k)``.
        belief: What was believed of them before, the same.
        peak: Highest planned rate.
        unsure: Relative standard error of the slope, by the noise of the losses.
        settled: Step at which the warm-up, or the last blow-up the run has recovered from, was over.
    """

    level: float
    noise: float
    slope: NDArray[np.float64]
    power: NDArray[np.float64]
    gain: NDArray[np.float64]
    share: NDArray[np.float64]
    evidence: NDArray[np.float64]
    belief: NDArray[np.float64]
    peak: float
    unsure: float
    settled: float

    @classmethod
    def of(cls, forecaster: Forecaster, points: Points, step: int) -> LawGridFit | None:
        """Fit the losses up to a step; ``None`` in a blow-up, or while there are fewer than four after the start."""
        total = forecaster.plan.total_steps
        if total is None or step > total:
            return None
        seen = before(points, step)
        out = sustained_outliers(seen.loss)
        usable = (seen.last > forecaster._burn_in(step)) & ~law.isolated_outliers(seen.loss) & ~out
        if out[-1:].any():
            return None
        if int(usable.sum()) < law._MIN_POINTS:
            return None
        progress = forecaster._progress_to(total)
        at, loss, count = seen.step[usable], seen.loss[usable], seen.count[usable]
        reach = progress.progress(at)
        weights = (reach / reach[-1]) ** law._RECENCY * law._precision(count, seen.spread[usable], loss)
        base = np.exp(-law._ALPHAS[:, None] * np.log(reach))
        gained = progress.annealing(at)
        fit = fit_grid(base, gained, forecaster._share, loss, weights)
        ends = np.array([float(step), float(total)])
        powers = np.exp(-law._ALPHAS[:, None] * np.log(progress.progress(ends)))
        gains = progress.annealing(ends)
        a, c, k = np.unravel_index(fit.best, fit.sse.shape)
        here = fit.offset[a, c, k] + fit.slope[a, c, k] * (powers[a, 0] - forecaster._share[a, k] * gains[c, 0])
        late = at > step - _RECENT * total
        late[-1] = True
        level = float(here + np.average(fit.residual[late], weights=count[late]))
        noise = float(np.sqrt(fit.weights @ fit.residual**2)) / np.sqrt(late.sum())
        residual = fit.residual - fit.residual.mean()
        power = float(residual @ residual)
        lag = max(float(residual[1:] @ residual[:-1]) / power if power > 0 else 0.0, 0.0)
        independent = min(
            max(2 * law._EVIDENCE * loss.size * (1 - lag) / (1 + lag), law._MIN_POINTS), law._MAX_EVIDENCE
        )
        least = float(fit.sse.flat[fit.best])
        explained = float(fit.weights @ (loss - fit.weights @ loss) ** 2) - least
        speaking = max((1 - lag) / (1 + lag) / float(fit.weights @ fit.weights), 1.0)
        return cls(
            level,
            float(noise),
            fit.slope,
            powers[:, 0] - powers[:, 1],
            gains[:, 1] - gains[:, 0],
            forecaster._share,
            -0.5 * independent * np.log(fit.sse / max(float(fit.sse.min()), 1e-300)),
            np.broadcast_to(forecaster._shape_prior, fit.sse.shape),
            forecaster.plan.peak,
            float(np.sqrt(least / max(explained, 1e-3 * least, 1e-300) / speaking)),
            max(float(forecaster.plan.warmup_end), float(seen.last[out].max(initial=0.0))),
        )


def sustained_outliers(loss: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Losses far above the lowest one before: a blow-up, and the way back from it, which no law describes.

    Far is more than a fiftieth of what the loss had fallen in all, and more than eight times its noise.

    Args:
        loss: Losses in the order of training, shape ``(n,)``.
    """
    if loss.size < law._MIN_POINTS:
        return np.zeros(loss.shape, dtype=bool)
    lowest = np.minimum.accumulate(loss)
    before_it = np.concatenate([loss[:1], lowest[:-1]])
    noise = 1.4826 * float(np.median(np.abs(np.diff(loss))[-64:]))
    fallen = np.maximum.accumulate(loss) - lowest
    out: NDArray[np.bool_] = loss > before_it + np.maximum(_OUT_OF_FALL * fallen, _OUT_OF_NOISE * noise)
    return out
