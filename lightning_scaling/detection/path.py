"""An e-process over the forecasts made earlier: has the run left one of them?"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lightning_scaling.detection.frozen_forecasts import Block, FrozenForecasts
from lightning_scaling.detection.result import Deviation, DeviationBasis, DeviationKind, Direction
from lightning_scaling.detection.variance import VarianceDetector
from lightning_scaling.forecast.result import Forecast

_LAW_FLOOR = 4e-4
_CORRELATED = 1.5
_MIN_ABOVE = 0.005
_MIN_BELOW = 0.025
_RECOVERED = 4
_BACK = 0.25
_STAKED_ON_NOISE = 0.3
_CALM = 1.3
_RISING = 0.25
_QUIET = 0.05
_PRIOR_LOSSES = 8.0
_SUSPICIOUS = 3.0


@dataclass(frozen=True)
class _Found:
    """The evidence of all frozen forecasts together, and the one that the run has left most clearly."""

    path: float
    noise: float
    forecast: Forecast
    basis: DeviationBasis
    jumped: bool
    excess: float

    @property
    def log_e(self) -> float:
        """All evidence there is."""
        return float(np.logaddexp(self.path, self.noise))


class PathDetector:
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
    Three tenths of the stake lie on the noise having grown (:class:`VarianceDetector`). Where relatives tell by their curves
    how the run should go on, half of the rest lies on the run being worse than they tell.

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
        self._own = FrozenForecasts(1 - _STAKED_ON_NOISE)
        self._relatives = FrozenForecasts(0.0)
        self._parted = False
        self._alarm: Forecast | None = None
        self._basis = DeviationBasis.OWN
        self._inside = 0
        self._farthest = 0.0
        self._distances: list[float] = []
        self._log_e = 0.0
        self._kind: DeviationKind | None = None
        self._quiet_until = 0.0
        self._noise = VarianceDetector()

    @property
    def suspicious(self) -> bool:
        """Whether some frozen forecast has evidence of 20 to 1 against it by itself, so that a closer look pays."""
        if self._alarm is not None:
            return False
        return any(len(a) > 0 and float(a.evidence.max()) >= _SUSPICIOUS for a in (self._own, self._relatives))

    def peek(self, block: Block) -> bool:
        """Whether there would be an alarm if an update were made now; nothing is changed.

        Args:
            block: The losses since the last update.
        """
        if self._alarm is not None:
            return False
        found = self._weigh(self._own.seen(block), self._relatives.seen(block), block)
        return found is not None and self._shows(found, block) is not None

    def update(
        self,
        block: Block | None,
        forecast: Forecast,
        *,
        settled: bool = True,
        relatives: Forecast | None = None,
        losses: NDArray[np.float64] | None = None,
        rate: float = math.nan,
    ) -> Deviation:
        """Judge the losses since the last update, then freeze the forecasts made after them.

        Args:
            block: The losses since the last update; ``None`` when none was finite.
            forecast: The forecast made after them; it serves as an anchor for later blocks only.
            settled: Whether the run is past the start, where forecasts are not worth holding it to.
            relatives: What the relatives' curves tell of the run, made after the same losses; ``None`` for nothing.
            losses: The losses since the last update one by one, shape ``(n,)``, to tell their noise by.
            rate: Learning rate planned for the present step.

        Returns:
            The verdict.
        """
        if losses is not None and settled:
            self._noise.update(losses, rate)
        if block is not None and self._alarm is None:
            self._own, self._relatives = self._own.seen(block), self._relatives.seen(block)
            found = self._weigh(self._own, self._relatives, block)
            if found is not None:
                self._test(found, block)
        elif block is not None and self._alarm is not None and self._recovered(self._alarm, block):
            self.reset()
            self._quiet_until = block.step + _QUIET * forecast.horizon
            return Deviation(False, 1.0, None, None, "on track")
        verdict = self._verdict(block)
        if self._alarm is None and block is not None and forecast.step >= self._quiet_until:
            if relatives is not None and not self._parted:
                self._relatives, self._parted = self._own.parted(), True
            if settled:
                self._freeze(self._own, forecast, block)
            if relatives is not None:
                self._freeze(self._relatives, relatives, block)
        return verdict

    @staticmethod
    def _freeze(anchors: FrozenForecasts, forecast: Forecast, block: Block) -> None:
        known = forecast.path is not None and anchors.reach(forecast) > forecast.step
        if known and not anchors.surprised(block):
            anchors.add(forecast, max(abs(block.loss), 1e-12))

    def _weigh(self, own: FrozenForecasts, relatives: FrozenForecasts, block: Block) -> _Found | None:
        logs = []
        most, strongest = -math.inf, None
        sides: tuple[tuple[DeviationBasis, FrozenForecasts], ...] = (
            (DeviationBasis.OWN, own),
            (DeviationBasis.PAST_RUNS, relatives),
        )
        for basis, anchors in sides:
            rest = anchors.unused + anchors.settled
            if rest > 0:
                logs.append(math.log(rest))
            if not len(anchors):
                continue
            excess = block.loss - anchors.expected(block.step)[0]
            worth = anchors.worth(excess)
            logs.append(float(np.logaddexp.reduce(worth)))
            best = int(np.argmax(worth))
            if worth[best] > most or strongest is None:
                most = float(worth[best])
                strongest = (anchors.forecasts[best], basis, anchors.jumped(best), float(excess[best]))
        if strongest is None:
            return None
        noise = math.log(_STAKED_ON_NOISE) + self._noise.log_e
        return _Found(float(np.logaddexp.reduce(logs)), noise, *strongest)

    def _shows(self, found: _Found, block: Block) -> DeviationKind | None:
        """What the evidence shows, if it is enough for an alarm and the effect large enough to matter."""
        if found.log_e < -math.log(self.alpha):
            return None
        if found.noise > found.path:
            return DeviationKind.VARIANCE_INCREASE if self._noise.grown else None
        if abs(found.excess) < (_MIN_ABOVE if found.excess > 0 else _MIN_BELOW) * abs(block.loss):
            return None
        if found.excess < 0:
            return DeviationKind.BETTER_THAN_FORECAST
        return DeviationKind.LEVEL_SHIFT if found.jumped else DeviationKind.PLATEAU

    def _test(self, found: _Found, block: Block) -> None:
        self._log_e = found.log_e
        kind = self._shows(found, block)
        if kind is not None:
            self._alarm, self._basis, self._kind = found.forecast, found.basis, kind
            self._inside, self._farthest, self._distances = 0, 0.0, [found.excess]

    def _recovered(self, left: Forecast, block: Block) -> bool:
        if self._kind == DeviationKind.VARIANCE_INCREASE:
            self._inside = self._inside + 1 if self._noise.ratio <= _CALM else 0
            return self._inside >= _RECOVERED
        # Means of a few blocks: one noisy block near the path is no return.
        self._distances = [*self._distances, block.loss - left.at(block.step)][-_RECOVERED:]
        distance = abs(sum(self._distances)) / _RECOVERED
        self._farthest = max(self._farthest, distance)
        return len(self._distances) == _RECOVERED and distance <= max(_BACK * self._farthest, block.sd / _RECOVERED)

    def _verdict(self, block: Block | None) -> Deviation:
        if not (len(self._own) or len(self._relatives)) and self._alarm is None:
            return Deviation(False, 1.0, None, None, "undecidable")
        e_value = math.exp(min(self._log_e, 700.0))
        if block is None:
            expected = math.nan
        elif self._alarm is not None:
            expected = float(self._alarm.at(block.step))
        else:
            expected = float((self._own if len(self._own) else self._relatives).expected(block.step)[0][-1])
        excess = block.loss - expected if block is not None else math.nan
        if self._alarm is None:
            return Deviation(False, e_value, None, None, "on track", excess, expected, None, self._noise.ratio)
        direction: Direction | None = "below" if excess < 0 else "above"
        if self._kind == DeviationKind.VARIANCE_INCREASE:
            direction = None
        elif self._kind in (DeviationKind.PLATEAU, DeviationKind.SLOW_DIVERGENCE) and block is not None:
            rise = block.loss - float(self._alarm.at(max(self._alarm.step, 1)))
            self._kind = DeviationKind.SLOW_DIVERGENCE if rise > _RISING * excess else DeviationKind.PLATEAU
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
            self._basis,
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
