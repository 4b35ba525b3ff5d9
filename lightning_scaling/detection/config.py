"""Tuned numbers of the detectors; ``benchmarks/deviation.py`` prints the effect of each."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class BlockConfig:
    """Summary of the losses between two updates."""

    min_losses_to_clip: int = 8
    """Losses from which on outliers are clipped: a median absolute deviation of fewer means little."""
    clip_stds: float = 5.0
    """Robust standard deviations from the median at which a loss is clipped; engineering choice."""
    autocorrelation_factor: float = 1.5
    """Variance of a mean of losses over that of independent ones; chosen on recorded runs, whose losses correlate."""
    model_error: float = 4e-4
    """Standard deviation, as a fraction of the loss, by which any law misses a long mean; chosen on healthy runs."""
    prior_losses: float = 8.0
    """Losses that the noise around earlier fits counts for, so that a block of few does not set its own noise."""
    noise_memory: int = 20
    """Fits whose noise is remembered; its median does not follow a fault of one block."""


@dataclass(frozen=True)
class PathConfig:
    """Test of the losses against frozen forecasts."""

    alpha_share: float = 0.7
    """Share of the alpha budget; the rest belongs to the variance test."""
    forecasts_per_run: int = 100
    """Equal parts of the budget, one for each update of a planned run."""
    open_share: float = 0.1
    """Share of the unspent budget that one forecast gets without a planned end: a geometric series."""
    horizon_share: float = 0.25
    """Fraction of the plan for which a forecast is tested; later ones have taken over by then."""
    min_horizon_share: float = 0.04
    """Fraction of the plan for which a forecast is tested at least, so that the test has power."""
    jumps: tuple[float, ...] = (0.015, 0.08, 0.4)
    """Standard deviations of the alternative "a jump", fractions of the loss: small, clear and large ones."""
    drift: float = 0.2
    """Standard deviation of the alternative "a drift", fraction of the loss over the whole plan."""
    scale_factor: float = 1.2
    """Widening of the scale of forecasts: the guarantee is as good as their uncertainty."""
    early_share: float = 0.25
    """Fraction of the plan up to which forecasts are taken as less sure (factor 2 falling to 1) and tested from above
    only: early ones are often too high where a run gathers speed late."""
    max_log_factor: float = 6.0
    """Logarithm of the most that one block adds to the evidence: one bad block never decides."""
    outlier_stds: float = 4.0
    """Standard deviations at which an innovation is clipped, and from which on a block makes its forecast unusable."""
    grid_points: int = 24
    """Points of a frozen path, between which it is interpolated; its error is far below the scale of any forecast."""
    rest_points: int = 65
    """Points up to the end of the plan, to which a run that has left the forecast is compared."""
    min_excess_above: float = 0.005
    """Smallest effect above the forecast that is an alarm, fraction of the loss."""
    min_excess_below: float = 0.025
    """The same below the forecast: improvements are rarely faults."""
    closer_look_log_evidence: float = 3.0
    """Logarithm of the evidence against a single forecast (20 to 1) from which on looking more often pays."""
    recovery_blocks: int = 4
    """Blocks whose mean distance decides on a recovery: one noisy block near the path is no return."""
    recovery_share: float = 0.25
    """Share of the farthest distance within which a run has recovered."""
    rising_share: float = 0.25
    """Share of the excess by which the loss must have risen to be a slow divergence rather than a plateau."""


@dataclass(frozen=True)
class VarianceConfig:
    """Test of whether the noise of the losses has grown."""

    alpha_share: float = 0.3
    """Share of the alpha budget."""
    ratios: tuple[float, ...] = (1.8, 3.0, 6.0)
    """Alternatives: noise over the usual noise."""
    warmup_blocks: int = 12
    """Blocks before the first bet."""
    reference_blocks: int = 24
    """Blocks from which the usual noise is estimated."""
    bet_blocks: int = 12
    """Blocks for which a bet is kept."""
    blocks_per_bet: int = 2
    """Blocks between the beginnings of two bets."""
    bet_share: float = 0.02
    """Share of the budget of one bet: 50 bets, one at every second update of a planned run."""
    min_log_spread: float = 0.25
    """Smallest standard deviation of the log noise of a block: short references are too even by chance."""
    max_log_factor: float = 2.0
    """Logarithm of the most that one block multiplies a bet by: an alarm takes several noisy blocks."""
    min_ratio: float = 1.8
    """Noise ratio below which there is no alarm."""
    recent_blocks: int = 3
    """Blocks whose median is the noise of the present."""
    rate_rise: float = 1.1
    """Rise of the learning rate between two blocks that makes the reference void: it brings noise with it."""
    recovered_ratio: float = 1.3
    """Noise ratio at or below which a block is calm again."""
    recovery_blocks: int = 4
    """Calm blocks in a row that end an alarm."""


@dataclass(frozen=True)
class DivergenceConfig:
    """Detection of blow-ups on the losses themselves."""

    lost_share: float = 0.2
    """Share of the gain of the run that two blocks in a row must have lost."""
    lost_stds: float = 6.0
    """Standard deviations of a block that they must have lost as well."""
    block_std_divisor: float = 3.0
    """The present block's own standard deviation enters divided by this: a blow-up is noisy itself."""
    blocks: int = 2
    """Blocks in a row that make a divergence."""
    recovered_share: float = 0.1
    """Share of the gain within which the run has recovered."""
    single_lost_share: float = 2.0
    """Share of the gain that a single loss must have lost to be enough."""
    single_lost_stds: float = 10.0
    """Standard deviations of a single loss that it must have lost as well."""
    lasting_share: float = 0.5
    """Share of the gain that is lost in a lasting divergence."""
    lasting_blocks: int = 8
    """Blocks in a row for which it is."""


@dataclass(frozen=True)
class DetectionConfig:
    """Everything tuned in the detectors; chosen on ``benchmarks/deviation.py`` unless a field says otherwise."""

    block: BlockConfig = field(default_factory=BlockConfig)
    path: PathConfig = field(default_factory=PathConfig)
    variance: VarianceConfig = field(default_factory=VarianceConfig)
    divergence: DivergenceConfig = field(default_factory=DivergenceConfig)
    quiet_share: float = 0.05
    """Fraction of the plan after a recovery in which no forecast is frozen."""


DEFAULT = DetectionConfig()
