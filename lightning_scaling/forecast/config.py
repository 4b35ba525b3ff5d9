"""Tuned numbers of the forecasts, each with its meaning, its unit and how it was chosen."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from lightning_scaling.laws.run_fit import BURN_IN_SHARE


@dataclass(frozen=True)
class GridConfig:
    """The grid of law shapes and how losses are weighted against it (:mod:`lightning_scaling.forecast.law_grid`).

    Unless a field says otherwise it is an engineering choice; ``benchmarks/forecast.py`` prints the effect.
    """

    alpha_range: tuple[float, float] = (0.08, 1.2)
    """Smallest and largest exponent of progress, as the starting values of ``alpha`` in the catalogue's law."""

    alpha_count: int = 12
    """Exponents, evenly spaced in the logarithm."""

    kappa_range: tuple[float, float] = (0.2, 4.0)
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
class PriorConfig:
    """Priors over the shape and their combination with the curve (:mod:`lightning_scaling.forecast.priors.base`).

    Unless a field says otherwise it is an engineering choice; ``benchmarks/forecast.py`` prints the effect.
    """

    conflict_threshold: float = 3.0
    """Distance of prior and curve, in joint scales, from which on the prior is widened (prior-data conflict)."""

    max_correctable_scale: float = 0.3
    """Relative scale above which a forecast is not corrected by the errors of past runs."""

    slope_length_power: float = 0.5
    """The final slope falls with the number of steps to this power, as found on runs of 1,400 to 72,000 steps."""

    slope_range: tuple[float, float] = (0.005, 0.2)
    """Smallest and largest slope to which the prior is carried over."""

    level_points: int = 5
    """Latest points whose median is the level of a run that cannot be fitted yet."""

    min_level_error: float = 0.02
    """Smallest relative error of that level."""

    min_progress: float = 0.02
    """Progress below which a prior path is held constant: its power law has no limit at 0."""

    anneal_rate: float = 0.01
    """Speed of annealing of prior paths, per step at the peak rate."""


@dataclass(frozen=True)
class PastRunConfig:
    """What is read off a past run (:mod:`lightning_scaling.forecast.priors.past_run`).

    Unless a field says otherwise it is an engineering choice; ``benchmarks/forecast.py`` prints the effect.
    """

    final_window_share: float = 0.02
    """Latest share of the run whose residuals correct the fitted final loss."""

    min_shape_error: float = 0.03
    """Smallest standard deviation of the logarithm of a shape parameter found on one run."""

    min_precision_share: float = 0.05
    """Smallest precision of a shape parameter, as a share of the prior's that it was fitted under."""

    min_level_error: float = 2e-4
    """Smallest relative error of a final loss."""


@dataclass(frozen=True)
class FamilyConfig:
    """The prior from past runs (:mod:`lightning_scaling.forecast.priors.family`).

    Unless a field says otherwise it is an engineering choice; ``benchmarks/forecast.py`` prints the effect.
    """

    fractions: tuple[float, ...] = (0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.6, 0.75, 0.9)
    """Parts of the run at which forecasts of past runs are compared with their outcomes."""

    min_runs: int = 2
    """Fewest finished runs that make a prior."""

    max_runs: int = 64
    """Most runs that are used: cost grows with the cube."""

    min_decay: float = 0.15
    """Fall of the rate, over its peak, that shows what annealing gains."""

    unseen_gain_spread: float = 0.6
    """Error of a decay's gain no past run has shown, as a share of the gain of the published prior."""

    min_shape_spread: float = 0.1
    """Smallest standard deviation of the logarithm of a shape parameter in the prior."""

    correlation_shrinkage: float = 10.0
    """Pseudo-runs of zero correlation between errors of curve and prior."""

    max_correlation: float = 0.8
    """Largest correlation of the two errors."""

    shape_medians: tuple[float, float, float] = (0.3, 1.2, 0.03)
    """Medians of alpha, kappa and final slope over families: what the Gaussian process falls back to far from all
    runs. Engineering choice, wider than the published prior; ``benchmarks/first_step.py`` prints the effect."""

    shape_spreads: tuple[float, float, float] = (0.6, 0.45, 0.8)
    """Standard deviations of their logarithms."""


@dataclass(frozen=True)
class PeerConfig:
    """Paths by normalized curves of past runs (:mod:`lightning_scaling.forecast.priors.normalized_curves`).

    Unless a field says otherwise it is an engineering choice; ``benchmarks/deviation.py`` prints alarms and delays.
    """

    min_runs: int = 4
    """Fewest past runs under the same schedule."""

    max_runs: int = 8
    """Most, the most similar ones."""

    max_rate_difference: float = 0.07
    """Largest difference of two rates over their peaks under one schedule."""

    max_rise_share: float = 0.1
    """A past run that rose by more than this share of its gain is left out."""

    start: float = 0.05
    """Part of the run before which curves are not compared."""

    grid_points: int = 200
    """Parts of the run at which curves are kept."""

    floor_shares: tuple[float, ...] = (0.0, 0.5, 0.75)
    """Candidates for the irreducible loss, as shares of the lowest loss."""

    level_windows: tuple[float, ...] = (0.02, 0.04, 0.08, 0.16)
    """Candidate windows, as parts of the run, over which the run's offset is averaged."""

    drift_lag: float = 0.05
    """Part of the run over which drifts are compared."""

    target_noise: float = 2e-3
    """Noise of the log loss to which past curves are smoothed."""

    max_smoothing_points: float = 6.0
    """Largest width of the smoothing, in points."""

    min_share_of_loss: float = 3e-4
    """Smallest error, as a share of the loss, as in :attr:`ErrorConfig.min_share_of_loss`."""

    change_share: float = 0.05
    """Error per unit of the past runs' mean change."""

    growth_window: float = 0.25
    """Part of the run ahead over which the growth of the error is estimated."""

    min_seen: float = 0.06
    """Part of the run, after the start, that must have been seen."""

    prior_windows: float = 2.0
    """Pseudo-windows of usual drift in the estimate of how much more the run drifts than past runs."""

    min_drift_ratio: float = 0.6
    """Smallest such ratio."""

    min_points: int = 4
    """Points that fix the start of a curve."""

    feature_weights: tuple[float, float, float, float] = (0.2, 0.2, 0.2, 0.2)
    """Weights of differences in the logarithms of parameters, steps, tokens per step and peak rate, next to that in
    tokens per parameter, on which the normalized curve depends most (Bergsma et al. 2025, arXiv 2509.25087)."""


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
    family: FamilyConfig = field(default_factory=FamilyConfig)
    peers: PeerConfig = field(default_factory=PeerConfig)
    calibration: CalibrationConfig = field(default_factory=CalibrationConfig)
    counterfactual: CounterfactualConfig = field(default_factory=CounterfactualConfig)


DEFAULT = ForecastConfig()
"""The configuration used unless another one is passed."""
