"""The fast path: blow-ups seen on the losses themselves, without any forecast."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lightning_scaling.detection.frozen_forecasts import Block

_LOST = 0.2
_LOST_FOR_GOOD = 0.5
_SIGMAS = 6.0
_BACK = 0.1
_BEYOND_DOUBT = 2.0
_SIGMAS_OF_ONE = 10.0
_PERSISTENT = 8
_CONFIRMED = 2


@dataclass(frozen=True)
class Divergence:
    """A blow-up under way.

    Attributes:
        since_step: Step of the first block that showed it.
        lost: Share of everything the run had gained that is lost again.
        best: The lowest block loss so far.
        lasting: Whether at least half of the gain has been lost for eight blocks on end.
    """

    since_step: int
    lost: float
    best: float
    lasting: bool


class DivergenceDetector:
    """Tells when a run has given back a large part of the loss it had gained, and when it has recovered.

    What a run has gained is its first block's loss minus its lowest. Losing a fifth of it, and six standard
    deviations of the noise, in two blocks on end is a divergence; one bad block is not, unless a single loss has lost
    twice what was gained. Getting back to within a tenth is a recovery.
    """

    def __init__(self) -> None:
        self._start: float | None = None
        self._best = float("inf")
        self._noise = 0.0
        self._blocks = 0
        self._lasting = 0
        self._since = 0

    def update(self, block: Block | None, *, blown: bool = False) -> Divergence | None:
        """Take the next block of losses; ``None`` when none of them was finite.

        Args:
            block: The losses since the last update.
            blown: Whether the last of them was above :meth:`limit`.

        Returns:
            The divergence under way, if there is one.
        """
        if block is None:
            return None
        if self._start is None:
            self._start = self._best = block.loss
            self._noise = block.sd
            return None
        gained = self._start - self._best
        lost = block.loss - self._best
        if gained > 0 and (blown or lost > max(_LOST * gained, _SIGMAS * max(self._noise, block.sd / 3))):
            if self._blocks == 0:
                self._since = round(block.step)
            self._blocks += _CONFIRMED if blown else 1
        elif self._blocks and lost > _BACK * max(gained, 0.0):
            self._blocks += 1
        else:
            self._blocks = 0
        if not self._blocks:
            self._noise = block.sd
        self._lasting = self._lasting + 1 if gained > 0 and lost > _LOST_FOR_GOOD * gained else 0
        self._best = min(self._best, block.loss)
        if self._blocks < _CONFIRMED:
            return None
        return Divergence(self._since, lost / gained, self._best, self._lasting >= _PERSISTENT)

    def limit(self, noise: float) -> float:
        """A single loss above this has lost all the run had gained, and as much again.

        Args:
            noise: Standard deviation of single losses.

        Returns:
            The limit; infinite while nothing has been gained, or a divergence is under way.
        """
        if self._start is None or self._blocks or self._best >= self._start:
            return math.inf
        return self._best + max(_BEYOND_DOUBT * (self._start - self._best), _SIGMAS_OF_ONE * noise)

    def state_dict(self) -> dict[str, Any]:
        """The watch as builtins."""
        return {
            "start": self._start,
            "best": self._best,
            "noise": self._noise,
            "blocks": self._blocks,
            "lasting": self._lasting,
            "since": self._since,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from what :meth:`state_dict` returned."""
        self._start = state["start"]
        self._best = state["best"]
        self._noise = state["noise"]
        self._blocks = state["blocks"]
        self._lasting = state["lasting"]
        self._since = state["since"]
