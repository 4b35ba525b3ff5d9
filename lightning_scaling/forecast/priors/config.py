"""Tuned numbers of the priors, each with its meaning, its unit and how it was chosen."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from lightning_scaling.laws.catalogue.schedules.relative_multi_power import RelativeMultiPower
from lightning_scaling.laws.form import Parameter


def law_parameter(name: str) -> Parameter:
    """A shape parameter of the law behind the forecasts, as the catalogue describes it."""
    return next(one for one in RelativeMultiPower.parameters if one.name == name)


def _wide_prior(name: str) -> QuantityScales:
    median, spread = law_parameter(name).prior or (math.nan, math.nan)
    return QuantityScales(unit=spread, middle=math.log(median))


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
class QuantityScales:
    """How a quantity varies from run to run; candidates are chosen by their likelihood.

    Args:
        unit: The scale it varies on.
        middle: Its value where nothing is known; ``None`` for the median of the runs.
        offset: Standard deviation of the mean about the middle, in units.
        shared: Candidate standard deviations, in units, of the part that similar runs share.
        individual: Candidate standard deviations, in units, of the part that even replicates do not share.
        trusted: Candidate factors on the stated errors of the values.
    """

    unit: float
    middle: float | None = None
    offset: float = 1.0
    shared: tuple[float, ...] = (0.17, 0.3, 0.55, 1.0)
    individual: tuple[float, ...] = (0.03, 0.1, 0.3, 1.0)
    trusted: tuple[float, ...] = (1.0,)


@dataclass(frozen=True)
class FeatureConfig:
    """Gaussian processes over the features of runs (:mod:`lightning_scaling.forecast.priors.features`).

    Engineering choices; ``benchmarks/first_step.py`` prints the effect.
    """

    distances: tuple[float, float, float, float] = (1.0, 0.6, 0.7, 1.0)
    """Differences in the logarithms of parameters, steps, tokens per step and peak rate that make a distance of 1."""

    profile_distance: float = 0.15
    """Root mean square difference of rates over their peaks that makes a distance of 1."""

    length_scale: float = 3.0
    """Distance at which the correlation of two runs has fallen to ``exp(-1/2)``."""

    trend_variance: float = 0.05
    """Variance, in squared units, of the slopes in size, steps and tokens per step beyond the part that runs share."""

    max_error: float = 2.5
    """Standardized leave-one-out error above which a value counts less, and as which it counts in the widening."""

    expected_errors: float = 5.0
    """Pseudo-runs with errors as predicted, in the widening."""

    hyperpriors: tuple[tuple[float, float], ...] = ((0.45, 1.5), (0.1, 2.0), (0.6, 1.0))
    """Medians of the shared and individual standard deviations, in units, and of the factor on the stated errors, and
    the standard deviations of their logarithms."""


@dataclass(frozen=True)
class FinalLossConfig:
    """The law of final losses and its residuals (:mod:`lightning_scaling.forecast.priors.final_loss`).

    Unless a field says otherwise it is an engineering choice; ``benchmarks/first_step.py`` prints the effect.
    """

    prior_means: tuple[float, ...] = (*map(math.log, (0.68, 0.12, 0.35, 0.15, 0.38, 1.8)), 0.4, 0.75, math.log(1.6))
    """Prior means of the parameters in the order of :attr:`.FinalLossLaw.theta`; wide about published language models,
    whose sizes and data enter with exponents near 0.35 (Hoffmann et al. 2022, arXiv 2203.15556)."""

    prior_stds: tuple[float, ...] = (0.2, 1.0, 0.35, 1.0, 0.35, 0.5, 0.4, 0.25, 0.25)
    """Prior standard deviations of the parameters."""

    first_noise: float = 0.01
    """Standard deviation of log final losses with which the reweighting begins."""

    usual_noise: float = 0.004
    """Standard deviation of log final losses around the law, as far as few runs do not show it."""

    noise_runs: float = 2.0
    """Pseudo-runs with the usual noise."""

    min_noise: float = 5e-4
    """Smallest standard deviation that the runs themselves may show."""

    midway_shares: tuple[float, ...] = (0.35, 0.6)
    """Parts of a past run whose losses inform the law, too."""

    midway_weight: float = 0.1
    """Largest weight of such a loss next to a last one."""

    midway_runs: float = 0.5
    """Largest weight of all losses of one part together, in runs."""

    rounds: int = 6
    """Rounds of reweighting."""

    steps: int = 40
    """Most steps of the minimizer in a round."""

    tolerance: float = 1e-7
    """Relative change of the objective that ends a round."""

    min_left_out_share: float = 0.2
    """Smallest factor ``1 - leverage`` by which a residual is divided to give the one left out."""

    axes: tuple[float, ...] = (1.0, 1.0, 0.5, 0.3, 1.0)
    """Weights of size, work, batch, peak rate and annealing in the distances of the residuals' process."""

    lengths: tuple[float, ...] = (0.5, 1.0, 2.0, 4.0)
    """Candidate lengths of its correlation."""

    amplitudes: tuple[float, ...] = (0.5, 1.0, 2.0, 4.0, 8.0)
    """Candidate standard deviations, in units of the noise."""

    nuggets: tuple[float, ...] = (1.0, 0.6, 0.35)
    """Candidate standard deviations of one run, in units of the noise."""

    amplitude_penalty: float = 0.2
    """Log prior density lost per squared logarithm of the amplitude."""

    passes: int = 3
    """How often hyperparameters and weights of the runs are chosen in turn."""

    min_score_gain: float = 2.0
    """Log density of the left-out runs that the process must gain to be used."""

    stretch_level: float = 0.9
    """Level of the intervals that are stretched until they hold as many of the left-out runs."""

    stretch_runs: float = 10.0
    """Pseudo-runs for which no stretch is needed."""

    stretch_range: tuple[float, float] = (0.9, 2.5)
    """Smallest and largest stretch."""

    min_stretch_seen: float = 1e-3
    """Smallest stretch that the runs themselves may show, before the pseudo-runs."""

    widening_of_few: float = 3.0
    """Relative variance added per run of the number of runs, their inverse count times this."""

    work_power: float = 0.75
    """Power of the rate over its peak by which a step counts; this and the next three as in
    :class:`~lightning_scaling.schedule.progress.Progress`."""

    anneal_rate: float = 0.01
    """Speed of annealing, per step at the peak rate."""

    anneal_power: float = 0.59
    """Exponent with which annealing takes effect."""

    low_rate_power: float = 1.0
    """Power with which a low rate delays it."""

    usual_annealing: float = 0.8
    """Annealing of past runs none of whose schedules is known."""

    window_share: float = 0.02
    """Part of the plan over which losses are averaged."""

    max_runs: int = 300
    """Most past runs, the latest."""

    min_share_seen: float = 0.25
    """Part of its plan that a past run must have seen."""

    min_runs: int = 2
    """Fewest past runs."""

    few_runs: int = 6
    """Past runs below which the trust is low."""

    error_per_distance: float = 0.15
    """Error per unit of log loss by which a prediction lies below every past run."""

    far_ratio: float = 10.0
    """Ratio to the past runs' largest or smallest size, length or compute beyond which the trust is low."""

    same_length_max_ratio: float = 1.05
    """Largest ratio of two lengths that are the same."""

    same_length_std: float = 0.03
    """Standard deviation of log losses of runs of one length and of unknown sizes, as far as few do not show it."""

    same_length_runs: float = 2.0
    """Pseudo-runs with that standard deviation."""


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

    shapes: tuple[QuantityScales, ...] = field(
        default_factory=lambda: (
            _wide_prior("alpha"),
            _wide_prior("kappa"),
            QuantityScales(unit=0.8, middle=math.log(0.03)),
        )
    )
    """Logarithms of alpha, kappa and final slope over families: what the Gaussian process falls back to far from all
    runs. The first two as the prior of the catalogue's law, wider than the published one, as is the slope;
    ``benchmarks/first_step.py`` prints the effect."""

    level: QuantityScales = QuantityScales(
        unit=0.1, offset=30.0, shared=(0.03, 0.1, 0.3, 1.0), individual=(0.003, 0.01, 0.03, 0.1)
    )
    """Log final losses; ``benchmarks/first_step.py`` prints the effect."""

    error: QuantityScales = QuantityScales(
        unit=1.0, middle=0.0, shared=(0.1, 0.3, 1.0), individual=(0.03, 0.1, 0.4), trusted=(0.3, 0.6, 1.0)
    )
    """Errors of log forecasts, in units of their median scale."""

    max_error: float = 3.0
    """Standardized error beyond which an error counts as this in the correlation."""


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
