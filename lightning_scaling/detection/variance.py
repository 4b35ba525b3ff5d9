"""Test of whether the noise of the losses has grown."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from scipy.special import gammaln

from lightning_scaling._utils.state import AttributeState
from lightning_scaling._utils.stats import robust_std
from lightning_scaling.detection.base import MAX_EXPONENT, Array, Block, Detector, Evidence, References
from lightning_scaling.detection.config import DEFAULT, VarianceConfig
from lightning_scaling.detection.result import DeviationKind

_SECOND_DIFFERENCE_LOSSES = 3


class VarianceDetector(AttributeState, Detector):
    """Evidence that the losses have become noisier, by an e-process.

    The noise of a block is its mean absolute second difference, which a straight fall does not enter. Its logarithm is
    compared with that of the last 24 blocks before a bet was begun, whose median and spread give a Student t for it:
    the bet is on the same distribution about 1.8, 3 or 6 times higher. A bet is begun at every second block and kept
    for twelve blocks; the bets share the budget equally, so that their weighted sum is an e-process. One block
    multiplies a bet by ``exp(2)`` at most: it takes several noisy ones, whatever their distribution. A learning rate
    that rises brings noise with it: bets and reference are then given up.

    Args:
        config: Tuned numbers.
    """

    STATE = ("_settled", "_unused", "_rate", "_calm_blocks", "_seen", "_recent", "_count")

    def __init__(self, config: VarianceConfig = DEFAULT.variance) -> None:
        self._config = config
        self._log_ratios = np.log(np.array(config.ratios))
        self.alpha_share = config.alpha_share
        self.reset()

    def reset(self) -> None:
        """Forget all blocks."""
        self._settled, self._unused = 0.0, 1.0
        self._rate = math.inf
        self._calm_blocks = 0
        self._forget()

    def _forget(self) -> None:
        self._tail: Array = np.empty(0)
        self._seen: list[float] = []
        self._recent: list[float] = []
        self._count = 0
        self._bets: Array = np.empty((4, 0))
        """Center, spread, degrees of freedom and log wealth of each bet, shape ``(4, b)``."""

    def update(self, block: Block | None, forecast: References) -> Evidence:
        """Judge the losses of a block, once the start of the run is over."""
        if block is not None and forecast.settled and block.losses.size:
            self._take(block)
        return self._evidence()

    def _take(self, block: Block) -> None:
        config = self._config
        if block.rate > config.rate_rise * self._rate:
            self._settled += self._worth
            self._forget()
        self._rate = block.rate
        joined = np.concatenate([self._tail, block.losses])
        self._tail = joined[-(_SECOND_DIFFERENCE_LOSSES - 1) :]
        if joined.size < _SECOND_DIFFERENCE_LOSSES:
            return
        noise = float(np.abs(joined[1:-1] - (joined[2:] + joined[:-2]) / 2).mean())
        self._recent = [*self._recent, noise][-config.recent_blocks :]
        if noise <= 0:
            return
        log = math.log(noise)
        center, spread, dof, _ = self._bets
        away = (log - center) / spread
        shifted = away[:, None] - self._log_ratios / spread[:, None]
        gains = _log_t(shifted, dof[:, None]) - _log_t(away, dof)[:, None]
        ratio = np.logaddexp.reduce(gains, axis=1) - math.log(self._log_ratios.size)
        self._bets[-1] += np.minimum(ratio, config.max_log_factor)
        self._seen = [*self._seen, log][-config.reference_blocks :]
        self._count += 1
        due = self._count >= config.warmup_blocks and self._count % config.blocks_per_bet == 0
        if due and self._unused >= config.bet_share:
            self._begin()

    def _begin(self) -> None:
        config, seen = self._config, np.array(self._seen)
        center = float(np.median(seen))
        spread = max(robust_std(seen, center), config.min_log_spread) * math.sqrt(1 + 1 / seen.size)
        self._bets = np.column_stack([self._bets, [center, spread, seen.size - 1.0, 0.0]])
        self._unused -= config.bet_share
        while self._bets.shape[1] > config.bet_blocks // config.blocks_per_bet:
            self._settled += config.bet_share * math.exp(min(float(self._bets[-1, 0]), MAX_EXPONENT))
            self._bets = self._bets[:, 1:]

    def _evidence(self) -> Evidence:
        ratio = self.ratio
        kind = DeviationKind.VARIANCE_INCREASE if ratio >= self._config.min_ratio else None
        return Evidence(math.log(self.alpha_share) + self.log_e, kind, noise_ratio=ratio)

    def peek(self, block: Block) -> Evidence:
        """The evidence of the last update: losses of half a block do not give a noise."""
        return self._evidence()

    def follow(self, block: Block, alarm: Evidence) -> Evidence | None:
        """The alarm, until four blocks in a row are calm."""
        self._calm_blocks = self._calm_blocks + 1 if self.ratio <= self._config.recovered_ratio else 0
        return None if self._calm_blocks >= self._config.recovery_blocks else alarm

    @property
    def log_e(self) -> float:
        """Logarithm of the e-value of "the noise has grown"; below zero while there is no evidence."""
        running = float(np.logaddexp.reduce(self._bets[-1])) + math.log(self._config.bet_share)
        rest = self._settled + self._unused
        return float(np.logaddexp(running, math.log(rest))) if rest > 0 else running

    @property
    def ratio(self) -> float:
        """Noise of the last three blocks over the usual one, that before the bet with most evidence was begun."""
        center, *_, log_wealth = self._bets
        if not log_wealth.size:
            return math.nan
        return float(np.median(self._recent)) / math.exp(float(center[int(np.argmax(log_wealth))]))

    @property
    def _worth(self) -> float:
        """Value of the bets that are open."""
        return self._config.bet_share * float(np.sum(np.exp(np.minimum(self._bets[-1], MAX_EXPONENT))))

    def restart(self) -> None:
        """Drop the reference: no bet is worth more than was spent on it from here on."""
        self._settled = min(self._settled + self._worth, 1.0 - self._unused)
        self._rate, self._calm_blocks = math.inf, 0
        self._forget()

    def state_dict(self) -> dict[str, Any]:
        """Budget, reference and bets, as builtins."""
        return {**super().state_dict(), "tail": self._tail.tolist(), "bets": self._bets.tolist()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from what :meth:`state_dict` returned."""
        super().load_state_dict(state)
        self._tail = np.array(state["tail"], dtype=np.float64)
        self._bets = np.array(state["bets"], dtype=np.float64).reshape(len(self._bets), -1)


def _log_t(value: Array, dof: Array) -> Array:
    """Logarithm of the density of Student's t."""
    constant = gammaln((dof + 1) / 2) - gammaln(dof / 2) - 0.5 * np.log(dof * math.pi)
    density: Array = constant - (dof + 1) / 2 * np.log1p(value**2 / dof)
    return density
