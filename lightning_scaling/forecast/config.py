"""Tuned numbers of the forecasts, each with its meaning, its unit and how it was chosen."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from lightning_scaling.forecast.priors.config import (
    FamilyConfig,
    FeatureConfig,
    FinalLossConfig,
    PastRunConfig,
    PeerConfig,
    PriorConfig,
    law_parameter,
)
from lightning_scaling.laws.run_fit import BURN_IN_SHARE


@dataclass(frozen=True)
class GridConfig:
    """The grid of law shapes and how losses are weighted against it (:mod:`lightning_scaling.forecast.law_grid`).

    Unless a field says otherwise it is an engineering choice; ``benchmarks/forecast.py`` prints the effect.
    """

    alpha_range: tuple[float, float] = law_parameter("alpha").start
    """Smallest and largest exponent of progress, as the starting values of ``alpha`` in the catalogue's law."""

    alpha_count: int = 12
    """Exponents, evenly spaced in the logarithm."""

    kappa_range: tuple[float, float] = law_parameter("kappa").start
    """Smallest and largest annealing gain, as the starting values of ``kappa`` in the catalogue's law."""

    kappa_count: int = 9
    """Annealing gains, evenly spaced in the logarithm."""

    burn_in_share: float = BURN_IN_SHARE
    """Share of the plan left out at the start, besides the warm-up. Choshen et al. 2024 (arXiv 2410.11840) drop a
    tenth."""

    max_burn_in_share_seen: float = 0.5
    """Largest share of the losses seen so far that may be left out as burn-in."""

    recency_power: float = 3.0
    """Weights of the losses grow with progress to this power: the law is local, recent losses matter most."""

    min_points: int = 4
    """Fewest points after the burn-in to which the law is fitted."""

    evidence_per_point: float = 0.3
    """Share of the nominal log-likelihood ratio per independent point that counts between shapes."""

    max_evidence_points: float = 100.0
    """Most independent points that count between shapes: beyond, misfit of the law dominates noise."""

    outlier_window_points: int = 7
    """Width of the running median of Hampel's rule, in points."""

    outlier_threshold: float = 8.0
    """Distance from the running median that makes an outlier, in robust standard deviations."""

    outlier_min_share_of_loss: float = 0.01
    """Smallest distance that makes an outlier, as a share of the loss."""

    noise_window_points: int = 64
    """Latest points from which the noise is estimated."""

    misfit_share_of_loss: float = 5e-4
    """Error of the law at a point, as a share of the loss: bounds how precise a mean of many losses is taken to be."""

    negative_floor_penalty: float = 50.0
    """Log density lost per unit of a negative ``L0`` over the loss level, for positive losses."""

    level_window_share: float = 0.04
    """Latest share of the plan whose residuals correct the level of a run that is compared with others;
    ``benchmarks/decisions.py`` prints the effect."""

    blow_up_min_share_of_fall: float = 0.02
    """Height above the lowest loss that makes a blow-up, as a share of all that the loss has fallen;
    ``benchmarks/decisions.py`` prints the effect."""

    blow_up_min_noise: float = 8.0
    """The same in standard deviations of the differences of neighbouring losses."""

    @property
    def alphas(self) -> NDArray[np.float64]:
        """Exponents of the grid, shape ``(a,)``."""
        return np.geomspace(*self.alpha_range, self.alpha_count)

    @property
    def kappas(self) -> NDArray[np.float64]:
        """Annealing gains of the grid, shape ``(k,)``."""
        return np.geomspace(*self.kappa_range, self.kappa_count)


@dataclass(frozen=True)
class ErrorConfig:
    """Scale of the forecast error and the trust in it (:mod:`lightning_scaling.forecast.forecaster`)."""

    mixture_share: float = 0.5
    """Factor on the disagreement of the shapes once the decay has shown; maximum likelihood of a Student t on recorded
    runs, rounded (``benchmarks/forecast.py --calibrate``)."""

    change_share: float = 0.12
    """Error per unit of change forecast from now on; from the same likelihood."""

    level_error_factor: float = 2.0
    """Factor on the standard error of the present level; from the same likelihood."""

    min_share_of_loss: float = 3e-4
    """Smallest error as a share of the loss. Engineering choice; ``benchmarks/forecast.py`` prints the effect."""

    interval_half_width: float = 2.132
    """Half width of the 90 % interval in scales: 95 % quantile of Student's t with 4 degrees of freedom."""

    min_weight_ratio: float = 1e-4
    """Shapes of less weight, relative to the largest, are dropped; keeps a forecast small."""

    few_points: int = 6
    """Below so many points the trust is ``"none"`` without past runs. Engineering choice."""

    min_progress_ratio: float = 4.0
    """Last over first progress below which a curve that is not falling is taken to be still in its beginning."""

    open_horizon_factor: int = 2
    """Horizon over the present step for a plan without an end."""

    max_relative_scale: float = 0.006
    """Largest scale over the loss (or over :attr:`fallen_share` of the fall) for trust ``"ok"``; gives a 90 % interval
    of 1.3 % to either side. Engineering choice; ``benchmarks/forecast.py`` prints errors by trust."""

    max_relative_scale_before_decay: float = 0.002
    """The same while the gain of the decay is taken from the published prior."""

    fallen_share: float = 0.25
    """Share of what the loss has fallen that may stand for the loss in :attr:`max_relative_scale`."""


@dataclass(frozen=True)
class CalibrationConfig:
    """The correction of intervals (:mod:`lightning_scaling.forecast.calibration`)."""

    widening_shrinkage: float = 5.0
    """Pseudo-runs of factor 1 where intervals are widened; ``benchmarks/calibration.py`` prints the effect."""

    narrowing_shrinkage: float = 10.0
    """The same where they are narrowed."""

    smoothing_fractions: float = 0.7
    """Width of the smoothing over neighbouring fractions, in places."""

    max_known_runs: int = 256
    """Most short names of runs kept, so that the result fits a tag."""

    fraction_tolerance: float = 0.02
    """Largest distance of a logged forecast from the fraction it is scored at."""


@dataclass(frozen=True)
class CounterfactualConfig:
    """Forecasts under other plans (:mod:`lightning_scaling.forecast.counterfactual`)."""

    gain_follows_slope: float = 0.5
    """Power with which the gain of a decay follows the slope of the loss to another end: 0 in some recipes (constant
    in Luo et al. 2025, arXiv 2503.12811), 1 in others."""

    min_share_of_loss: float = 1e-4
    """Smallest error of a difference; this and the next three by the pairs of ``benchmarks/what_if.py``."""

    spread_share: float = 0.5
    """Factor on the disagreement of the shapes about the difference."""

    progress_share: float = 0.12
    """Error per unit of difference that progress makes."""

    annealing_share: float = 0.12
    """Error per unit of difference that annealing makes, once it has been seen."""

    max_rate_rise: float = 0.05
    """Rise of the rate, over the peak, beyond which the trust is low."""


@dataclass(frozen=True)
class ForecastConfig:
    """All tuned numbers of the forecasts.

    Example:
        >>> from dataclasses import replace
        >>> config = replace(ForecastConfig(), grid=GridConfig(recency_power=2.0))
    """

    grid: GridConfig = field(default_factory=GridConfig)
    error: ErrorConfig = field(default_factory=ErrorConfig)
    prior: PriorConfig = field(default_factory=PriorConfig)
    past_run: PastRunConfig = field(default_factory=PastRunConfig)
    features: FeatureConfig = field(default_factory=FeatureConfig)
    final_loss: FinalLossConfig = field(default_factory=FinalLossConfig)
    family: FamilyConfig = field(default_factory=FamilyConfig)
    peers: PeerConfig = field(default_factory=PeerConfig)
    calibration: CalibrationConfig = field(default_factory=CalibrationConfig)
    counterfactual: CounterfactualConfig = field(default_factory=CounterfactualConfig)


DEFAULT = ForecastConfig()
"""The configuration used unless another one is passed."""
