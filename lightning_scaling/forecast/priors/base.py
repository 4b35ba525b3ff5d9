"""What is believed about the shape of a curve before it is seen."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from lightning_scaling.forecast.result import PredictivePath
from lightning_scaling.runs.curve import Points
from lightning_scaling.schedule.plan import Plan

_CONFLICT = 3.0
_SMALL = 0.3
_FLATTENING = 0.5
_LEAST_SLOPE, _MOST_SLOPE = 0.005, 0.2


@dataclass(frozen=True)
class ShapePrior:
    """Log-normal beliefs about the dimensionless shape of a loss curve.

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
        source: Where the beliefs come from.
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
        """The same beliefs whatever the batch."""
        return self

    def for_plan(self, plan: Plan) -> RunPrior:
        """These beliefs, the slope carried over to the length of the plan, and none about where the run will land."""
        if self.steps is None or plan.total_steps is None:
            return RunPrior(self)
        slope = self.slope * (plan.total_steps / self.steps) ** -_FLATTENING
        return RunPrior(replace(self, slope=min(max(slope, _LEAST_SLOPE), _MOST_SLOPE), steps=None))


@dataclass(frozen=True)
class Correction:
    """How forecasts made at parts of a run are set right, as learnt from those of relatives; all of shape ``(f,)``.

    Args:
        fractions: The parts of the run.
        shift: By how much the logarithm of a forecast is to be raised.
        spread: Standard deviation of that.
        trusted: Factor on the scale of the forecast's own error.
        shared: Correlation of its error with that of the landing told by the relatives' landings.
    """

    fractions: NDArray[np.float64]
    shift: NDArray[np.float64]
    spread: NDArray[np.float64]
    trusted: NDArray[np.float64]
    shared: NDArray[np.float64]

    def of(self, fraction: float, log: float, error: float) -> tuple[float, float, float]:
        """Logarithm of a forecast and its relative error anew, and the correlation of that error."""
        fade = min((1 - fraction) / (1 - float(self.fractions[-1])), 1.0)
        shift, spread, trusted, shared = (
            float(np.interp(fraction, self.fractions, values))
            for values in (self.shift, self.spread, self.trusted, self.shared)
        )
        return log + fade * shift, math.hypot(fade * spread, trusted * error), shared


class PeerCurves(Protocol):
    """Tells by the curves of relatives how a run goes on."""

    def path(self, points: Points, step: int, total_steps: int) -> PredictivePath | None:
        """How a run goes on after a step, from its losses up to there; ``None`` where that cannot be told."""


@dataclass(frozen=True)
class RunPrior:
    """What is believed of one run under its plan.

    Args:
        shape: The shape of its curve.
        landing: Logarithm of the final loss as the relatives' tell it, and the scale of its error; ``None`` without
            relatives that have landed.
        correction: How its forecasts are set right; ``None`` where nothing was learnt.
        annealed: Whether relatives have shown what annealing gains.
        source: Where it comes from; left out, where the shape does.
        guide: Relatives under the same schedule, whose curves the run's is held against; ``None`` without enough.
    """

    shape: ShapePrior
    log_final_loss: tuple[float, float] | None = None
    correction: Correction | None = None
    annealed: bool = False
    source: str = ""
    peer_curves: PeerCurves | None = None

    def correct(self, fraction: float, final: float, scale: float) -> tuple[float, float]:
        """A forecast of the final loss made at a fraction of the run, set right by what relatives taught.

        Args:
            fraction: How much of the run has been seen.
            final: Median of the final loss.
            scale: Scale of its error.

        Returns:
            Both anew; unchanged where nothing was learnt.
        """
        shared = 0.0
        if self.correction is not None and final > 0 and scale < _SMALL * final:
            log, error, shared = self.correction.of(fraction, math.log(final), scale / final)
            final, scale = math.exp(log), math.exp(log) * error
        if self.log_final_loss is not None:
            end = math.exp(self.log_final_loss[0])
            final, scale = _combined((final, scale), (end, end * self.log_final_loss[1]), shared)
        return final, scale


def _combined(curve: tuple[float, float], log_final_loss: tuple[float, float], shared: float) -> tuple[float, float]:
    """The best weighted mean of two forecasts with correlated errors; where they clash the curve is believed."""
    clash = abs(curve[0] - log_final_loss[0]) / math.hypot(curve[1], log_final_loss[1])
    one, other = curve[1], log_final_loss[1] * max(clash / _CONFLICT, 1.0) ** 2
    joint = shared * one * other
    weight = min(max((one**2 - joint) / (one**2 + other**2 - 2 * joint), 0.0), 1.0)
    variance = ((1 - weight) * one) ** 2 + (weight * other) ** 2 + 2 * weight * (1 - weight) * joint
    return curve[0] + weight * (log_final_loss[0] - curve[0]), math.sqrt(variance)


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
``benchmarks/forecast.py`` shows what the forecasts are worth."""


def log_density(value: float, median: float, spread: float) -> float:
    """Logarithm of the log-normal density at ``value``, up to a constant."""
    return -0.5 * ((math.log(value) - math.log(median)) / spread) ** 2
