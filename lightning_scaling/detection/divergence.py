"""Blow-ups, detected on the losses themselves without any forecast."""

from __future__ import annotations

import math
from dataclasses import dataclass

from lightning_scaling._utils.state import AttributeState
from lightning_scaling.detection.base import NO_EVIDENCE, Block, Detector, Evidence, References
from lightning_scaling.detection.config import DEFAULT, DivergenceConfig


@dataclass(frozen=True)
class Divergence:
    """A blow-up under way.

    Attributes:
        since_step: Step of the first block that showed it.
        lost: Share of everything the run had gained that is lost again.
        best: The lowest block loss so far.
        lasting: Whether at least half of the gain has been lost for eight blocks in a row.
    """

    since_step: int
    lost: float
    best: float
    lasting: bool


class DivergenceDetector(AttributeState, Detector):
    """Detects that a run has given back a large part of the loss it had gained, and that it has recovered.

    The gain of a run is its first block's loss minus its lowest. Losing a fifth of it, and six standard deviations of
    the noise, in two blocks in a row is a divergence; one bad block is not, unless a single loss has lost twice what
    was gained. Getting back to within a tenth is a recovery. It needs no forecast and no share of the alpha budget:
    its result is :attr:`divergence`.

    Args:
        config: Tuned numbers.

    Attributes:
        divergence: The blow-up under way, if there is one.
    """

    STATE = ("_start", "_best", "_noise", "_blocks", "_lasting", "_since")

    def __init__(self, config: DivergenceConfig = DEFAULT.divergence) -> None:
        self._config = config
        self.reset()

    def reset(self) -> None:
        """Forget all blocks."""
        self._start: float | None = None
        self._best = math.inf
        self._noise = 0.0
        self._blocks = 0
        self._lasting = 0
        self._since = 0
        self.divergence: Divergence | None = None

    def update(self, block: Block | None, forecast: References | None = None) -> Evidence:
        """Judge a block; the forecast is not used."""
        self.divergence = None if block is None else self._judge(block)
        return NO_EVIDENCE

    def _judge(self, block: Block) -> Divergence | None:
        if self._start is None:
            self._start = self._best = block.loss
            self._noise = block.sd
            return None
        config = self._config
        gained = self._start - self._best
        lost = block.loss - self._best
        noise = max(self._noise, block.sd / config.block_std_divisor)
        if gained > 0 and (block.blown or lost > max(config.lost_share * gained, config.lost_stds * noise)):
            if self._blocks == 0:
                self._since = round(block.step)
            self._blocks += config.blocks if block.blown else 1
        elif self._blocks and lost > config.recovered_share * max(gained, 0.0):
            self._blocks += 1
        else:
            self._blocks = 0
        if not self._blocks:
            self._noise = block.sd
        self._lasting = self._lasting + 1 if gained > 0 and lost > config.lasting_share * gained else 0
        self._best = min(self._best, block.loss)
        if self._blocks < config.blocks:
            return None
        return Divergence(self._since, lost / gained, self._best, self._lasting >= config.lasting_blocks)

    def limit(self, noise: float) -> float:
        """The loss above which a single one has lost all the run had gained, and as much again.

        Args:
            noise: Standard deviation of single losses.

        Returns:
            The limit; infinite while nothing has been gained, or a divergence is under way.
        """
        if self._start is None or self._blocks or self._best >= self._start:
            return math.inf
        config = self._config
        lost = config.single_lost_share * (self._start - self._best)
        return self._best + max(lost, config.single_lost_stds * noise)
