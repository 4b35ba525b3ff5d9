"""What is believed about the shape of a curve before it is seen."""

from __future__ import annotations

import math
from dataclasses import dataclass


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
