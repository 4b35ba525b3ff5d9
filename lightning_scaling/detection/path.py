"""Test of the losses against the forecasts made earlier."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from lightning_scaling.detection.base import (
    NO_EVIDENCE,
    Block,
    Detector,
    Evidence,
    FrozenForecast,
    ReferenceForecast,
    References,
)
from lightning_scaling.detection.config import DEFAULT, PathConfig
from lightning_scaling.detection.frozen_forecasts import FrozenForecasts
from lightning_scaling.detection.result import DeviationBasis, DeviationKind, Direction

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
        self._sides = {
            DeviationBasis.OWN: FrozenForecasts(self.alpha_share, config=self._config),
            DeviationBasis.PAST_RUNS: FrozenForecasts(0.0, one_sided=True, config=self._config),
        }
        self._farthest = 0.0
        self._distances: list[float] = []

    @property
    def suspicious(self) -> bool:  # type: ignore[override]
        """Whether some frozen forecast has evidence of 20 to 1 against it by itself, so that a closer look pays."""
        least = self._config.closer_look_log_evidence
        return any(len(side) and float(side.evidence.max()) >= least for side in self._sides.values())

    def update(self, block: Block | None, forecast: References) -> Evidence:
        """Judge a block against the forecasts frozen before it."""
        if block is None or self.held:
            return Evidence(decidable=any(map(len, self._sides.values())))
        self._sides = self._after(block)
        return self._weigh(self._sides, block)

    def peek(self, block: Block) -> Evidence:
        """The evidence if an update were made now."""
        return self._weigh(self._after(block), block)

    def _after(self, block: Block) -> dict[DeviationBasis, FrozenForecasts]:
        return {basis: side.after(block) for basis, side in self._sides.items()}

    def freeze(self, block: Block, forecast: References) -> None:
        """Freeze the forecasts made after a block."""
        own, past_runs = self._sides.values()
        if forecast.past_runs is not None and not past_runs.part:
            own.give_half_to(past_runs)
        if forecast.settled:
            self._add(own, forecast.own, block)
        if forecast.past_runs is not None:
            self._add(past_runs, forecast.past_runs, block)

    @staticmethod
    def _add(side: FrozenForecasts, forecast: ReferenceForecast, block: Block) -> None:
        known = forecast.path is not None and side.tested_until(forecast) > forecast.step
        if known and not side.is_outlier(block):
            side.add(forecast, max(abs(block.loss), _MIN_LEVEL))

    def _weigh(self, sides: Mapping[DeviationBasis, FrozenForecasts], block: Block) -> Evidence:
        logs: list[float] = []
        strongest, expected = NO_EVIDENCE, math.nan
        for basis, side in sides.items():
            if side.rest > 0:
                logs.append(math.log(side.rest))
            if not len(side):
                continue
            medians = side.expected(block.step)[0]
            excess = block.loss - medians
            wealth = side.log_wealth(excess)
            logs.append(float(np.logaddexp.reduce(wealth)))
            best = int(np.argmax(wealth))
            if math.isnan(expected):
                expected = float(medians[-1])
            if wealth[best] > strongest.log_e or strongest.reference is None:
                distance, left = float(excess[best]), side.forecasts[best]
                kind = self._kind(distance, left, block, jumped=side.jumped(best))
                direction: Direction = "below" if distance < 0 else "above"
                strongest = Evidence(float(wealth[best]), kind, direction, left, basis, distance)
        if strongest.reference is None:
            return replace(NO_EVIDENCE, decidable=False)
        return replace(strongest, log_e=float(np.logaddexp.reduce(logs)), expected=expected)

    def _kind(self, excess: float, left: FrozenForecast, block: Block, *, jumped: bool) -> DeviationKind | None:
        config = self._config
        least = config.min_excess_above if excess > 0 else config.min_excess_below
        if abs(excess) < least * abs(block.loss):
            return None
        if excess < 0:
            return DeviationKind.BETTER_THAN_FORECAST
        return DeviationKind.LEVEL_SHIFT if jumped else self._gradual(left, block)

    def _gradual(self, left: FrozenForecast, block: Block) -> DeviationKind:
        """Whether a run above its path rises, or has only stopped falling."""
        rise = block.loss - left.at(left.step)
        rising = rise > self._config.rising_share * (block.loss - left.at(block.step))
        return DeviationKind.SLOW_DIVERGENCE if rising else DeviationKind.PLATEAU

    def follow(self, block: Block, alarm: Evidence) -> Evidence | None:
        """The alarm, until the run is back within a quarter of its farthest distance from the forecast it had left."""
        left, blocks = alarm.reference, self._config.recovery_blocks
        if left is None:
            return alarm
        self._distances = [*(self._distances or [alarm.excess]), block.loss - left.at(block.step)][-blocks:]
        mean = abs(sum(self._distances)) / blocks
        self._farthest = max(self._farthest, mean)
        near = max(self._config.recovery_share * self._farthest, block.sd / blocks)
        if len(self._distances) == blocks and mean <= near:
            return None
        return replace(alarm, kind=self._gradual(left, block)) if alarm.kind in _GRADUAL else alarm

    def restart(self) -> None:
        """Drop the forecasts; what was spent of the budget stays spent."""
        for side in self._sides.values():
            side.restart()
        self._farthest, self._distances = 0.0, []

    def state_dict(self) -> dict[str, Any]:
        """The forecasts with their evidence, as builtins."""
        sides = {str(basis): side.state_dict() for basis, side in self._sides.items()}
        return {**sides, "farthest": self._farthest, "distances": list(self._distances)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from what :meth:`state_dict` returned."""
        for basis, side in self._sides.items():
            side.load_state_dict(state[basis])
        self._farthest, self._distances = state["farthest"], list(state["distances"])
