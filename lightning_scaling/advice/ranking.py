"""Runs side by side: which of them will be the best at the end?"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from lightning_scaling.forecast import PUBLISHED, Forecaster
from lightning_scaling.forecast.law_grid import LawGridFit
from lightning_scaling.forecast.metric_scale import PLAIN, MetricScale
from lightning_scaling.forecast.priors.base import ShapePrior
from lightning_scaling.runs.curve import Curve
from lightning_scaling.runs.run import Run

# Of what is left of an error once the shared part is cancelled: by maximum likelihood of a Student t on the pairs of
# recorded sweeps, then mostly widened, where other sweeps or random parts of these lost their best run.
_OF_TREND = 0.25
_OF_DOUBTED = 0.5
_OF_AHEAD = 0.04
_OF_AHEAD_TWIN = 0.01
_OF_SCHEDULE = 0.35
_OF_SCHEDULE_TWIN = 0.7
_OF_TRANSIT = 0.3
_TRANSIT = 0.1
_DEGREES = 7.0

# Soon after its warm-up a run gains more than the law says, which at r times the warm-up is that share of what is left,
# times r ** -power; alike for all runs, and a slope beyond a factor e ** .7 of the leader's is more likely a transient.
_OF_START, _START_POWER, _START_SPREAD, _START_OWN = 0.8, 4.0, 0.5, 0.3
_STEEPER = 0.7
_READY = 1.2
_AGO = 0.025

_RATE_POWER, _RATE_POWER_SPREAD = 0.4, 0.2
_TWIN = 0.01
_ALIKE = 0.02
_DRAWS = 2000
_GRID = np.linspace(0.0, 1.0, 401)
_REACHED = 0.995


@dataclass(frozen=True)
class RunRank:
    """How one run stands among others.

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
        before: What ``best`` was 2.5 % of the plan ago; ``None`` where it could not be told.
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
        """The larger of the probabilities of being the best, now and a moment ago."""
        return max(self.best, self.before or 0.0)

    def to_dict(self) -> dict[str, Any]:
        """The standing as builtins."""
        return asdict(self)


@dataclass(frozen=True)
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
        """The standing of one of the runs given; ``None`` if it could not be compared."""
        return next((one for one in self.runs if one.index == index), None)

    @property
    def favourite(self) -> RunRank:
        """The run most likely to be the best at the end, of those that can be judged if there are any."""
        judged = [one for one in self.runs if one.ready]
        return max(judged or self.runs, key=lambda one: one.best)

    @property
    def same_schedule(self) -> bool:
        """Whether all of them have one schedule: ranks at equal progress then tell nearly everything."""
        return all(one.same_schedule for one in self.runs)

    def hopeless(self, probability: float = 0.95) -> list[int]:
        """Runs, past their warm-up, that will not be the best with at least this probability, now and a moment ago.

        Never the leader nor the favourite.

        Raises:
            ValueError: If ``probability`` is none.
        """
        if not 0 < probability < 1:
            raise ValueError(f"`probability` must lie strictly between 0 and 1, but got {probability!r}.")
        spared = {self.leader, self.favourite.index}
        lost = (one.index for one in self.runs if one.ready and one.chance < 1 - probability)
        return [index for index in lost if index not in spared]


class Candidate:
    """A run prepared to be compared, whole or cut off at any progress.

    Args:
        run: The run, finished or not.
        scale: Between its values and the scale of the law.
        prior: What is believed of its shape.

    Raises:
        ValueError: If the run holds no finite loss.
    """

    def __init__(self, run: Run, *, scale: MetricScale = PLAIN, prior: ShapePrior = PUBLISHED) -> None:
        seen = np.isfinite(run.loss) & (run.step <= run.total_steps)
        if not seen.any():
            raise ValueError(f"The run {run.name or ''} holds no finite loss, so it cannot be compared with others.")
        loss = run.loss[seen] if scale.plain else np.asarray(scale.to_law(run.loss[seen]), dtype=np.float64)
        self.run = run
        self.plan = run.plan
        self.reached = float(run.step[seen][-1]) / run.total_steps
        ended_badly = not np.isfinite(run.loss[~np.isnan(run.loss)][-1])
        self.alive = not ended_badly
        curve = Curve(self.plan)
        curve.add(run.step[seen], loss)
        self.points = curve.points
        self._forecaster = Forecaster(self.plan, prior)
        peak = self.plan.peak if self.plan.peak > 0 else 1.0
        self.rates: NDArray[np.float64] = self.plan.at(np.maximum(_GRID * run.total_steps, 1.0)) / peak
        self._known: dict[float, LawGridFit | None] = {}

    def at(self, fraction: float) -> LawGridFit | None:
        """The run cut off at a fraction of its plan; ``None`` if it has not come so far or has too few points."""
        if fraction not in self._known:
            if len(self._known) > 1:
                del self._known[next(iter(self._known))]
            step = max(round(fraction * self.run.total_steps), 1)
            late = self.reached + max(1 - _REACHED, 1.5 * self._spacing()) < fraction
            self._known[fraction] = None if late else LawGridFit.of(self._forecaster, self.points, step)
        return self._known[fraction]

    def _spacing(self) -> float:
        """Share of the plan between two of the latest points."""
        last = self.points.last[-4:]
        return float(np.max(np.diff(last))) / self.run.total_steps if last.size > 1 else 0.0


def compare_runs(
    runs: Iterable[Run], *, at: float | None = None, scale: MetricScale = PLAIN, prior: ShapePrior = PUBLISHED
) -> Ranking | None:
    r"""Which of some runs will be the best at the end of their plans, seen at equal progress.

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
        prior: What is believed of the shape of the curves.

    Returns:
        How they stand; ``None`` where fewer than two could be compared.

    Raises:
        ValueError: If there are fewer than two runs or ``at`` is no share.

    Example:
        >>> steps = list(range(10, 1001, 10))
        >>> runs = [Run(steps[:30], [low + s ** -0.5 for s in steps[:30]], [1e-3] * 30, total_steps=1000,
        ...             planned_lr=([1, 1000], [1e-3, 1e-3])) for low in (2.0, 2.5)]
        >>> compare_runs(runs, at=0.3).hopeless()
        [1]
    """
    entrants = [Candidate(run, scale=scale, prior=prior) for run in runs]
    if len(entrants) < 2:
        raise ValueError(f"Runs are compared with each other, so at least two are needed, but got {len(entrants)}.")
    fraction = min(one.reached for one in entrants) if at is None else float(at)
    if not 0 < fraction <= 1:
        raise ValueError(f"`at` is a share of the plan and must lie in (0, 1], but got {at!r}.")
    return stand(entrants, fraction)


def stand(entrants: Sequence[Candidate], fraction: float) -> Ranking | None:
    """As :func:`compare_runs`, of runs prepared before."""
    ago = round(fraction - _AGO, 9)
    earlier = _look(entrants, ago) if ago > 0 else None
    now = _look(entrants, fraction)
    if now is None:
        return None
    runs = []
    for one in now.runs:
        old = None if earlier is None else earlier.of(one.index)
        judged = one.ready and old is not None and old.ready
        runs.append(replace(one, ready=judged, before=None if old is None else old.best))
    return replace(now, runs=tuple(runs))


def _look(entrants: Sequence[Candidate], fraction: float) -> Ranking | None:
    """The runs compared at one progress."""
    found = [(i, one, shapes) for i, one in enumerate(entrants) if one.alive and (shapes := one.at(fraction))]
    if len(found) < 2:
        return None
    levels = [shapes.level for _, _, shapes in found]
    settled = [shapes.settled / one.run.total_steps for _, one, shapes in found]
    lead = int(np.argmin(levels))
    first, ahead = found[lead][1], found[lead][2]
    a, c, k = _shapes_drawn([shapes for _, _, shapes in found])
    slope = np.maximum(ahead.slope[a, c, k], 1e-9)
    share, power, gain = ahead.share[a, k], ahead.power[a], ahead.gain[c]
    left = float(np.median(slope * (power + share * gain)))
    unit = float(np.median(slope * share))
    ends, apart = np.empty((len(found), _DRAWS)), list[float]()
    for row, (_, one, shapes) in enumerate(found):
        apart.append(float(np.mean(np.abs(one.rates - first.rates))))
        fitted = np.maximum(shapes.slope[a, c, k], 1e-9)
        twin = _twins(one.run, first.run)
        if twin:
            fitted = slope * (fitted / slope) ** math.exp(-_so_far(one, first, fraction) / _TWIN)
        own = slope * np.exp(np.clip(np.log(fitted / slope), -_STEEPER, _STEEPER))
        powers, gains = shapes.power[a], shapes.gain[c]
        power_of_rate = _RATE_POWER + _RATE_POWER_SPREAD * _normal(-1)
        lift = np.exp(math.log(shapes.peak / ahead.peak) * power_of_rate) if shapes.peak > 0 < ahead.peak else 1.0
        trend = -(own - slope) * (powers + power) / 2
        believed, fit = float(np.median(trend)), float(np.median(-(fitted - slope) * (powers + power) / 2))
        schedule = np.sqrt(own * slope) * ((power - powers) + share * (gain - gains * lift))
        ahead_of_it = max(float(np.median(own * (powers + share * gains))), left)
        start = ahead_of_it * _starting(fraction, settled[row])
        spread = math.sqrt(
            (_OF_TREND * fit) ** 2
            + (_OF_DOUBTED * (fit - believed)) ** 2
            + ((_OF_AHEAD_TWIN if twin else _OF_AHEAD) * left) ** 2
            + (_OF_TRANSIT * unit * _moved(one, first, fraction)) ** 2
            + (0.0 if twin else shapes.unsure * ahead_of_it) ** 2
            + shapes.noise**2
        )
        of_schedule = _OF_SCHEDULE_TWIN if twin else _OF_SCHEDULE
        ends[row] = shapes.level - ahead.level + trend + schedule * np.exp(of_schedule * _normal(row))
        ends[row] += spread * _student(row)
        if start > 0:
            ends[row] -= start * np.exp(_START_SPREAD * _mostly_shared(row))
    ready = np.array([fraction >= _READY * one for one in settled])
    behind = np.median(ends - ends[lead], axis=1)
    standings = (
        RunRank(
            index=i,
            name=one.run.name,
            best=best,
            behind=float(behind[n]),
            now=levels[n] - levels[lead],
            same_schedule=apart[n] <= _ALIKE,
            ready=bool(ready[n] and ready[lead]),
        )
        for n, ((i, one, _), best) in enumerate(zip(found, _chances(ends, ready), strict=True))
    )
    return Ranking(fraction, found[lead][0], tuple(standings))


def _twins(one: Run, other: Run) -> bool:
    """Whether two runs are of one model trained equally long."""
    return one.params is not None and one.params == other.params and one.total_steps == other.total_steps


def _starting(fraction: float, settled: float) -> float:
    """Share of what is left that a run gains beyond the law, so soon after its warm-up."""
    return _OF_START * max(fraction / settled, 1.0) ** -_START_POWER if settled > 0 else 0.0


def _chances(ends: NDArray[np.float64], ready: NDArray[np.bool_]) -> list[float]:
    """Probability of each run of being the best; one that is not ready takes nothing away from the others."""
    judges = ready if ready.any() else np.ones_like(ready)
    lowest = ends[judges].min(axis=0)
    return [float(np.mean(row <= lowest)) for row in ends]


def _shapes_drawn(shapes: Sequence[LawGridFit]) -> tuple[NDArray[np.intp], ...]:
    """Shapes common to all runs, by what these say together; as their data are not independent, less than the sum."""
    score = shapes[0].belief + sum(one.evidence for one in shapes) / math.sqrt(len(shapes))
    weight = np.exp(score - score.max()).ravel()
    total = np.cumsum(weight)
    drawn = np.minimum(np.searchsorted(total, _even(-2) * total[-1]), weight.size - 1)
    return np.unravel_index(drawn, score.shape)


def _so_far(one: Candidate, other: Candidate, fraction: float) -> float:
    """How far apart the courses of the learning rates of two runs have been up to now."""
    past = fraction >= _GRID
    return float(np.mean(np.abs(one.rates[past] - other.rates[past])))


def _moved(one: Candidate, other: Candidate, fraction: float) -> float:
    """How far the rates of two runs have lately moved apart or together: what that does has hardly shown."""
    lately = (fraction - _TRANSIT <= _GRID) & (fraction + 1e-9 >= _GRID)
    return float(np.abs(np.diff(one.rates[lately] - other.rates[lately])).sum())


def _mostly_shared(row: int) -> NDArray[np.float64]:
    """Normal numbers that the runs have mostly in common."""
    return math.sqrt(1 - _START_OWN**2) * _normal(-2) + _START_OWN * _normal(500 + row)


@lru_cache(maxsize=256)
def _even(row: int) -> NDArray[np.float64]:
    """Numbers that fill (0, 1) evenly, in an order of their own for each row."""
    order = np.random.default_rng(row + 1000).permutation(_DRAWS)
    even: NDArray[np.float64] = (order + 0.5) / _DRAWS
    return even


@lru_cache(maxsize=256)
def _normal(row: int) -> NDArray[np.float64]:
    drawn: NDArray[np.float64] = stats.norm.ppf(_even(2 * row + 100_000))
    return drawn


@lru_cache(maxsize=256)
def _student(row: int) -> NDArray[np.float64]:
    drawn: NDArray[np.float64] = stats.t.ppf(_even(2 * row + 100_001), _DEGREES)
    return drawn
