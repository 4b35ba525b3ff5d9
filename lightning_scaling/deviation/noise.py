"""Has the noise of the losses grown? A test by ranks, which needs no model of the noise."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

_BETS = np.array([0.15, 0.35, 0.6])
_WARMING = 12
_REACH = 7
_EVERY = 4
_SHARE = 0.04
_LEAST_RATIO = 1.8


class NoiseWatch:
    """A conformal test martingale for noisier losses (Vovk et al. 2003, ICML, "Testing exchangeability on-line").

    The noise of a block is its mean absolute second difference, which a straight fall does not enter. Its rank among
    the blocks before is a p-value whatever the distribution, as long as the noise does not grow, and
    ``mean_e e * p ** (e - 1)`` a fair bet against it. A bet is begun at every fourth block, against the blocks before
    it, and kept for a quarter of a run; the bets share the stake equally, so that their weighted sum is an e-process.
    """

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forget all blocks."""
        self._tail: NDArray[np.float64] = np.empty(0)
        self._seen: list[float] = []
        self._before: NDArray[np.int64] = np.empty(0, dtype=np.int64)
        self._wealth: NDArray[np.float64] = np.empty(0)
        self._settled = 0.0
        self._unused = 1.0
        self._recent: list[float] = []

    def update(self, losses: NDArray[np.float64]) -> None:
        """Take the finite losses of the next block, shape ``(n,)``, in order."""
        joined = np.concatenate([self._tail, losses[np.isfinite(losses)]])
        self._tail = joined[-2:]
        if joined.size < 3:
            return
        noise = float(np.abs(joined[1:-1] - (joined[2:] + joined[:-2]) / 2).mean())
        self._recent = [*self._recent, noise][-3:]
        if self._wealth.size:
            seen = np.array(self._seen)
            above = np.cumsum(seen >= noise)
            p = (1 + above[self._before - 1]) / (self._before + 1)
            self._wealth = self._wealth + np.log((_BETS * p[:, None] ** (_BETS - 1)).mean(1))
        self._seen.append(noise)
        count = len(self._seen)
        if count >= _WARMING and count % _EVERY == 0 and self._unused >= _SHARE:
            self._before = np.append(self._before, count)
            self._wealth = np.append(self._wealth, 0.0)
            self._unused -= _SHARE
        while self._wealth.size > _REACH:
            self._settled += _SHARE * math.exp(min(float(self._wealth[0]), 600.0))
            self._before, self._wealth = self._before[1:], self._wealth[1:]

    @property
    def log_e(self) -> float:
        """Logarithm of the evidence that the noise has grown; below zero while there is none."""
        running = float(np.logaddexp.reduce(self._wealth)) + math.log(_SHARE) if self._wealth.size else -math.inf
        rest = self._settled + self._unused
        return float(np.logaddexp(running, math.log(rest))) if rest > 0 else running

    @property
    def usual(self) -> float:
        """The usual noise before the most telling bet was begun; ``nan`` while there is no bet."""
        if not self._wealth.size:
            return math.nan
        return float(np.median(self._seen[: int(self._before[int(np.argmax(self._wealth))])]))

    @property
    def ratio(self) -> float:
        """Noise of the last three blocks over the usual one."""
        return float(np.median(self._recent)) / self.usual if self.usual > 0 else math.nan

    @property
    def grown(self) -> bool:
        """Whether it has grown by enough to matter."""
        return self.ratio >= _LEAST_RATIO
