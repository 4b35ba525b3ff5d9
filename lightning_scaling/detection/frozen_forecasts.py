"""Forecasts frozen when they were made, and the evidence that the run has left one of them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from copy import copy
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lightning_scaling._utils.state import AttributeState
from lightning_scaling.detection.base import MAX_EXPONENT, Array, Block, FrozenForecast, ReferenceForecast
from lightning_scaling.detection.config import DEFAULT, PathConfig

_TINY_VARIANCE = 1e-30
_ROWS = ("_share", "_begin", "_end", "_variance", "_at", "_median", "_scale", "_state", "_cov", "_log_e")


class FrozenForecasts(AttributeState):
    """Frozen forecasts, each with filters that follow the run's distance from it, and an alpha budget shared by them.

    The first filter lets the distance grow as the forecast's own uncertainty says. The others add a jump right after
    the forecast (of about 1.5, 8 or 40 % of the loss) or a steady drift since (20 % of the loss over the whole run), or
    expect the loss to stay where it was instead of falling. The ratios of their likelihoods are the evidence. All
    forecasts are updated at once.

    Args:
        budget: Share of the alpha budget that the e-processes of all its forecasts have together at the beginning.
        one_sided: Whether a loss below the forecasts is no evidence, as for forecasts made early in a run.
        config: Tuned numbers.

    Attributes:
        unused: Budget not yet given to a forecast.
        settled: Value of the e-processes that have ended.
        part: Budget of each forecast of a planned run.
        forecasts: The frozen forecasts, oldest first.
    """

    STATE = ("unused", "settled", "_spent", "part")

    def __init__(self, budget: float, *, one_sided: bool = False, config: PathConfig = DEFAULT.path) -> None:
        self._config = config
        self._one_sided = one_sided
        self._filters = len(config.jumps) + 3  # as forecast, one for each jump, the drift, no further fall
        self.unused = budget
        self.settled = 0.0
        self._spent = 0.0
        self.part = budget / config.forecasts_per_run
        self._clear()

    def _clear(self) -> None:
        self.forecasts: list[FrozenForecast] = []
        one: Array = np.empty(0)
        path: Array = np.empty((0, self._config.grid_points))
        self._share = self._begin = self._end = self._variance = self._at = one
        self._median = self._scale = path  # at even steps from begin to end
        self._state: Array = np.empty((0, self._filters, 2))  # offset and slope
        self._cov: Array = np.empty((0, self._filters, 2, 2))
        self._log_e: Array = np.empty((0, self._filters - 1))  # of the likelihood ratios of all filters but the first

    def __len__(self) -> int:
        return len(self.forecasts)

    def give_half_to(self, other: FrozenForecasts) -> None:
        """Give half of the unused budget to other forecasts that have none so far."""
        self.unused = other.unused = self.unused / 2
        self.part = other.part = self.part / 2

    def tested_until(self, forecast: ReferenceForecast) -> float:
        """Last step at which a forecast is tested."""
        if forecast.valid_until <= forecast.step:
            return float(forecast.step)
        config = self._config
        known = max(forecast.valid_until, forecast.step + config.min_horizon_share * forecast.horizon)
        return min(forecast.step + config.horizon_share * forecast.horizon, known)

    def add(self, forecast: ReferenceForecast, level: float) -> None:
        """Freeze a forecast, unless the budget is used up.

        Args:
            forecast: The forecast.
            level: Present loss, without sign.
        """
        config = self._config
        share = min(self.part if forecast.at_plan_end else config.open_share * self.unused, self.unused)
        if share <= 0:
            return
        self.unused -= share
        self._spent += share
        end = self.tested_until(forecast)
        grid = np.linspace(forecast.step, end, config.grid_points)
        rest = np.linspace(forecast.step, max(forecast.horizon, forecast.step + 1), config.rest_points)
        medians, scales = forecast.curve(np.minimum(np.concatenate([grid, rest]), forecast.horizon))
        median, scale = medians[: grid.size], scales[: grid.size]
        # The beginning of a run has bends of its own that neither a law of its rest nor past runs foresee.
        scale = scale * (1 + max(1 - forecast.step / (config.early_share * forecast.horizon), 0.0))
        cov = np.zeros((self._filters, 2, 2))
        cov[1 : len(config.jumps) + 1, 0, 0] = (np.array(config.jumps) * level) ** 2
        cov[-2, 1, 1] = (config.drift * level / forecast.horizon) ** 2
        row = {"_share": share, "_begin": forecast.step, "_end": end, "_at": forecast.step, "_cov": cov}
        row |= {"_median": median, "_scale": scale}
        frozen = FrozenForecast(forecast.step, forecast.horizon, rest, medians[grid.size :])
        self.forecasts = [*self.forecasts, frozen]
        for name in _ROWS:
            rows: Array = getattr(self, name)
            new = np.broadcast_to(np.asarray(row.get(name, 0.0), dtype=np.float64), (1, *rows.shape[1:]))
            setattr(self, name, np.concatenate([rows, new]))

    def after(self, block: Block) -> FrozenForecasts:
        """A copy after a block of losses: forecasts that end before it dropped, the others with their evidence."""
        after = copy(self)
        after._retire(block.step)
        if len(after):
            after._update(block)
        return after

    def _retire(self, step: float) -> None:
        done = self._end < step
        if not done.any():
            return
        # Evidence of one-sided forecasts was not used where the loss was too good: they settle at their budget at most.
        most = np.where(self.one_sided[done], 0.0, MAX_EXPONENT)
        self.settled += float(np.sum(self._share[done] * np.exp(np.minimum(self.evidence[done], most))))
        self.forecasts = [forecast for forecast, over in zip(self.forecasts, done, strict=True) if not over]
        for name in _ROWS:
            setattr(self, name, getattr(self, name)[~done])

    def expected(self, step: float) -> tuple[Array, Array]:
        """Median and scale of every frozen forecast at a step, shape ``(a,)`` each."""
        last = self._config.grid_points - 1
        place = np.clip((step - self._begin) / (self._end - self._begin), 0, 1) * last
        left = np.minimum(place.astype(int), last - 1)
        part = place - left
        rows = np.arange(len(self))
        medians, scales = (
            values[rows, left] * (1 - part) + values[rows, left + 1] * part for values in (self._median, self._scale)
        )
        return medians, scales

    def _update(self, block: Block) -> None:
        config = self._config
        expected, scale = self.expected(block.step)
        elapsed = np.maximum(block.step - self._at, 0.0)
        variance = np.maximum((config.scale_factor * scale) ** 2, self._variance)
        growth = variance - self._variance
        self._variance, self._at = variance, np.maximum(self._at, block.step)
        move = np.zeros((len(self), 1, 2, 2))
        move[:, 0, 0, 0] = move[:, 0, 1, 1] = 1.0
        move[:, 0, 0, 1] = elapsed
        self._state = (move @ self._state[..., None])[..., 0]
        self._cov = move @ self._cov @ move.swapaxes(-1, -2)
        self._cov[:, :, 0, 0] += growth[:, None]
        total = self._cov[:, :, 0, 0] + block.sd**2 + _TINY_VARIANCE
        innovation = block.loss - expected[:, None] - self._state[:, :, 0]
        innovation[:, -1] += expected - self._median[:, 0]
        log_likelihood = -0.5 * (innovation**2 / total + np.log(total))
        self._log_e = self._log_e + np.minimum(log_likelihood[:, 1:] - log_likelihood[:, :1], config.max_log_factor)
        limit = config.outlier_stds * np.sqrt(total)
        innovation = np.clip(innovation, -limit, limit)
        gain = self._cov[:, :, :, 0] / total[..., None]
        self._state = self._state + gain * innovation[..., None]
        self._cov = self._cov - gain[..., :, None] * self._cov[:, :, None, 0, :]

    @property
    def one_sided(self) -> NDArray[np.bool_]:
        """Forecasts against which a loss below them is no evidence, shape ``(a,)``: early ones, or all."""
        horizons = np.array([forecast.horizon for forecast in self.forecasts])
        found: NDArray[np.bool_] = (self._begin < self._config.early_share * horizons) | self._one_sided
        return found

    @property
    def evidence(self) -> Array:
        """Logarithm of the mean of each forecast's e-values, shape ``(a,)``."""
        mean: Array = np.logaddexp.reduce(self._log_e, axis=1) - math.log(self._filters - 1)
        return mean

    def log_wealth(self, excess: Array) -> Array:
        """Logarithm of what each forecast adds to the e-value, shape ``(a,)``.

        Args:
            excess: Loss minus the loss expected by each, shape ``(a,)``.
        """
        found: Array = np.where((excess < 0) & self.one_sided, -math.inf, np.log(self._share) + self.evidence)
        return found

    def is_outlier(self, block: Block) -> bool:
        """Whether a block deviates from the last frozen forecast; a forecast fitted to it is then no reference."""
        if not len(self):
            return False
        config = self._config
        expected, scale = self.expected(block.step)
        sd = math.hypot(config.scale_factor * float(scale[-1]), block.sd)
        return abs(block.loss - float(expected[-1])) > config.outlier_stds * sd

    def jumped(self, row: int) -> bool:
        """Whether a jump is the best explanation of how the run has left one of the forecasts."""
        return int(np.argmax(self._log_e[row])) < len(self._config.jumps)

    @property
    def rest(self) -> float:
        """Value of all that is not bet on a frozen forecast."""
        return self.unused + self.settled

    def restart(self) -> None:
        """Drop the forecasts: what was spent of the budget is worth what it was, or less, from now on."""
        running = float(np.sum(self._share * np.exp(np.minimum(self.evidence, 0.0))))
        self.settled = min(self.settled + running, self._spent)
        self._clear()

    def state_dict(self) -> dict[str, Any]:
        """The forecasts with their evidence, and the budget, as builtins."""
        rows = {name: getattr(self, name).tolist() for name in _ROWS}
        return {**super().state_dict(), "rows": rows, "forecasts": [one.to_dict() for one in self.forecasts]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from what :meth:`state_dict` returned."""
        super().load_state_dict(state)
        self._clear()
        self.forecasts = [FrozenForecast.from_dict(one) for one in state["forecasts"]]
        for name in _ROWS:
            values = np.array(state["rows"][name], dtype=np.float64)
            setattr(self, name, values.reshape(len(self), *getattr(self, name).shape[1:]))
