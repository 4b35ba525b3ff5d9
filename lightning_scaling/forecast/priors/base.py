"""Priors over the shape of a loss curve."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from lightning_scaling.forecast.calibration import ALONE, FAMILY, Calibration
from lightning_scaling.forecast.config import DEFAULT
from lightning_scaling.forecast.priors.config import PriorConfig
from lightning_scaling.forecast.result import PredictivePath
from lightning_scaling.runs.curve import Points
from lightning_scaling.schedule.plan import Plan


@dataclass(frozen=True)
class ShapePrior:
    """Log-normal prior of the dimensionless shape of a loss curve.

    The shape is free of units, so that it carries over between recipes: progress is relative to the whole plan, rates
    to the peak rate, and the gain of annealing to the slope of the loss.

    Args:
        alpha: Median of the exponent of the loss in progress.
        alpha_spread: Standard deviation of its logarithm.
        kappa: Median of the annealing gain: what a full fall of the rate gains, in units of the slope of the loss per
            unit of log progress at the end of the plan.
        kappa_spread: Standard deviation of its logarithm.
        slope: Median of that slope over the loss level.
        slope_spread: Standard deviation of its logarithm.
        source: Where the prior comes from.
        steps: Length in steps of the runs that :attr:`slope` speaks of, if it is to be carried over to others: a run
            of more steps ends on a flatter curve, by the root of the ratio. ``None`` if it is meant for this run.
    """

    alpha: float
    alpha_spread: float
    kappa: float
    kappa_spread: float
    slope: float
    slope_spread: float
    source: str
    steps: float | None = None

    def with_batch_size(self, tokens_per_step: float) -> ShapePrior:
        """Itself: the prior is the same whatever the batch."""
        return self

    def for_plan(self, plan: Plan, config: PriorConfig = DEFAULT.prior) -> RunPrior:
        """This prior, the slope carried over to the length of the plan, and none of the final loss."""
        if self.steps is None or plan.total_steps is None:
            return RunPrior(self, config=config)
        slope = self.slope * (plan.total_steps / self.steps) ** -config.slope_length_power
        least, most = config.slope_range
        return RunPrior(replace(self, slope=min(max(slope, least), most), steps=None), config=config)


@dataclass(frozen=True)
class Correction:
    """Correction of forecasts made at parts of a run, learned from those of past runs; all of shape ``(f,)``.

    Args:
        fractions: The parts of the run.
        shift: By how much the logarithm of a forecast is to be raised.
        spread: Standard deviation of that.
        trusted: Factor on the scale of the forecast's own error.
        shared: Correlation of its error with that of the final loss predicted from past final losses.
    """

    fractions: NDArray[np.float64]
    shift: NDArray[np.float64]
    spread: NDArray[np.float64]
    trusted: NDArray[np.float64]
    shared: NDArray[np.float64]

    def apply(self, fraction: float, log: float, error: float) -> tuple[float, float, float]:
        """The corrected log forecast, its relative error, and the correlation of that error."""
        fade = min((1 - fraction) / (1 - float(self.fractions[-1])), 1.0)
        shift, spread, trusted, shared = (
            float(np.interp(fraction, self.fractions, values))
            for values in (self.shift, self.spread, self.trusted, self.shared)
        )
        return log + fade * shift, math.hypot(fade * spread, trusted * error), shared


class PeerCurves(Protocol):
    """Predicts the rest of a curve from the curves of past runs."""

    def path(self, points: Points, step: int, total_steps: int) -> PredictivePath | None:
        """The path after a step, from the losses up to it; ``None`` where it cannot be predicted."""


@dataclass(frozen=True)
class RunPrior:
    """The prior of one run under its plan.

    Args:
        shape: The shape of its curve.
        log_final_loss: Logarithm of the final loss predicted from past final losses, and the scale of its error;
            ``None`` without finished past runs.
        correction: Correction of its forecasts; ``None`` where nothing was learned.
        annealed: Whether past runs have shown what annealing gains.
        source: Where it comes from; left out, where the shape does.
        peer_curves: Past runs under the same schedule, to compare the curve with; ``None`` without enough of them.
        config: The tuned numbers.
        calibration: What the scale of forecasts is corrected by last of all; ``None`` leaves it as it is.
    """

    shape: ShapePrior
    log_final_loss: tuple[float, float] | None = None
    correction: Correction | None = None
    annealed: bool = False
    source: str = ""
    peer_curves: PeerCurves | None = None
    config: PriorConfig = DEFAULT.prior
    calibration: Calibration | None = None

    @property
    def mode(self) -> str:
        """Mode of its forecasts: whether past runs predict the final loss."""
        return ALONE if self.log_final_loss is None else FAMILY

    def correct(self, fraction: float, final: float, scale: float) -> tuple[float, float]:
        """A forecast of the final loss made at a fraction of the run, combined with the prior.

        Args:
            fraction: How much of the run has been seen.
            final: Median of the final loss.
            scale: Scale of its error.

        Returns:
            Median and scale; unchanged where nothing was learned.
        """
        shared = 0.0
        if self.correction is not None and final > 0 and scale < self.config.max_correctable_scale * final:
            log, error, shared = self.correction.apply(fraction, math.log(final), scale / final)
            final, scale = math.exp(log), math.exp(log) * error
        if self.log_final_loss is not None:
            end = math.exp(self.log_final_loss[0])
            final, scale = self._combined((final, scale), (end, end * self.log_final_loss[1]), shared)
        if self.calibration is not None:
            return self.calibration.apply(self.mode, fraction, final, scale)
        return final, scale

    def _combined(self, curve: tuple[float, float], prior: tuple[float, float], shared: float) -> tuple[float, float]:
        """The best weighted mean of two forecasts with correlated errors; in a prior-data conflict the curve wins."""
        conflict = abs(curve[0] - prior[0]) / math.hypot(curve[1], prior[1])
        one, other = curve[1], prior[1] * max(conflict / self.config.conflict_threshold, 1.0) ** 2
        joint = shared * one * other
        weight = min(max((one**2 - joint) / (one**2 + other**2 - 2 * joint), 0.0), 1.0)
        variance = ((1 - weight) * one) ** 2 + (weight * other) ** 2 + 2 * weight * (1 - weight) * joint
        return curve[0] + weight * (prior[0] - curve[0]), math.sqrt(variance)


PUBLISHED = ShapePrior(
    alpha=0.43,
    alpha_spread=0.35,
    kappa=1.25,
    kappa_spread=0.35,
    slope=0.035,
    slope_spread=0.4,
    source="published language-model runs",
    steps=13_000,
)
"""What language models have in common. Exponents of .43 to .51 and annealing gains of 1.1 to 1.6 times the log slope
are those of Luo et al. 2025 (arXiv 2503.12811, fitted parameters); that the slope at the end falls with the root of the
number of steps was found on runs of 1,400 to 72,000 steps at 25 million to 1.3 billion parameters, and
``benchmarks/forecast.py`` shows the errors of the forecasts."""


def shape_parameters(prior: ShapePrior) -> tuple[tuple[float, float], ...]:
    """Medians of alpha, kappa and slope, each with the standard deviation of its logarithm."""
    return (prior.alpha, prior.alpha_spread), (prior.kappa, prior.kappa_spread), (prior.slope, prior.slope_spread)


def log_density(value: NDArray[np.float64], median: float, spread: float) -> NDArray[np.float64]:
    """Logarithms of a log-normal density, of the shape of ``value``, up to a constant."""
    return np.asarray(-0.5 * ((np.log(value) - math.log(median)) / spread) ** 2)
