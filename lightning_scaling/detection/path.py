"""Test of the losses against the forecasts made earlier."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from lightning_scaling.detection.base import Block, Detector, Evidence, ReferenceForecast, References
from lightning_scaling.detection.config import DEFAULT, PathConfig
from lightning_scaling.detection.frozen_forecasts import FrozenForecasts
from lightning_scaling.detection.result import DeviationBasis, DeviationKind

_MIN_LEVEL = 1e-12
_GRADUAL = (DeviationKind.PLATEAU, DeviationKind.SLOW_DIVERGENCE)


class PathDetector(Detector):
    """Compares each block of losses with the forecasts made before it, all of them at once.

    Every forecast is frozen and tested over the next quarter of the run. Against each runs a likelihood-ratio e-process
    (prequential: a block is judged by what was forecast before it was seen) of "a jump right after the forecast", "a
    drift since the forecast" or "no further fall" over "the distance grows as the forecast's uncertainty said".
    Forecasts share the alpha budget equally, so the weighted sum is again an e-process and, by Ville's inequality,
    exceeds ``1 / alpha`` in a run that follows its forecasts with probability at most ``alpha``, however often it is
    looked at (see Ramdas et al. 2023, arXiv 2210.01948). The guarantee is as good as the forecast's uncertainty; that
    is why it is taken 1.2 times wider, a single block moves the evidence by a bounded amount, and an alarm also needs
    an effect of at least 0.5 % of the loss above the forecast, or 2.5 % below it (improvements are rarely faults).
    Where the curves of past runs forecast the run, half of the unused budget tests against them, from above only.

    Once an alarm is on no further forecasts are frozen, so the damage is not absorbed; when the run has come back to
    within a quarter of its farthest distance, in the mean of four blocks, it has recovered. Forecasts from the first
    quarter of a run are taken to be less sure, by a factor from 2 to 1, and give no alarm below them.

    Args:
        config: Tuned numbers.
    """

    def __init__(self, config: PathConfig = DEFAULT.path) -> None:
        self._config = config
        self.alpha_share = config.alpha_share
        self.reset()

    def reset(self) -> None:
        """Forget all forecasts, and take the whole budget again."""
        self._own = FrozenForecasts(self.alpha_share, config=self._config)
        self._past_runs = FrozenForecasts(0.0, config=self._config)
        self._split = False
        self._release()

    def restart(self) -> None:
        """Forget all forecasts; what has been spent of the budget stays spent."""
        self._own.restart()
        self._past_runs.restart()
        self._release()

    def _release(self) -> None:
        self.held = False
        self._left: ReferenceForecast | None = None
        self._farthest = 0.0
        self._distances: list[float] = []

    @property
    def _sides(self) -> tuple[FrozenForecasts, FrozenForecasts]:
        return self._own, self._past_runs

    @property
    def suspicious(self) -> bool:  # type: ignore[override]
        """Whether some frozen forecast has evidence of 20 to 1 against it by itself, so that a closer look pays."""
        least = self._config.closer_look_log_evidence
        return not self.held and any(len(a) > 0 and float(a.evidence.max()) >= least for a in self._sides)

    def update(self, block: Block | None, forecast: References) -> Evidence:
        """Judge a block against the forecasts frozen before it."""
        if block is None or self.held:
            return Evidence(decidable=any(map(len, self._sides)))
        self._own, self._past_runs = (side.after(block) for side in self._sides)
        return self._weigh(self._own, self._past_runs, block)

    def peek(self, block: Block) -> Evidence:
        """The evidence if an update were made now."""
        return self._weigh(self._own.after(block), self._past_runs.after(block), block)

    def freeze(self, block: Block, forecast: References) -> None:
        """Freeze the forecasts made after a block."""
        if forecast.past_runs is not None and not self._split:
            self._past_runs, self._split = self._own.split(), True
        if forecast.settled:
            self._add(self._own, forecast.own, block)
        if forecast.past_runs is not None:
            self._add(self._past_runs, forecast.past_runs, block)

    @staticmethod
    def _add(side: FrozenForecasts, forecast: ReferenceForecast, block: Block) -> None:
        known = forecast.path is not None and side.tested_until(forecast) > forecast.step
        if known and not side.is_outlier(block):
            side.add(forecast, max(abs(block.loss), _MIN_LEVEL))

    def _weigh(self, own: FrozenForecasts, past_runs: FrozenForecasts, block: Block) -> Evidence:
        logs = []
        most, strongest = -math.inf, None
        for basis, side in ((DeviationBasis.OWN, own), (DeviationBasis.PAST_RUNS, past_runs)):
            rest = side.unused + side.settled
            if rest > 0:
                logs.append(math.log(rest))
            if not len(side):
                continue
            excess = block.loss - side.expected(block.step)[0]
            wealth = side.log_wealth(excess)
            logs.append(float(np.logaddexp.reduce(wealth)))
            best = int(np.argmax(wealth))
            if wealth[best] > most or strongest is None:
                most = float(wealth[best])
                strongest = (side.forecasts[best], basis, side.jumped(best), float(excess[best]))
        if strongest is None:
            return Evidence(decidable=False)
        forecast, basis, jumped, distance = strongest
        return Evidence(
            float(np.logaddexp.reduce(logs)),
            self._kind(distance, jumped, block),
            "below" if distance < 0 else "above",
            forecast,
            basis,
            distance,
            float((own if len(own) else past_runs).expected(block.step)[0][-1]),
        )

    def _kind(self, excess: float, jumped: bool, block: Block) -> DeviationKind | None:
        config = self._config
        least = config.min_excess_above if excess > 0 else config.min_excess_below
        if abs(excess) < least * abs(block.loss):
            return None
        if excess < 0:
            return DeviationKind.BETTER_THAN_FORECAST
        return DeviationKind.LEVEL_SHIFT if jumped else DeviationKind.PLATEAU

    def hold(self, alarm: Evidence) -> None:
        """An alarm has been raised."""
        self.held = True
        self._left, self._farthest, self._distances = alarm.reference, 0.0, [alarm.excess]

    def recovered(self, block: Block) -> bool:
        """Whether the run has come back to within a quarter of its farthest distance from the forecast it had left."""
        if self._left is None:
            return False
        blocks = self._config.recovery_blocks
        self._distances = [*self._distances, block.loss - self._left.at(block.step)][-blocks:]
        mean = abs(sum(self._distances)) / blocks
        self._farthest = max(self._farthest, mean)
        near = max(self._config.recovery_share * self._farthest, block.sd / blocks)
        return len(self._distances) == blocks and mean <= near

    def describe(self, block: Block, alarm: Evidence) -> Evidence:
        """An alarm as it looks after a block: a run above its path rises, or has only stopped falling."""
        if alarm.reference is None or alarm.kind not in _GRADUAL:
            return alarm
        rise = block.loss - float(alarm.reference.at(max(alarm.reference.step, 1)))
        rising = rise > self._config.rising_share * (block.loss - float(alarm.reference.at(block.step)))
        return replace(alarm, kind=DeviationKind.SLOW_DIVERGENCE if rising else DeviationKind.PLATEAU)

    def state_dict(self) -> dict[str, Any]:
        """What is left of the budget, as builtins."""
        return {"own": self._own.state_dict(), "past_runs": self._past_runs.state_dict(), "split": self._split}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue with what was left of the budget, and without a forecast."""
        self.reset()
        self._split = bool(state["split"])
        if self._split:
            self._past_runs = self._own.split()
        self._own.load_state_dict(state["own"])
        self._past_runs.load_state_dict(state["past_runs"])
