"""An e-process over the forecasts made earlier: has the run left one of them?"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lightning_scaling.deviation.noise import NoiseWatch
from lightning_scaling.deviation.result import Deviation, Direction, Kind
from lightning_scaling.forecast.result import Forecast

_JUMPS = (0.015, 0.08, 0.4)
_DRIFT = 0.2
_FILTERS = len(_JUMPS) + 3
_CLIP = 4.0
_LAW_FLOOR = 4e-4
_CORRELATED = 1.5
_HEAVIER = 1.2
_MIN_ABOVE = 0.005
_MIN_BELOW = 0.025
_STAKE = 0.01
_REACH = 0.25
_GRID = 24
_RECOVERED = 4
_BACK = 0.25
_STAKED_ON_NOISE = 0.3
_CALM = 1.3
_RISING = 0.25
_EARLY = 0.25
_QUIET = 0.05
_PRIOR_LOSSES = 8.0


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


class _Anchors:
    """Forecasts frozen when they were made, each with filters that follow the run's distance from it.

    The first filter lets the distance grow as the forecast's own uncertainty says. The others add a jump right after
    the anchor (of about 1.5, 8 or 40 % of the loss) or a steady drift since (20 % of the loss over the whole run), or
    expect the loss to stay where it was instead of falling. The ratios of their likelihoods are the evidence. All
    anchors are updated at once.
    """

    def __init__(self) -> None:
        self.forecasts: list[Forecast] = []
        self.share: NDArray[np.float64] = np.empty(0)
        self._begin: NDArray[np.float64] = np.empty(0)
        self._end: NDArray[np.float64] = np.empty(0)
        self._median: NDArray[np.float64] = np.empty((0, _GRID))
        self._scale: NDArray[np.float64] = np.empty((0, _GRID))
        self._state: NDArray[np.float64] = np.empty((0, _FILTERS, 2))
        self._cov: NDArray[np.float64] = np.empty((0, _FILTERS, 2, 2))
        self._log_e: NDArray[np.float64] = np.empty((0, _FILTERS - 1))
        self._variance: NDArray[np.float64] = np.empty(0)
        self._at: NDArray[np.float64] = np.empty(0)

    def __len__(self) -> int:
        return len(self.forecasts)

    @staticmethod
    def reach(forecast: Forecast) -> float:
        """The last step the run is held to a forecast."""
        return min(forecast.step + _REACH * forecast.horizon, forecast.valid_until)

    def add(self, forecast: Forecast, share: float, level: float) -> None:
        end = self.reach(forecast)
        median, scale = forecast.curve(np.minimum(np.linspace(forecast.step, end, _GRID), forecast.horizon))
        # The beginning of a run has bends of its own that no law of its rest foresees.
        scale = scale * (1 + max(1 - forecast.step / (_EARLY * forecast.horizon), 0.0))
        cov = np.zeros((_FILTERS, 2, 2))
        cov[1 : len(_JUMPS) + 1, 0, 0] = (np.array(_JUMPS) * level) ** 2
        cov[-2, 1, 1] = (_DRIFT * level / forecast.horizon) ** 2
        self.forecasts.append(forecast)
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

    def retire(self, step: float) -> float:
        """Drop the anchors that reach no further; returns what their e-processes were worth when they stopped."""
        done = self._end < step
        if not done.any():
            return 0.0
        most = np.where(self.early[done], 0.0, 600.0)  # what early ones knew of a loss that is too good was not used
        worth = float(np.sum(self.share[done] * np.exp(np.minimum(self.evidence[done], most))))
        keep = ~done
        self.forecasts = [forecast for forecast, kept in zip(self.forecasts, keep, strict=True) if kept]
        for name in ("share", "_begin", "_end", "_median", "_scale", "_state", "_cov", "_log_e", "_variance", "_at"):
            setattr(self, name, getattr(self, name)[keep])
        return worth

    def expected(self, step: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Median and scale of every frozen forecast at a step, shape ``(a,)`` each."""
        place = np.clip((step - self._begin) / (self._end - self._begin), 0, 1) * (_GRID - 1)
        left = np.minimum(place.astype(int), _GRID - 2)
        part = place - left
        rows = np.arange(len(self))
        return (
            self._median[rows, left] * (1 - part) + self._median[rows, left + 1] * part,
            self._scale[rows, left] * (1 - part) + self._scale[rows, left + 1] * part,
        )

    def update(self, block: Block) -> None:
        expected, scale = self.expected(block.step)
        elapsed = np.maximum(block.step - self._at, 0.0)
        variance = np.maximum((_HEAVIER * scale) ** 2, self._variance)
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
        limit = _CLIP * np.sqrt(total)
        innovation = np.clip(innovation, -limit, limit)
        log_likelihood = -0.5 * (innovation**2 / total + np.log(total))
        self._log_e += log_likelihood[:, 1:] - log_likelihood[:, :1]
        gain = self._cov[:, :, :, 0] / total[..., None]
        self._state = self._state + gain * innovation[..., None]
        self._cov = self._cov - gain[..., :, None] * self._cov[:, :, None, 0, :]

    @property
    def early(self) -> NDArray[np.bool_]:
        """Which forecasts were made early in the run, shape ``(a,)``."""
        horizons = np.array([forecast.horizon for forecast in self.forecasts])
        early: NDArray[np.bool_] = self._begin < _EARLY * horizons
        return early

    @property
    def evidence(self) -> NDArray[np.float64]:
        """Logarithm of the mean of each anchor's e-values, shape ``(a,)``."""
        mean: NDArray[np.float64] = np.logaddexp.reduce(self._log_e, axis=1) - math.log(_FILTERS - 1)
        return mean

    def jumped(self, anchor: int) -> bool:
        """Whether a jump explains best how the run has left one of the anchors."""
        return int(np.argmax(self._log_e[anchor])) < len(_JUMPS)


class DeviationDetector:
    """Compares each block of losses with the forecasts made before it, all of them at once.

    Every forecast is frozen as an anchor and held to the next quarter of the run. Against each anchor runs a
    likelihood-ratio e-process (prequential: a block is judged by what was said before it was seen) of "a jump right
    after the anchor", "a drift since the anchor" or "no further fall" over "the distance grows as the forecast's
    uncertainty said".
    Anchors share the evidence budget equally, so the weighted sum is again an e-process and, by Ville's inequality,
    exceeds ``1 / alpha`` in a run that follows its forecasts with probability at most ``alpha``, however often it is
    looked at (see Ramdas et al. 2023, arXiv 2210.01948). The guarantee is as good as the forecast's uncertainty; that
    is why it is taken 1.2 times wider, a single block moves the evidence by a bounded amount, and an alarm also needs
    an effect of at least 0.5 % of the loss above the forecast, or 2.5 % below it, where a run is seldom in trouble.
    Three tenths of the stake lie on the noise having grown (:class:`NoiseWatch`).

    Once the alarm is on no further forecasts are frozen, so the damage is not absorbed; when the run has come back to
    within a quarter of its farthest distance, in the mean of four blocks, the alarm is taken back, and forecasts are
    frozen again after another 5 % of the run. Forecasts from the first quarter of a run are taken to be less sure, by a
    factor from 2 to 1, and raise no alarm that it is below.

    Args:
        alpha: Probability of a false alarm over the whole run.
    """

    def __init__(self, alpha: float = 0.01) -> None:
        self.alpha = alpha
        self.reset()

    def reset(self) -> None:
        """Forget all forecasts, as after an announced change."""
        self._anchors = _Anchors()
        self._alarm: Forecast | None = None
        self._inside = 0
        self._farthest = 0.0
        self._distances: list[float] = []
        self._unused = 1.0
        self._settled = 0.0
        self._log_e = 0.0
        self._kind: Kind | None = None
        self._quiet_until = 0.0
        self._noise = NoiseWatch()

    def update(
        self,
        block: Block | None,
        forecast: Forecast,
        *,
        settled: bool = True,
        losses: NDArray[np.float64] | None = None,
    ) -> Deviation:
        """Judge the losses since the last update, then freeze the forecast made after them.

        Args:
            block: The losses since the last update; ``None`` when none was finite.
            forecast: The forecast made after them; it serves as an anchor for later blocks only.
            settled: Whether the run is past the start, where forecasts are not worth holding it to.
            losses: The losses since the last update one by one, shape ``(n,)``, to tell their noise by.

        Returns:
            The verdict.
        """
        if losses is not None and settled:
            self._noise.update(losses)
        if block is not None and len(self._anchors) and self._alarm is None:
            self._settled += self._anchors.retire(block.step)
            if len(self._anchors):
                self._anchors.update(block)
                self._test(block)
        elif block is not None and self._alarm is not None and self._recovered(self._alarm, block):
            self.reset()
            self._quiet_until = block.step + _QUIET * forecast.horizon
            return Deviation(False, 1.0, None, None, "on track")
        verdict = self._verdict(block)
        if self._alarm is None and settled and forecast.path is not None and block is not None:
            self._freeze(forecast, block)
        return verdict

    def _freeze(self, forecast: Forecast, block: Block) -> None:
        if self._anchors.reach(forecast) <= forecast.step or self._surprising(block):
            return
        if forecast.step < self._quiet_until:
            return
        # A planned run stakes equal parts; without a planned end the parts are a geometric series.
        share = min(_STAKE if forecast.ends else 0.1 * self._unused, self._unused)
        if share > 0:
            self._unused -= share
            self._anchors.add(forecast, share, max(abs(block.loss), 1e-12))

    def _surprising(self, block: Block) -> bool:
        """Whether the block is far off the last frozen forecast: a forecast that has just seen it is no yardstick."""
        if not len(self._anchors):
            return False
        expected, scale = self._anchors.expected(block.step)
        return abs(block.loss - float(expected[-1])) > _CLIP * math.hypot(_HEAVIER * float(scale[-1]), block.sd)

    def _test(self, block: Block) -> None:
        anchors = self._anchors
        excess = block.loss - anchors.expected(block.step)[0]
        # Early forecasts of runs that gather speed late are often too high: they say nothing of too good a loss.
        logs = np.where((excess < 0) & anchors.early, -math.inf, np.log(anchors.share) + anchors.evidence)
        stake = self._unused + self._settled
        path = float(np.logaddexp(np.logaddexp.reduce(logs), math.log(stake) if stake > 0 else -math.inf))
        path, noise = path + math.log(1 - _STAKED_ON_NOISE), self._noise.log_e + math.log(_STAKED_ON_NOISE)
        self._log_e = float(np.logaddexp(path, noise))
        strongest = int(np.argmax(logs))
        off = float(excess[strongest])
        least = (_MIN_ABOVE if off > 0 else _MIN_BELOW) * abs(block.loss)
        if self._log_e < -math.log(self.alpha):
            return
        if noise > path and self._noise.grown:
            self._kind = "noise growth"
        elif path > noise and abs(off) >= least:
            above: Kind = "level shift" if self._anchors.jumped(strongest) else "plateau"
            self._kind = above if off > 0 else "too good to be true"
        else:
            return
        self._alarm, self._inside, self._farthest, self._distances = (
            self._anchors.forecasts[strongest],
            0,
            0.0,
            [off],
        )

    def _recovered(self, left: Forecast, block: Block) -> bool:
        if self._kind == "noise growth":
            self._inside = self._inside + 1 if self._noise.ratio <= _CALM else 0
            return self._inside >= _RECOVERED
        # Means of a few blocks: one noisy block near the path is no return.
        self._distances = [*self._distances, block.loss - left.at(block.step)][-_RECOVERED:]
        distance = abs(sum(self._distances)) / _RECOVERED
        self._farthest = max(self._farthest, distance)
        return len(self._distances) == _RECOVERED and distance <= max(_BACK * self._farthest, block.sd / _RECOVERED)

    def _verdict(self, block: Block | None) -> Deviation:
        if not len(self._anchors) and self._alarm is None:
            return Deviation(False, 1.0, None, None, "undecidable")
        e_value = math.exp(min(self._log_e, 700.0))
        if block is None:
            expected = math.nan
        elif self._alarm is not None:
            expected = float(self._alarm.at(block.step))
        else:
            expected = float(self._anchors.expected(block.step)[0][-1])
        excess = block.loss - expected if block is not None else math.nan
        if self._alarm is None:
            return Deviation(False, e_value, None, None, "on track", excess, expected, None, self._noise.ratio)
        direction: Direction | None = "below" if excess < 0 else "above"
        if self._kind == "noise growth":
            direction = None
        elif self._kind in ("plateau", "slow divergence") and block is not None:
            rise = block.loss - float(self._alarm.at(max(self._alarm.step, 1)))
            self._kind = "slow divergence" if rise > _RISING * excess else "plateau"
        return Deviation(
            True,
            e_value,
            direction,
            self._alarm.step,
            "deviating",
            excess,
            expected,
            self._kind,
            self._noise.ratio,
        )

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs. Frozen forecasts are not carried over: a resume begins a new segment."""
        return {"alpha": self.alpha}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue after a resume, with no forecast frozen yet."""
        self.alpha = float(state["alpha"])
        self.reset()


def block_of(steps: NDArray[np.float64], losses: NDArray[np.float64], noise: float) -> Block | None:
    """Sum up the losses between two updates.

    Args:
        steps: Optimizer steps, shape ``(n,)``.
        losses: Losses, shape ``(n,)``; those not finite are left out.
        noise: Standard deviation that the mean of so many losses has had around earlier fits; it counts like eight more
            losses, so that few of them do not make their own noise.

    Returns:
        The block, or ``None`` without a finite loss.
    """
    finite = np.isfinite(losses)
    steps, losses = steps[finite], losses[finite]
    if losses.size == 0:
        return None
    if losses.size >= 8:
        middle = float(np.median(losses))
        reach = 5 * 1.4826 * float(np.median(np.abs(losses - middle)))
        losses = np.clip(losses, middle - reach, middle + reach)
    within = _CORRELATED * float(losses.var(ddof=1)) / losses.size if losses.size > 1 else 0.0
    own, known = losses.size - 1, _PRIOR_LOSSES if noise > 0 else 0.0
    variance = (own * within + known * noise**2) / max(own + known, 1)
    mean = float(losses.mean())
    sd = math.sqrt(variance + (_LAW_FLOOR * mean) ** 2)
    return Block(float(steps.mean()), mean, sd)
