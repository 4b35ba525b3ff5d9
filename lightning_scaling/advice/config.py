"""Tuned numbers of the advice, with their meaning, unit and origin.

Where no benchmark is named, a number is an engineering choice: the sentences it decides on are held by tests alone.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class FindingsConfig:
    """What there is to say about a run, and how surely."""

    nonfinite_losses: int = 20
    """Losses in a row that are not finite at which to stop; one with the engine's early update."""
    learning_rate_tolerance: float = 0.05
    """Relative difference of the rates used from the planned ones that is reported; one with the engine's."""
    target_miss_probability: float = 0.95
    """Least probability of missing the target at which to advise to stop."""
    optimum_until_fraction: float = 0.1
    """Share of the plan up to which a peak rate off the optimum is reported: later, starting anew costs too much."""
    batch_max_ratio: float = 1.25
    """Batch over that of the matched runs, or the reverse, beyond which it explains a lag."""
    warmup_min_ratio: float = 0.5
    """Warm-up over the usual one below which it explains a lag."""
    warmup_min_steps: int = 2
    """Usual warm-up, in steps, below which there is none to speak of."""
    max_odds: float = 1e6
    """Odds against chance beyond which the number is no longer spelled out."""
    certain: float = 0.99
    """Confidence in what was seen directly."""
    confident: float = 0.95
    """Confidence in what a long test supports."""
    likely: float = 0.9
    """Confidence in a passing sign, or in a run on track under a trusted forecast."""
    undecided: float = 0.5
    """Confidence where the forecast has low trust or signs have just eased."""


@dataclass(frozen=True)
class CausesConfig:
    """Which cause the evidence speaks for most; counted on examples/faults.py."""

    change_share: float = 0.05
    """Share of the plan within which trouble after an announced change is put down to it."""
    event_share: float = 0.1
    """Share of the plan for which lost optimizer states and losses that were not finite are remembered."""
    blown_up: float = 1.0
    """Loss of what was gained, as a share of it, above which a divergence of unknown shape points at the data."""
    few_passes: int = 4
    """Passes up to which repeats are nearly as good as new data (Muennighoff et al. 2023, arXiv 2305.16264)."""
    updates_to_relax: int = 2
    """Updates that a milder action must hold before it is advised."""
    updates_to_switch: int = 3
    """Updates that another cause must be the likelier one before it is named."""


@dataclass(frozen=True)
class ChangeShapeConfig:
    """Whether losses left their path at once; bins are about 1/256 of the plan."""

    window: int = 40
    """Latest bins looked at."""
    min_before: int = 16
    """Fewest bins before the change."""
    min_after: int = 4
    """Fewest bins after it."""
    edge: int = 3
    """Bins on either side of the cut that must be at the old and the new level."""
    min_jump: float = 4.0
    """Least jump, in standard deviations of the mean of an edge."""
    max_share_before: float = 0.25
    """Largest share of the jump that the edge before the cut may show."""
    min_share_after: float = 0.6
    """Least share of the jump that the edge after the cut must show."""


@dataclass(frozen=True)
class StoppingConfig:
    """When to stop; chosen on benchmarks/decisions.py."""

    probability: float = 0.95
    """Least probability of missing a value, or of not being the best, at which to stop."""
    updates_to_hold: int = 3
    """Updates in a row at which a finding that rests on the forecast must be made."""


@dataclass(frozen=True)
class RankingConfig:
    """Comparison of runs at equal progress.

    Scales of what is left of an error once the shared part has cancelled: by maximum likelihood of a Student t on the
    pairs of recorded sweeps, then mostly widened where other sweeps, or random parts of these, lost their best run.
    benchmarks/sweep_stress.py varies `settled_ratio`, `trend_error` and `max_log_steepness`.
    """

    trend_error: float = 0.25
    """Error of what different slopes still change, as a share of it."""
    doubted_trend_error: float = 0.5
    """Error of the part of that change that was clipped, as a share of it."""
    future_error: float = 0.04
    """Error relative to what is left to gain, between runs that are no replicates in size and length."""
    replicate_future_error: float = 0.01
    """The same between runs of one size and length."""
    schedule_log_error: float = 0.35
    """Standard deviation of the logarithm of what different schedules change."""
    replicate_schedule_log_error: float = 0.7
    """The same between runs of one size and length, whose whole difference it is."""
    transit_error: float = 0.3
    """Error per full change of the rate within `transit_window`, in units of the common slope."""
    transit_window: float = 0.1
    """Share of the plan for which a change of the rate has hardly shown in the loss."""
    error_dof: float = 7.0
    """Degrees of freedom of the errors."""
    start_gain: float = 0.8
    """Share of what is left that a run gains beyond the law right after its warm-up or a blow-up."""
    start_power: float = 4.0
    """Power of progress over warm-up by which that gain fades."""
    start_log_error: float = 0.5
    """Standard deviation of the logarithm of that gain."""
    start_own_share: float = 0.3
    """Part of that deviation that runs do not share."""
    max_log_steepness: float = 0.7
    """Largest logarithm of a slope over the leader's; beyond, it is more likely a transient."""
    settled_ratio: float = 1.2
    """Progress over the end of the warm-up, or of a blow-up, from which on a run is judged."""
    look_back: float = 0.025
    """Share of the plan between the two looks that must agree."""
    rate_power: float = 0.4
    """Power of the peak rate by which annealing gains more."""
    rate_power_error: float = 0.2
    """Its standard deviation."""
    replicate_rate_scale: float = 0.01
    """Mean difference of the rates so far within which slopes of one size and length are taken as equal."""
    same_schedule_distance: float = 0.02
    """Mean difference of two relative schedules up to which they count as one."""


@dataclass(frozen=True)
class MatchedRunsConfig:
    """Lag behind earlier runs of the same configuration."""

    min_runs: int = 3
    """Fewest matched runs."""
    max_runs: int = 16
    """Most of them."""
    min_excess: float = 5.0
    """Least excess over their mean, in standard deviations between them."""
    min_excess_share: float = 0.03
    """Least excess as a share of their mean."""
    noise_floor: float = 0.005
    """Least standard deviation between runs, as a share of their mean."""
    updates_to_hold: int = 3
    """Updates in a row that must show the excess, and that must have shown the spread."""
    spread_updates: int = 6
    """Latest updates over which the spread is averaged."""
    until_fraction: float = 0.5
    """Share of the plan up to which runs are compared; later the forecasts test the run better."""


@dataclass(frozen=True)
class LearningRateConfig:
    """Peak learning rates against those of past runs and of published laws."""

    min_rates: int = 4
    """Fewest different rates for an optimum."""
    min_span: float = 4.0
    """Least ratio of the highest to the lowest rate, and largest factor from the optimum to the end of its interval."""
    off_ratio: float = 2.0
    """Factor beyond the interval of the optimum at which a rate is off."""
    min_cost: float = 0.005
    """Least loss given up, as a share of the lowest loss, at which it is reported."""
    level: float = 0.95
    """Level of the interval of the optimum."""
    hint_ratio: float = 4.0
    """Factor from both published laws at which a hint is given."""
    params: tuple[float, float] = (5e7, 5e9)
    """Sizes about which the published laws were measured, in parameters."""
    tokens: tuple[float, float] = (1e9, 1e12)
    """Amounts of data about which they were measured, in tokens."""


@dataclass(frozen=True)
class BatchSizeConfig:
    """Batch size against the gradient noise scale."""

    min_ratio: float = 4.0
    """Factor between the batch and the interval of the noise scale at which a hint is given."""
    max_ratio: float = 1e4
    """Factor beyond which the estimate is not believed."""
    small_from: float = 0.1
    """Share of the plan from which a batch is called small."""
    large_from: float = 0.25
    """Share of the plan from which it is called large: the noise scale grows while the loss falls."""


@dataclass(frozen=True)
class RepeatsConfig:
    """Repeated data; counted on benchmarks/repeats.py."""

    min_token_value: float = 0.9
    """Value of the planned tokens as a share of as many new ones, below which the plan is commented on."""
    boundary_gap: float = 0.01
    """Distance of the trouble from the start of a pass, as a share of the plan, within which they coincide."""
    boundary_chance: float = 0.25
    """Largest probability of that by chance."""
    rate_rise: float = 1.05
    """Rise of the learning rate at the start of a pass beyond which the data are not named."""
    recent_points: int = 20
    """Latest points from which the spacing of losses is taken."""


@dataclass(frozen=True)
class ResizeConfig:
    """Advice on size and data; benchmarks/resize.py prints what it says of published ladders."""

    least_cost: float = 0.1
    """Share of the compute that a wrong size must waste to be reported."""
    level: float = 0.9
    """Level of the intervals."""
    max_scatter: float = 0.025
    """Largest median relative residual of the past runs; published ladders stay below .01."""
    max_growth_ratio: float = 4.0
    """Largest factor from the growth to the end of its interval."""
    same_sparsity_ratio: float = 1.1
    """Largest ratio of the shares of active parameters that count as equal."""
    confidence: tuple[float, float] = (0.9, 0.99)
    """Least and largest confidence."""
    same_budget: float = 0.1
    """Logarithm of the budget over the run's compute up to which they count as equal."""
    min_progress: float = 0.25
    """Share of its plan that a past run must have done."""
    max_final_error: float = 0.1
    """Largest relative error of a forecast final loss."""
    min_shift: float = 0.001
    """Logarithm by which another schedule must change a final loss to be counted."""
    max_runs: int = 100
    """Latest past runs used."""
    min_token_value: float = 0.9
    """Value of the planned tokens as a share of as many new ones, below which repeats come before size."""
    min_recipes: int = 4
    """Fewest better runs whose rate or batch is known."""
    rate_ratio: float = 2.5
    """Factor outside the better runs' rates at which the rate comes before size."""
    batch_ratio: float = 4.0
    """The same for the batch."""
    recipe_confidence: float = 0.8
    """Confidence where both comparisons of rate or batch agree."""
    dense_ratio: float = 1.02
    """All parameters over the active ones, up to which a model counts as dense."""
    better_share: float = 0.5
    """Share of the past runs that count as the better ones."""
    tuning_min_runs: int = 5
    """Fewest fine-tuned runs: the law of Zhang et al. 2024 has four parameters."""
    tuning_min_distinct: int = 2
    """Fewest sizes, and fewest amounts of data, among them."""
    tuning_same_ratio: float = 1.05
    """Largest ratio of sizes or amounts that count as equal."""
    tuning_draws: int = 400
    """Draws of the law's parameters."""
    tuning_probability: float = 0.95
    """Least probability that another size ends lower."""
    published_min_params: float = 1e7
    """Size at which published laws begin, in parameters."""
    published_min_tokens: float = 1e8
    """Amount of data at which published laws begin, in tokens."""
    published_log_spread: float = 0.55
    """Standard deviation of ln size at one budget between laboratories: the published ratios of tokens to parameters
    run from 16 (Llama 3, 2407.21783) over about 20 (Besiroglu et al. 2024, 2404.10102; Bi et al. 2024, 2401.02954) to
    192 (MiniCPM, 2404.06395), and twice this many standard deviations hold them all."""
    published_exponent_spread: float = 0.06
    """Standard deviation of the exponent between laboratories."""


@dataclass(frozen=True)
class AdviceConfig:
    """All tuned numbers of the advice."""

    findings: FindingsConfig = FindingsConfig()
    causes: CausesConfig = CausesConfig()
    change_shape: ChangeShapeConfig = ChangeShapeConfig()
    stopping: StoppingConfig = StoppingConfig()
    ranking: RankingConfig = RankingConfig()
    matched_runs: MatchedRunsConfig = MatchedRunsConfig()
    learning_rate: LearningRateConfig = LearningRateConfig()
    batch_size: BatchSizeConfig = BatchSizeConfig()
    repeats: RepeatsConfig = RepeatsConfig()
    resize: ResizeConfig = ResizeConfig()


DEFAULT = AdviceConfig()
