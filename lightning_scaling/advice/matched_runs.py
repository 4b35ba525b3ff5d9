"""A run compared with past runs of its configuration: at equal steps, and by the peak learning rate."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lightning_scaling._utils.state import AttributeState
from lightning_scaling._utils.stats import t_quantile
from lightning_scaling.advice.config import DEFAULT, AdviceConfig
from lightning_scaling.runs.final_loss import final_loss
from lightning_scaling.runs.replicates import same_size
from lightning_scaling.runs.run import Run
from lightning_scaling.schedule.plan import Plan

Array = NDArray[np.float64]


@dataclass(frozen=True)
class LagReport:
    """A run that is worse than all matched runs at equal steps.

    Attributes:
        low: Lowest mean loss of the matched runs over the same steps.
        high: Highest.
        count: Number of matched runs.
        share: How much worse than their mean, as a share of it.
        warmup: Steps of warm-up of the run.
        usual_warmup: Their median steps of warm-up.
        batch_ratio: Tokens or samples to a step over theirs; ``nan`` if unknown.
    """

    low: float
    high: float
    count: int
    share: float
    warmup: int
    usual_warmup: int
    batch_ratio: float = math.nan


@dataclass(frozen=True)
class LearningRateOptimum:
    """The best peak learning rate of past runs, and the position of the run relative to it.

    Attributes:
        rate: Peak rate of the run.
        best: Best peak rate.
        lower: Lower end of its 95 % interval.
        upper: Upper end.
        cost: Loss given up by the run's rate.
        count: Number of past runs.
    """

    rate: float
    best: float
    lower: float
    upper: float
    cost: float
    count: int


class MatchedRuns(AttributeState):
    """Past runs of the same size, length and peak rate, compared with the present one at equal steps.

    The run lags once its losses were worse than the mean of the matched runs by five standard deviations and 3 % at
    three updates in a row, in the first half of the run; what began right is left to the forecasts. The standard
    deviation is that between the matched runs at the last updates, so that a stretch where healthy runs differ is no
    evidence.

    Args:
        runs: Past runs.
        plan: Plan of the present run.
        params: Its number of parameters.
        rising: Whether the metric is to be high.
        config: Tuned numbers.
    """

    STATE = ("_spreads", "_looks")

    def __init__(
        self, runs: Iterable[Run], plan: Plan, params: int | None, rising: bool = False, config: AdviceConfig = DEFAULT
    ) -> None:
        self._config = c = config.matched_runs
        self._plan, self._sign = plan, -1.0 if rising else 1.0
        found = [run for run in runs if _same_model(run, plan, params) and same_size(run.plan.peak, plan.peak)]
        self._runs = found[: c.max_runs] if len(found) >= c.min_runs else []
        finite = [np.isfinite(run.loss) for run in self._runs]
        self._curves = [(run.step[seen], run.loss[seen]) for run, seen in zip(self._runs, finite, strict=True)]
        self._spreads: list[float] = []
        self._looks = 0

    def __len__(self) -> int:
        return len(self._runs)

    def compare(self, begin: float, end: float, loss: float, batch: float = math.nan) -> LagReport | None:
        """Compare the mean loss of the steps after one up to another; once per update, in order.

        Args:
            begin: Last step of the update before.
            end: The present step.
            loss: Mean loss since.
            batch: Tokens or samples to a step.
        """
        config, total = self._config, self._plan.total_steps or 0
        if not self._runs or not math.isfinite(loss) or end > config.until_fraction * total or end <= begin:
            return None
        means = np.array([_mean(steps, losses, begin, end) for steps, losses in self._curves])
        middle = float(means.mean())
        self._spreads = [*self._spreads, float(means.var(ddof=1))][-config.spread_updates :]
        sd = math.sqrt(float(np.mean(self._spreads)) * (1 + 1 / len(means)) + (config.noise_floor * middle) ** 2)
        excess = self._sign * (loss - middle)
        least = max(config.min_excess * sd, config.min_excess_share * abs(middle))
        off = excess > least and len(self._spreads) >= config.updates_to_hold
        self._looks = self._looks + 1 if off else 0
        if self._looks < config.updates_to_hold:
            return None
        batches = [run.tokens_per_step for run in self._runs if run.tokens_per_step]
        return LagReport(
            low=float(means.min()),
            high=float(means.max()),
            count=len(means),
            share=abs(excess / middle) if middle else math.inf,
            warmup=self._plan.warmup_end,
            usual_warmup=int(np.median([run.plan.warmup_end for run in self._runs])),
            batch_ratio=batch / float(np.median(batches)) if batches else math.nan,
        )


def learning_rate_optimum(
    runs: Iterable[Run], plan: Plan, params: int | None, rising: bool = False, config: AdviceConfig = DEFAULT
) -> LearningRateOptimum | None:
    """The best peak rate of past runs, where that of a plan is clearly off it.

    ``loss = a + b (log rate - log best)^2`` by least squares over the finished runs of the same size and length, at
    least four rates that span a factor of four with the lowest loss inside; the 95 % interval of ``best`` by the delta
    method.

    Args:
        runs: Past runs.
        plan: Plan of the present run.
        params: Its number of parameters.
        rising: Whether the metric is to be high.
        config: Tuned numbers.

    Returns:
        The optimum, if the rate is more than a factor two outside the interval and costs at least 0.5 % of the loss.
    """
    if plan.total_steps is None or params is None or not plan.peak > 0:
        return None
    sign, c = -1.0 if rising else 1.0, config.learning_rate
    alike = [run for run in runs if _same_model(run, plan, params)]
    ends = [(run.plan.peak, final_loss(run.step, run.loss, run.total_steps)) for run in alike]
    rates, finals = [peak for peak, end in ends if end is not None], [sign * end for _, end in ends if end is not None]
    x, y = np.log(np.array(rates)), np.array(finals)
    if np.unique(np.round(x, 2)).size < c.min_rates or np.ptp(x) < math.log(c.min_span):
        return None
    inside = x[int(np.argmin(y))]
    if not x.min() + 1e-9 < inside < x.max() - 1e-9:
        return None
    origin = float(x.mean())
    design = np.stack([np.ones_like(x), x - origin, (x - origin) ** 2], axis=1)
    fit, _, rank, _ = np.linalg.lstsq(design, y, rcond=None)
    free = len(x) - design.shape[1]
    if rank < design.shape[1] or fit[2] <= 0 or free < 1:
        return None
    rest = y - design @ fit
    cov = np.linalg.inv(design.T @ design) * float(rest @ rest) / free
    middle = -fit[1] / (2 * fit[2])
    slope = np.array([0.0, -1 / (2 * fit[2]), fit[1] / (2 * fit[2] ** 2)])
    reach = t_quantile((1 + c.level) / 2, free) * math.sqrt(max(float(slope @ cov @ slope), 0.0))
    best, here = origin + float(middle), math.log(plan.peak)
    lower, upper = best - reach, best + reach
    cost = float(fit[2]) * (here - best) ** 2
    off = here > upper + math.log(c.off_ratio) or here < lower - math.log(c.off_ratio)
    if not off or not cost >= c.min_cost * abs(float(np.min(y))) or reach > math.log(c.min_span):
        return None
    return LearningRateOptimum(plan.peak, math.exp(best), math.exp(lower), math.exp(upper), cost, len(x))


def _same_model(run: Run, plan: Plan, params: int | None) -> bool:
    """Whether a past run with a known learning rate has about the size and length of the present one."""
    return run.lr is not None and same_size(run.params, params) and same_size(run.total_steps, plan.total_steps)


def _mean(steps: NDArray[Any], losses: Array, begin: float, end: float) -> float:
    """Mean over the steps after one up to another; between the records on either side where there is none."""
    part = losses[np.searchsorted(steps, begin, "right") : np.searchsorted(steps, end, "right")]
    return float(part.mean()) if part.size else float(np.interp((begin + end) / 2, steps, losses))
