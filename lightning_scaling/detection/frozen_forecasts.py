"""Forecasts frozen when they were made, and the evidence that the run has left one of them."""

from __future__ import annotations

import math
from copy import copy
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lightning_scaling.forecast.result import Forecast

Array = NDArray[np.float64]

CLIP = 4.0
HEAVIER = 1.2
EARLY = 0.25
_JUMPS = (0.015, 0.08, 0.4)
_DRIFT = 0.2
_FILTERS = len(_JUMPS) + 3
_MOST_A_BLOCK = 6.0
_PARTS = 100
_REACH = 0.25
_LEAST_REACH = 0.04
_GRID = 24
_ROWS = ("share", "_begin", "_end", "_median", "_scale", "_state", "_cov", "_log_e", "_variance", "_at")


@dataclass(frozen=True)
class Block:
    """The losses between two updates.

    Attributes:
        step: Mean step.
        loss: Mean loss, outliers reined in.
        sd: Standard deviation of that mean.
    """

    step: float
    loss: float
    sd: float


class FrozenForecasts:
    """Frozen forecasts, each with filters that follow the run's distance from it, and a stake to be shared by them.

    The first filter lets the distance grow as the forecast's own uncertainty says. The others add a jump right after
    the anchor (of about 1.5, 8 or 40 % of the loss) or a steady drift since (20 % of the loss over the whole run), or
    expect the loss to stay where it was instead of falling. The ratios of their likelihoods are the evidence; a single
    block adds at most a factor ``exp(6)`` to it, so that one bad block never decides. All anchors are updated at once.

    Forecasts from the first quarter of a run are taken to be less sure, by a factor from 2 to 1.

    Args:
        stake: What the e-processes of all its anchors are worth together at the beginning.
        one_sided: Whether they say nothing of a loss that is too good, as forecasts made early never do.
    """

    def __init__(self, stake: float, *, one_sided: bool = False) -> None:
        self.unused = stake
        self._one_sided = one_sided
        self.settled = 0.0
        self.forecasts: list[Forecast] = []
        self.share: Array = np.empty(0)
        self._part = stake / _PARTS
        self._begin: Array = np.empty(0)
        self._end: Array = np.empty(0)
        self._median: Array = np.empty((0, _GRID))
        self._scale: Array = np.empty((0, _GRID))
        self._state: Array = np.empty((0, _FILTERS, 2))
        self._cov: Array = np.empty((0, _FILTERS, 2, 2))
        self._log_e: Array = np.empty((0, _FILTERS - 1))
        self._variance: Array = np.empty(0)
        self._at: Array = np.empty(0)

    def __len__(self) -> int:
        return len(self.forecasts)

    def parted(self) -> FrozenForecasts:
        """Give half of the stake not yet used to other anchors, one-sided and without any so far."""
        self.unused, self._part = self.unused / 2, self._part / 2
        other = FrozenForecasts(self.unused, one_sided=True)
        other._part = self._part
        return other

    @staticmethod
    def reach(forecast: Forecast) -> float:
        """The last step the run is held to a forecast; 4 % of the plan at least, lest it end before it can tell."""
        if forecast.valid_until <= forecast.step:
            return float(forecast.step)
        known = max(forecast.valid_until, forecast.step + _LEAST_REACH * forecast.horizon)
        return min(forecast.step + _REACH * forecast.horizon, known)

    def add(self, forecast: Forecast, level: float) -> None:
        """Freeze a forecast, unless the stake is used up.

        A planned run stakes equal parts; without a planned end the parts are a geometric series.
        """
        share = min(self._part if forecast.at_plan_end else 0.1 * self.unused, self.unused)
        if share <= 0:
            return
        self.unused -= share
        end = self.reach(forecast)
        median, scale = forecast.curve(np.minimum(np.linspace(forecast.step, end, _GRID), forecast.horizon))
        # The beginning of a run has bends of its own that neither a law of its rest nor relatives foresee.
        scale = scale * (1 + max(1 - forecast.step / (EARLY * forecast.horizon), 0.0))
        cov = np.zeros((_FILTERS, 2, 2))
        cov[1 : len(_JUMPS) + 1, 0, 0] = (np.array(_JUMPS) * level) ** 2
        cov[-2, 1, 1] = (_DRIFT * level / forecast.horizon) ** 2
        self.forecasts = [*self.forecasts, forecast]
        self.share = np.append(self.share, share)
        self._begin = np.append(self._begin, float(forecast.step))
        self._end = np.append(self._end, end)
        self._median = np.concatenate([self._median, median[None]])
        self._scale = np.concatenate([self._scale, scale[None]])
        self._state = np.concatenate([self._state, np.zeros((1, _FILTERS, 2))])
        self._cov = np.concatenate([self._cov, cov[None]])
        self._log_e = np.concatenate([self._log_e, np.zeros((1, _FILTERS - 1))])
        self._variance = np.append(self._variance, 0.0)
        self._at = np.append(self._at, float(forecast.step))

    def seen(self, block: Block) -> FrozenForecasts:
        """The anchors after a block of losses: those that reach no further dropped, the others with their evidence."""
        after = copy(self)
        after._retire(block.step)
        if len(after):
            after._update(block)
        return after

    def _retire(self, step: float) -> None:
        done = self._end < step
        if not done.any():
            return
        most = np.where(self.deaf[done], 0.0, 600.0)  # what these knew of a loss that is too good was not used
        self.settled += float(np.sum(self.share[done] * np.exp(np.minimum(self.evidence[done], most))))
        self.forecasts = [forecast for forecast, over in zip(self.forecasts, done, strict=True) if not over]
        for name in _ROWS:
            setattr(self, name, getattr(self, name)[~done])

    def expected(self, step: float) -> tuple[Array, Array]:
        """Median and scale of every frozen forecast at a step, shape ``(a,)`` each."""
        place = np.clip((step - self._begin) / (self._end - self._begin), 0, 1) * (_GRID - 1)
        left = np.minimum(place.astype(int), _GRID - 2)
        part = place - left
        rows = np.arange(len(self))
        return (
            self._median[rows, left] * (1 - part) + self._median[rows, left + 1] * part,
            self._scale[rows, left] * (1 - part) + self._scale[rows, left + 1] * part,
        )

    def _update(self, block: Block) -> None:
        expected, scale = self.expected(block.step)
        elapsed = np.maximum(block.step - self._at, 0.0)
        variance = np.maximum((HEAVIER * scale) ** 2, self._variance)
        growth = variance - self._variance
        self._variance, self._at = variance, np.maximum(self._at, block.step)
        move = np.zeros((len(self), 1, 2, 2))
        move[:, 0, 0, 0] = move[:, 0, 1, 1] = 1.0
        move[:, 0, 0, 1] = elapsed
        self._state = (move @ self._state[..., None])[..., 0]
        self._cov = move @ self._cov @ move.swapaxes(-1, -2)
        self._cov[:, :, 0, 0] += growth[:, None]
        total = self._cov[:, :, 0, 0] + block.sd**2 + 1e-30
        innovation = block.loss - expected[:, None] - self._state[:, :, 0]
        innovation[:, -1] += expected - self._median[:, 0]
        log_likelihood = -0.5 * (innovation**2 / total + np.log(total))
        self._log_e = self._log_e + np.minimum(log_likelihood[:, 1:] - log_likelihood[:, :1], _MOST_A_BLOCK)
        limit = CLIP * np.sqrt(total)
        innovation = np.clip(innovation, -limit, limit)
        gain = self._cov[:, :, :, 0] / total[..., None]
        self._state = self._state + gain * innovation[..., None]
        self._cov = self._cov - gain[..., :, None] * self._cov[:, :, None, 0, :]

    @property
    def deaf(self) -> NDArray[np.bool_]:
        """Which forecasts say nothing of a loss that is too good, shape ``(a,)``: those made early in the run, or all.

        Early ones are often too high where a run gathers speed late.
        """
        horizons = np.array([forecast.horizon for forecast in self.forecasts])
        deaf: NDArray[np.bool_] = (self._begin < EARLY * horizons) | self._one_sided
        return deaf

    @property
    def evidence(self) -> Array:
        """Logarithm of the mean of each anchor's e-values, shape ``(a,)``."""
        mean: Array = np.logaddexp.reduce(self._log_e, axis=1) - math.log(_FILTERS - 1)
        return mean

    def worth(self, excess: Array) -> Array:
        """Logarithm of what each anchor adds to the evidence, shape ``(a,)``.

        Args:
            excess: Loss minus the loss expected by each, shape ``(a,)``.
        """
        told: Array = np.where((excess < 0) & self.deaf, -math.inf, np.log(self.share) + self.evidence)
        return told

    def surprised(self, block: Block) -> bool:
        """Whether the block is far off the last frozen forecast: a forecast that has just seen it is no yardstick."""
        if not len(self):
            return False
        expected, scale = self.expected(block.step)
        return abs(block.loss - float(expected[-1])) > CLIP * math.hypot(HEAVIER * float(scale[-1]), block.sd)

    def jumped(self, anchor: int) -> bool:
        """Whether a jump explains best how the run has left one of the anchors."""
        return int(np.argmax(self._log_e[anchor])) < len(_JUMPS)
