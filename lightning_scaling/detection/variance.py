"""Has the noise of the losses grown?"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaln

_GROWN = np.log(np.array([1.8, 3.0, 6.0]))
_WARMING = 12
_REFERENCE = 24
_REACH = 12
_EVERY = 2
_SHARE = 0.02
_LEAST_SPREAD = 0.25
_MOST_A_BLOCK = 2.0
_LEAST_RATIO = 1.8
_RAISED = 1.1


class VarianceDetector:
    """Evidence that the losses have become noisier, by an e-process.

    The noise of a block is its mean absolute second difference, which a straight fall does not enter. Its logarithm is
    held against that of the last 24 blocks before a bet was begun, whose middle and spread give a Student t for it: the
    bet is on the same distribution about 1.8, 3 or 6 times higher. A bet is begun at every second block and kept for
    twelve hundredths of a run; the bets share the stake equally, so that their weighted sum is an e-process. One block
    multiplies a bet by ``exp(2)`` at most: it takes several noisy ones, whatever their distribution. A learning rate
    that rises brings noise with it: what was seen before is then no measure.
    """

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forget all blocks."""
        self._settled = 0.0
        self._unused = 1.0
        self._rate = math.inf
        self._forget()

    def _forget(self) -> None:
        self._tail: NDArray[np.float64] = np.empty(0)
        self._seen: list[float] = []
        self._count = 0
        self._middle: NDArray[np.float64] = np.empty(0)
        self._spread: NDArray[np.float64] = np.empty(0)
        self._freedom: NDArray[np.float64] = np.empty(0)
        self._wealth: NDArray[np.float64] = np.empty(0)
        self._recent: list[float] = []

    def update(self, losses: NDArray[np.float64], rate: float = math.nan) -> None:
        """Take the losses of the next block.

        Args:
            losses: The losses in order, shape ``(n,)``; those not finite are left out.
            rate: Learning rate planned at its end.
        """
        if rate > _RAISED * self._rate:
            self._settled += _SHARE * float(np.sum(np.exp(np.minimum(self._wealth, 600.0))))
            self._forget()
        self._rate = rate
        joined = np.concatenate([self._tail, losses[np.isfinite(losses)]])
        self._tail = joined[-2:]
        if joined.size < 3:
            return
        noise = float(np.abs(joined[1:-1] - (joined[2:] + joined[:-2]) / 2).mean())
        self._recent = [*self._recent, noise][-3:]
        if noise <= 0:
            return
        log = math.log(noise)
        if self._wealth.size:
            away = (log - self._middle) / self._spread
            shifted = away[:, None] - _GROWN / self._spread[:, None]
            told = _log_t(shifted, self._freedom[:, None]) - _log_t(away, self._freedom)[:, None]
            ratio = np.logaddexp.reduce(told, axis=1) - math.log(_GROWN.size)
            self._wealth = self._wealth + np.minimum(ratio, _MOST_A_BLOCK)
        self._seen = [*self._seen, log][-_REFERENCE:]
        self._count += 1
        if self._count >= _WARMING and self._count % _EVERY == 0 and self._unused >= _SHARE:
            self._begin()

    def _begin(self) -> None:
        seen = np.array(self._seen)
        middle = float(np.median(seen))
        spread = max(1.4826 * float(np.median(np.abs(seen - middle))), _LEAST_SPREAD) * math.sqrt(1 + 1 / seen.size)
        self._middle = np.append(self._middle, middle)
        self._spread = np.append(self._spread, spread)
        self._freedom = np.append(self._freedom, seen.size - 1.0)
        self._wealth = np.append(self._wealth, 0.0)
        self._unused -= _SHARE
        while self._wealth.size > _REACH // _EVERY:
            self._settled += _SHARE * math.exp(min(float(self._wealth[0]), 600.0))
            for name in ("_middle", "_spread", "_freedom", "_wealth"):
                setattr(self, name, getattr(self, name)[1:])

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
        return math.exp(float(self._middle[int(np.argmax(self._wealth))]))

    @property
    def ratio(self) -> float:
        """Noise of the last three blocks over the usual one."""
        return float(np.median(self._recent)) / self.usual if self.usual > 0 else math.nan

    @property
    def grown(self) -> bool:
        """Whether it has grown by enough to matter."""
        return self.ratio >= _LEAST_RATIO


def _log_t(value: NDArray[np.float64], freedom: NDArray[np.float64]) -> NDArray[np.float64]:
    """Logarithm of the density of Student's t."""
    constant = gammaln((freedom + 1) / 2) - gammaln(freedom / 2) - 0.5 * np.log(freedom * math.pi)
    density: NDArray[np.float64] = constant - (freedom + 1) / 2 * np.log1p(value**2 / freedom)
    return density
