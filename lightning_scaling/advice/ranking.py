"""Ranking of runs at equal progress by their probability of being the best at the end."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from lightning_scaling._utils.validation import probability as checked_probability
from lightning_scaling.advice.config import DEFAULT, RankingConfig
from lightning_scaling.forecast import PUBLISHED, Forecaster
from lightning_scaling.forecast.law_grid import LawGridFit
from lightning_scaling.forecast.metric_scale import PLAIN, MetricScale
from lightning_scaling.forecast.priors.base import ShapePrior
from lightning_scaling.runs.curve import Curve
from lightning_scaling.runs.final_loss import FINISHED_SHARE
from lightning_scaling.runs.replicates import same_size
from lightning_scaling.runs.run import Run

Array = NDArray[np.float64]

_DRAWS = 2000
_GRID = np.linspace(0.0, 1.0, 401)
_SPACINGS = 1.5
_FEWEST_RUNS = 2


@dataclass(frozen=True)
class RunRank:
    """Rank of one run among others.

    Attributes:
        index: Its place among the runs given.
        name: Its name.
        best: Probability that it will have the best value of all at the end; runs not ready do not compete for it.
        behind: Median of how much worse than the leader it will end, in the unit of the loss; below 0 if better. Of a
            metric that is no loss, on the scale of the law.
        now: How much worse than the leader it is at the same progress.
        same_schedule: Whether its learning rate takes the same course as the leader's.
        ready: Whether its warm-up and the leader's, or their last blow-up, and a fifth as much again, were over at both
            looks: before, ranks say little.
        before: ``best`` as of 2.5 % of the plan ago; ``None`` where it was not known.
    """

    index: int
    name: str | None
    best: float
    behind: float
    now: float
    same_schedule: bool
    ready: bool
    before: float | None = None

    @property
    def chance(self) -> float:
        """The larger of the probabilities of being the best, now and 2.5 % of the plan ago."""
        return max(self.best, self.before or 0.0)

    def to_dict(self) -> dict[str, Any]:
        """Every attribute by its name, as builtins."""
        return asdict(self)


@dataclass(frozen=True, repr=False)
class Ranking:
    """Runs compared at one progress.

    Attributes:
        fraction: The progress, as a share of each run's own plan.
        leader: Place, among the runs given, of the run that is ahead at that progress.
        runs: The runs that could be compared, in the order given.
    """

    fraction: float
    leader: int
    runs: tuple[RunRank, ...]

    def of(self, index: int) -> RunRank | None:
        """The rank of one of the runs given; ``None`` if it could not be compared."""
        return next((one for one in self.runs if one.index == index), None)

    @property
    def likely_best(self) -> RunRank:
        """The run most likely to be the best at the end, of those that are ready if there are any."""
        return max(self.runs, key=lambda one: (one.ready, one.best))

    @property
    def same_schedule(self) -> bool:
        """Whether all of them have one schedule: ranks at equal progress then say nearly everything."""
        return all(one.same_schedule for one in self.runs)

    def dominated(self, probability: float = DEFAULT.stopping.probability) -> list[int]:
        """Runs, past their warm-up, that will not be the best with at least this probability at both looks.

        Never the leader nor the likely best.

        Raises:
            ValueError: If ``probability`` is none.
        """
        least = 1 - checked_probability("probability", probability)
        spared = (self.leader, self.likely_best.index)
        return [one.index for one in self.runs if one.ready and one.chance < least and one.index not in spared]

    def to_dict(self) -> dict[str, Any]:
        """``"fraction"``, ``"leader"`` and ``"runs"``, one dict of :class:`RunRank` each, as builtins."""
        return asdict(self) | {"runs": [asdict(one) for one in self.runs]}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Ranking:
        """The ranking that :meth:`to_dict` described."""
        return cls(data["fraction"], data["leader"], tuple(RunRank(**one) for one in data["runs"]))

    def __repr__(self) -> str:
        best = self.likely_best
        which = repr(best.name) if best.name else f"run {best.index}"
        which = f"likely best {which}: {best.best:.0%}"
        return f"Ranking({len(self.runs)} runs at {self.fraction:.0%} of the plan, {which})"


class Candidate:
    """A run prepared to be compared, whole or cut off at any progress.

    Args:
        run: The run, finished or not.
        scale: Between its values and the scale of the law.
        prior: Prior over the shape of its curve.

    Raises:
        ValueError: If the run holds no finite loss.
    """

    def __init__(self, run: Run, *, scale: MetricScale = PLAIN, prior: ShapePrior = PUBLISHED) -> None:
        seen = np.isfinite(run.loss) & (run.step <= run.total_steps)
        if not seen.any():
            raise ValueError(f"The run {run.name or ''} holds no finite loss, so it cannot be compared with others.")
        self.run = run
        self.reached = float(run.step[seen][-1]) / run.total_steps
        self.alive = bool(np.isfinite(run.loss[~np.isnan(run.loss)][-1]))
        curve = Curve(run.plan)
        curve.add(run.step[seen], run.loss[seen] if scale.plain else np.asarray(scale.to_law(run.loss[seen])))
        self.points = curve.points
        self._forecaster = Forecaster(run.plan, prior)
        self.rates: Array = run.plan.at(np.maximum(_GRID * run.total_steps, 1.0)) / (run.plan.peak or 1.0)
        self._known: dict[float, LawGridFit | None] = {}

    def at(self, fraction: float) -> LawGridFit | None:
        """The run cut off at a fraction of its plan; ``None`` if it has not come so far or has too few points."""
        if fraction not in self._known:
            if len(self._known) > 1:
                del self._known[next(iter(self._known))]
            last = self.points.last[-4:]
            spacing = float(np.max(np.diff(last))) / self.run.total_steps if last.size > 1 else 0.0
            late = self.reached + max(1 - FINISHED_SHARE, _SPACINGS * spacing) < fraction
            step = max(round(fraction * self.run.total_steps), 1)
            self._known[fraction] = None if late else self._forecaster.shapes(self.points, step)
        return self._known[fraction]

    def same_model(self, other: Candidate) -> bool:
        """Whether another run has the same size and length."""
        one, two = self.run, other.run
        return same_size(one.params, two.params) and same_size(one.total_steps, two.total_steps)

    def rate_distance(self, other: Candidate, until: float = 1.0) -> float:
        """Mean difference of the relative learning rates up to a fraction of the plan."""
        past = until >= _GRID
        return float(np.mean(np.abs(self.rates[past] - other.rates[past])))

    def rate_change(self, other: Candidate, fraction: float, window: float) -> float:
        """Change, within a window before a fraction, of the difference of the rates, which has hardly shown yet."""
        recent = (fraction - window <= _GRID) & (fraction + 1e-9 >= _GRID)
        return float(np.abs(np.diff(self.rates[recent] - other.rates[recent])).sum())


def compare_runs(
    runs: Iterable[Run],
    *,
    at: float | None = None,
    scale: MetricScale = PLAIN,
    prior: ShapePrior = PUBLISHED,
    config: RankingConfig = DEFAULT.ranking,
) -> Ranking | None:
    r"""Rank runs at equal progress by their probability of being the best at the end of their plans.

    Two runs under one schedule err alike, so what counts is their difference. In every shape of the Multi-Power law
    that all runs together support, the difference at the end is the one now, plus what the runs' different slopes still
    change of it, plus what different schedules are going to change:
    ``d(1) = d(f) - (A_i - A_j) * dP + A * [(dP_j - dP_i) + kappa * alpha * (dLD_j - dLD_i)]``. Each of the two changes
    may come out larger or smaller by about half, and what a rate that has just moved does to the loss has not
    shown yet. Under one schedule the last term vanishes, and with it the uncertainty of what annealing gains: ranks at
    equal progress decide, less what trailing runs catch up. Of runs with other peak rates the one with the higher gains
    more by annealing, by about the ratio to the power .4. A run soon after its warm-up, or after a blow-up, catches up
    more than the law says. Runs are judged by two looks, now and 2.5 % of the plan ago.

    Args:
        runs: At least two runs; those that have not reached ``at`` are left out, finished ones are cut off there.
        at: Progress as a share of each run's own plan, in (0, 1]; left out, that of the least advanced run.
        scale: Between the values of the runs and the scale of the law, for metrics that are no loss.
        prior: Prior over the shape of the curves.
        config: Tuned numbers.

    Returns:
        The ranking; ``None`` where fewer than two could be compared.

    Raises:
        ValueError: If there are fewer than two runs or ``at`` is no share.

    Example:
        >>> steps = list(range(10, 1001, 10))
        >>> runs = [Run(steps[:30], [low + s ** -0.5 for s in steps[:30]], [1e-3] * 30, total_steps=1000,
        ...             planned_lr=([1, 1000], [1e-3, 1e-3])) for low in (2.0, 2.5)]
        >>> compare_runs(runs, at=0.3).dominated()
        [1]
    """
    candidates = [Candidate(run, scale=scale, prior=prior) for run in runs]
    if len(candidates) < _FEWEST_RUNS:
        raise ValueError(f"Runs are compared with each other, so at least two are needed, but got {len(candidates)}.")
    fraction = min(one.reached for one in candidates) if at is None else float(at)
    if not 0 < fraction <= 1:
        raise ValueError(f"`at` is a share of the plan and must lie in (0, 1], but got {at!r}.")
    return rank(candidates, fraction, config)


def rank(candidates: Sequence[Candidate], fraction: float, config: RankingConfig = DEFAULT.ranking) -> Ranking | None:
    """As :func:`compare_runs`, of runs prepared before."""
    ago = round(fraction - config.look_back, 9)
    earlier = _look(candidates, ago, config) if ago > 0 else None
    now = _look(candidates, fraction, config)
    if now is None:
        return None
    pairs = ((one, None if earlier is None else earlier.of(one.index)) for one in now.runs)
    runs = (
        replace(one, ready=old is not None and one.ready and old.ready, before=None if old is None else old.best)
        for one, old in pairs
    )
    return replace(now, runs=tuple(runs))


def _look(candidates: Sequence[Candidate], fraction: float, config: RankingConfig) -> Ranking | None:
    """The runs compared at one progress."""
    found = [(i, one, shapes) for i, one in enumerate(candidates) if one.alive and (shapes := one.at(fraction))]
    if len(found) < _FEWEST_RUNS:
        return None
    all_shapes = [shapes for *_, shapes in found]
    levels = [shapes.level for shapes in all_shapes]
    lead = int(np.argmin(levels))
    leader = _Leader(found[lead][1], all_shapes[lead], fraction, _shapes_drawn(all_shapes))
    ends = np.stack([leader.differences(one, shapes, row, config) for row, (_, one, shapes) in enumerate(found)])
    settled = np.array([shapes.settled / one.run.total_steps for _, one, shapes in found])
    ready = fraction >= config.settled_ratio * settled
    behind = np.median(ends - ends[lead], axis=1)
    # a run that is not ready takes nothing away from the others
    lowest = ends[ready if ready.any() else ~ready].min(axis=0)
    ranks = (
        RunRank(
            index=i,
            name=one.run.name,
            best=float(np.mean(ends[row] <= lowest)),
            behind=float(behind[row]),
            now=levels[row] - levels[lead],
            same_schedule=one.rate_distance(leader.run) <= config.same_schedule_distance,
            ready=bool(ready[row] and ready[lead]),
        )
        for row, (i, one, _) in enumerate(found)
    )
    return Ranking(fraction, found[lead][0], tuple(ranks))


@dataclass(frozen=True, eq=False)
class _Leader:
    """The leading run at one progress, and draws of the shape that all runs share.

    Attributes:
        run: The run.
        shapes: Its shapes at that progress.
        fraction: The progress.
        drawn: Indices of the shapes drawn, shape ``(draws,)`` each.
    """

    run: Candidate
    shapes: LawGridFit
    fraction: float
    drawn: tuple[NDArray[np.intp], ...]

    def differences(self, one: Candidate, shapes: LawGridFit, row: int, config: RankingConfig) -> Array:
        """Draws of how much worse than the leader is now a run will end, shape ``(draws,)``.

        Args:
            one: The run.
            shapes: Its shapes.
            row: Its place, which selects its random numbers.
            config: Tuned numbers.
        """
        (a, c, k), first = self.drawn, self.shapes
        share, power, gain = first.share[a, k], first.power[a], first.gain[c]
        slope, fitted = (np.maximum(each.slope[a, c, k], 1e-9) for each in (first, shapes))
        left = float(np.median(slope * (power + share * gain)))
        replicate = one.same_model(self.run)
        if replicate:
            distance = one.rate_distance(self.run, self.fraction)
            fitted = slope * (fitted / slope) ** math.exp(-distance / config.replicate_rate_scale)
        limit = config.max_log_steepness
        own = slope * np.exp(np.clip(np.log(fitted / slope), -limit, limit))
        powers, gains = shapes.power[a], shapes.gain[c]
        rate_power = config.rate_power + config.rate_power_error * _random(-1)
        lift = np.exp(math.log(shapes.peak / first.peak) * rate_power) if shapes.peak > 0 < first.peak else 1.0
        trend = -(own - slope) * (powers + power) / 2
        clipped, fit = float(np.median(trend)), float(np.median(-(fitted - slope) * (powers + power) / 2))
        schedule = np.sqrt(own * slope) * ((power - powers) + share * (gain - gains * lift))
        future = max(float(np.median(own * (powers + share * gains))), left)
        moved = one.rate_change(self.run, self.fraction, config.transit_window)
        spread = math.sqrt(
            (config.trend_error * fit) ** 2
            + (config.doubted_trend_error * (fit - clipped)) ** 2
            + ((config.replicate_future_error if replicate else config.future_error) * left) ** 2
            + (config.transit_error * float(np.median(slope * share)) * moved) ** 2
            + (0.0 if replicate else shapes.unsure * future) ** 2
            + shapes.noise**2
        )
        log_error = config.replicate_schedule_log_error if replicate else config.schedule_log_error
        ends = shapes.level - first.level + trend + schedule * np.exp(log_error * _random(row))
        ends = ends + spread * _random(row, config.error_dof)
        start = future * _start_gain(self.fraction, shapes.settled / one.run.total_steps, config)
        if start > 0:
            shared = math.sqrt(1 - config.start_own_share**2) * _random(-2)
            own_part = config.start_own_share * _random(500 + row)
            ends = ends - start * np.exp(config.start_log_error * (shared + own_part))
        return np.asarray(ends, dtype=np.float64)


def _start_gain(fraction: float, settled: float, config: RankingConfig) -> float:
    """Share of what is left that a run gains beyond the law, so soon after its warm-up."""
    return config.start_gain * max(fraction / settled, 1.0) ** -config.start_power if settled > 0 else 0.0


def _shapes_drawn(shapes: Sequence[LawGridFit]) -> tuple[NDArray[np.intp], ...]:
    """Shapes common to all runs, by what these say together; as their data are not independent, less than the sum."""
    score = shapes[0].belief + sum(one.evidence for one in shapes) / math.sqrt(len(shapes))
    weight = np.exp(score - score.max()).ravel()
    total = np.cumsum(weight)
    drawn = np.minimum(np.searchsorted(total, _even(-2) * total[-1]), weight.size - 1)
    return np.unravel_index(drawn, score.shape)


@lru_cache(maxsize=256)
def _even(row: int) -> Array:
    """Numbers that fill (0, 1) evenly, in an order of their own for each row."""
    return np.asarray((np.random.default_rng(row + 1000).permutation(_DRAWS) + 0.5) / _DRAWS)


@lru_cache(maxsize=256)
def _random(row: int, dof: float | None = None) -> Array:
    """Standard normal numbers for a row, or Student's t with some degrees of freedom."""
    even = _even(2 * row + 100_000 + (dof is not None))
    drawn: Array = stats.norm.ppf(even) if dof is None else stats.t.ppf(even, dof)
    return drawn
