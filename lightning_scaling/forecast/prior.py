"""What is believed about the shape of a curve before it is seen."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lightning_scaling.schedule.plan import Plan

_CONFLICT = 3.0


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
    """

    alpha: float
    alpha_spread: float
    kappa: float
    kappa_spread: float
    slope: float
    slope_spread: float
    source: str

    def of(self, tokens_per_step: float) -> ShapePrior:
        """The same beliefs whatever the batch."""
        return self

    def about(self, plan: Plan) -> Lesson:
        """The same beliefs whatever the plan, and none about where the run will land."""
        return Lesson(self)


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


@dataclass(frozen=True)
class Lesson:
    """What is believed of one run under its plan.

    Args:
        shape: The shape of its curve.
        landing: Logarithm of the final loss as the relatives' tell it, and the scale of its error; ``None`` without
            relatives that have landed.
        correction: How its forecasts are set right; ``None`` where nothing was learnt.
    """

    shape: ShapePrior
    landing: tuple[float, float] | None = None
    correction: Correction | None = None

    def correct(self, fraction: float, final: float, scale: float) -> tuple[float, float]:
        """A forecast of the final loss made at a fraction of the run, set right by what relatives taught.

        Args:
            fraction: How much of the run has been seen.
            final: Median of the final loss.
            scale: Scale of its error.

        Returns:
            Both anew; unchanged where nothing was learnt.
        """
        if final <= 0:
            return final, scale
        log, error, shared = math.log(final), scale / final, 0.0
        if self.correction is not None:
            log, error, shared = self.correction.of(fraction, log, error)
        if self.landing is not None:
            log, error = _combined((log, error), self.landing, shared)
        return math.exp(log), math.exp(log) * error


def _combined(curve: tuple[float, float], landing: tuple[float, float], shared: float) -> tuple[float, float]:
    """The best weighted mean of two forecasts with correlated errors; where they clash the curve is believed."""
    clash = abs(curve[0] - landing[0]) / math.hypot(curve[1], landing[1])
    one, other = curve[1], landing[1] * max(clash / _CONFLICT, 1.0)
    joint = shared * one * other
    weight = min(max((one**2 - joint) / (one**2 + other**2 - 2 * joint), 0.0), 1.0)
    variance = ((1 - weight) * one) ** 2 + (weight * other) ** 2 + 2 * weight * (1 - weight) * joint
    return curve[0] + weight * (landing[0] - curve[0]), math.sqrt(variance)


PUBLISHED = ShapePrior(
    alpha=0.3,
    alpha_spread=0.6,
    kappa=1.2,
    kappa_spread=0.45,
    slope=0.03,
    slope_spread=0.8,
    source="published language-model runs",
)
"""A wide prior that covers the exponents .43 to .51 and the annealing gains of Luo et al. 2025 (arXiv 2503.12811,
fitted parameters: B times the peak rate is 1.1 to 1.6 times the log slope of the loss) and slower curves."""


def log_density(value: float, median: float, spread: float) -> float:
    """Logarithm of the log-normal density at ``value``, up to a constant."""
    return -0.5 * ((math.log(value) - math.log(median)) / spread) ** 2
