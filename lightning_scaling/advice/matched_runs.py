"""A run beside earlier runs of the same recipe: at the same step, and by its learning rate."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lightning_scaling.runs.run import Run
from lightning_scaling.schedule.plan import Plan

Array = NDArray[np.float64]

_ALIKE = 1.05
_FEWEST = 3
_MOST = 16
_SIGMAS = 5.0
_LEAST = 0.03
_FLOOR = 0.005
_LOOKS = 3
_KEPT = 6
_UNTIL = 0.5
_RATES = 4
_SPREAD = 4.0
_FINISHED = 0.97
_OFF = 2.0
_WORTH = 0.005
_T95 = (12.71, 4.30, 3.18, 2.78, 2.57, 2.45, 2.36, 2.31, 2.26, 2.23)


@dataclass(frozen=True)
class LagReport:
    """A run that is worse than all its twins at the same step.

    Attributes:
        low: Lowest mean loss of the twins over the same steps.
        high: Highest.
        count: Number of twins.
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
class BestRate:
    """The valley of a family over its peak learning rates, and where the run stands in it.

    Attributes:
        rate: Peak rate of the run.
        best: Best peak rate.
        lower: Lower end of its 95 % interval.
        upper: Upper end.
        cost: Loss given up by the run's rate.
        count: Runs it rests on.
    """

    rate: float
    best: float
    lower: float
    upper: float
    cost: float
    count: int


class MatchedRuns:
    """Earlier runs of the same size, length and peak rate, step by step beside the present one.

    The run is behind once its losses were worse than the twins' mean by five standard deviations and 3 % at three
    updates on end, in the first half of the run; what began right is left to the forecasts. The standard deviation is
    that between the twins at the last updates, so that a stretch where healthy runs differ is no evidence.

    Args:
        runs: Earlier runs.
        plan: Plan of the present run.
        params: Its number of parameters.
        rising: Whether the metric is to be high.
    """

    def __init__(self, runs: Iterable[Run], plan: Plan, params: int | None, *, rising: bool = False) -> None:
        self._plan, self._sign = plan, -1.0 if rising else 1.0
        total = plan.total_steps
        known = total is not None and params is not None
        found = [run for run in runs if known and _twin(run, plan, int(total or 0), int(params or 0))]
        self._runs = found[:_MOST] if len(found) >= _FEWEST else []
        self._curves = [_finite(run) for run in self._runs]
        self.reset()

    def reset(self) -> None:
        """Forget the updates before, as after an announced change."""
        self._spreads: list[float] = []
        self._looks = 0

    def __len__(self) -> int:
        return len(self._runs)

    def compare(self, begin: float, end: float, loss: float, batch: float = math.nan) -> LagReport | None:
        """Take the mean loss of the steps after one up to another, once per update and in order.

        Args:
            begin: Last step of the update before.
            end: The present step.
            loss: Mean loss since.
            batch: Tokens or samples to a step.
        """
        total = self._plan.total_steps or 0
        if not self._runs or not math.isfinite(loss) or end > _UNTIL * total or end <= begin:
            return None
        means = np.array([_mean(steps, losses, begin, end) for steps, losses in self._curves])
        middle = float(means.mean())
        self._spreads = [*self._spreads, float(means.var(ddof=1))][-_KEPT:]
        sd = math.sqrt(float(np.mean(self._spreads)) * (1 + 1 / len(means)) + (_FLOOR * middle) ** 2)
        excess = self._sign * (loss - middle)
        off = excess > max(_SIGMAS * sd, _LEAST * abs(middle)) and len(self._spreads) >= _LOOKS
        self._looks = self._looks + 1 if off else 0
        if self._looks < _LOOKS:
            return None
        warmups = [run.plan.warmup_end for run in self._runs]
        batches = [run.tokens_per_step for run in self._runs if run.tokens_per_step]
        return LagReport(
            low=float(means.min()),
            high=float(means.max()),
            count=len(means),
            share=abs(excess / middle) if middle else math.inf,
            warmup=self._plan.warmup_end,
            usual_warmup=int(np.median(warmups)),
            batch_ratio=batch / float(np.median(batches)) if batches else math.nan,
        )

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs, as builtins."""
        return {"spreads": list(self._spreads), "looks": self._looks}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from what :meth:`state_dict` returned."""
        self._spreads, self._looks = [float(value) for value in state["spreads"]], int(state["looks"])


def best_rate(runs: Iterable[Run], plan: Plan, params: int | None, *, rising: bool = False) -> BestRate | None:
    """Whether the peak rate of a plan is clearly off the best one of its family.

    ``loss = a + b (log rate - log best)^2`` by least squares over the finished runs of the same size and length, at
    least four rates that span a factor of four with the lowest loss inside; the 95 % interval of ``best`` by the delta
    method.

    Args:
        runs: Earlier runs.
        plan: Plan of the present run.
        params: Its number of parameters.
        rising: Whether the metric is to be high.

    Returns:
        The valley, if the rate is more than a factor two outside the interval and costs at least 0.5 % of the loss.
    """
    total = plan.total_steps
    if total is None or params is None or not plan.peak > 0:
        return None
    sign = -1.0 if rising else 1.0
    rates, finals = [], []
    for run in runs:
        if not _same_size(run, params) or not _near(run.total_steps, total) or run.lr is None:
            continue
        steps, losses = _finite(run)
        if steps.size and steps[-1] >= _FINISHED * run.total_steps:
            rates.append(run.plan.peak)
            finals.append(sign * _mean(steps, losses, 0.97 * steps[-1], float(steps[-1])))
    x, y = np.log(np.array(rates)), np.array(finals)
    if np.unique(np.round(x, 2)).size < _RATES or np.ptp(x) < math.log(_SPREAD):
        return None
    inside = x[int(np.argmin(y))]
    if not x.min() + 1e-9 < inside < x.max() - 1e-9:
        return None
    origin = float(x.mean())
    design = np.stack([np.ones_like(x), x - origin, (x - origin) ** 2], axis=1)
    fit, _, rank, _ = np.linalg.lstsq(design, y, rcond=None)
    if rank < 3 or fit[2] <= 0:
        return None
    free = len(x) - 3
    if free < 1:
        return None
    rest = y - design @ fit
    cov = np.linalg.inv(design.T @ design) * float(rest @ rest) / free
    middle = -fit[1] / (2 * fit[2])
    slope = np.array([0.0, -1 / (2 * fit[2]), fit[1] / (2 * fit[2] ** 2)])
    reach = _T95[min(free, len(_T95)) - 1] * math.sqrt(max(float(slope @ cov @ slope), 0.0))
    best, here = origin + float(middle), math.log(plan.peak)
    lower, upper = best - reach, best + reach
    cost = float(fit[2]) * (here - best) ** 2
    off = here > upper + math.log(_OFF) or here < lower - math.log(_OFF)
    if not off or not cost >= _WORTH * abs(float(np.min(y))) or reach > math.log(_SPREAD):
        return None
    return BestRate(plan.peak, math.exp(best), math.exp(lower), math.exp(upper), cost, len(x))


def _twin(run: Run, plan: Plan, total: int, params: int) -> bool:
    if not _same_size(run, params) or not _near(run.total_steps, total) or run.lr is None:
        return False
    return plan.peak > 0 and _near(run.plan.peak, plan.peak)


def _same_size(run: Run, params: int) -> bool:
    return run.params is not None and _near(run.params, params)


def _near(one: float, other: float) -> bool:
    return 1 / _ALIKE <= one / other <= _ALIKE


def _finite(run: Run) -> tuple[Array, Array]:
    seen = np.isfinite(run.loss)
    return run.step[seen].astype(np.float64), run.loss[seen]


def _mean(steps: Array, losses: Array, begin: float, end: float) -> float:
    """Mean over the steps after one up to another; between the records on either side where there is none."""
    part = losses[np.searchsorted(steps, begin, "right") : np.searchsorted(steps, end, "right")]
    return float(part.mean()) if part.size else float(np.interp((begin + end) / 2, steps, losses))
