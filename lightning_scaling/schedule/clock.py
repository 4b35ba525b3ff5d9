"""Optimizer steps after which a scheduler is stepped, laid out on epochs and micro-batches as Lightning counts them."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

import numpy as np
from numpy.typing import ArrayLike, NDArray

Steps = NDArray[np.int64]

_ENDLESS = 2**62


@dataclass(frozen=True)
class EpochGrid:
    """How optimizer steps fall on epochs and micro-batches.

    The optimizer steps after every ``factor`` micro-batches of an epoch and after the last one of the epoch, so an
    epoch of ``batches`` micro-batches has ``ceil(batches / factor)`` steps, the last perhaps over a short group.

    Args:
        batches: Micro-batches of an epoch; ``None`` when the epoch has no known end.
        accumulate: ``((first epoch, factor), ...)``, ascending, beginning with epoch 0: the number of micro-batches per
            optimizer step from that epoch on.
        step: Optimizer steps completed at the anchor.
        epoch: Epoch (from 0) that the anchor lies in.
        batch: Micro-batches of that epoch completed at the anchor.
    """

    batches: int | None
    accumulate: tuple[tuple[int, int], ...] = ((0, 1),)
    step: int = 0
    epoch: int = 0
    batch: int = 0

    def factor(self, epoch: int) -> int:
        """Micro-batches per optimizer step in ``epoch``."""
        return [factor for first, factor in self.accumulate if first <= epoch][-1]

    def steps_in(self, epoch: int) -> int:
        """Optimizer steps of ``epoch``."""
        return _ENDLESS if self.batches is None else ceil(self.batches / self.factor(epoch))

    @property
    def epoch_start(self) -> int:
        """Optimizer steps completed when the anchor's epoch began."""
        done = self.batch == self.batches
        within = self.steps_in(self.epoch) if done else self.batch // self.factor(self.epoch)
        return self.step - within

    @property
    def from_start(self) -> EpochGrid:
        """The same layout, anchored at the beginning of the run."""
        return EpochGrid(self.batches, self.accumulate)

    @property
    def regular(self) -> bool:
        """Whether the anchor lies where full epochs from the beginning of the run would put it."""
        if self.batches is None:
            return self.epoch == 0 and self.epoch_start == 0
        return int(self.from_start.ends(self.epoch - 1)) == self.epoch_start

    def ends(self, epochs: ArrayLike) -> Steps:
        """The last optimizer step of each of the given epochs, from the one before the anchor's on."""
        epochs = np.asarray(epochs, dtype=np.int64)
        ends = np.full(epochs.shape, self.epoch_start, dtype=np.int64)
        for first, last, _ in self._pieces():
            ends += (np.clip(epochs + 1, first, last) - first) * self.steps_in(first)
        return ends

    def place(self, steps: ArrayLike) -> tuple[Steps, Steps]:
        """Epoch of each optimizer step after the anchor, and micro-batches of that epoch completed with it."""
        steps = np.asarray(steps, dtype=np.int64)
        position = steps - self.epoch_start - 1
        if self.batches is None:
            return np.full(steps.shape, self.epoch, dtype=np.int64), (position + 1) * self.factor(self.epoch)
        epochs, done = np.zeros((2, *steps.shape), dtype=np.int64)
        for first, last, factor in self._pieces():
            per_epoch = self.steps_in(first)
            here = (position >= 0) & (position < (last - first) * per_epoch)
            epoch, within = np.divmod(position, per_epoch)
            epochs = np.where(here, first + epoch, epochs)
            done = np.where(here, np.minimum((within + 1) * factor, self.batches), done)
            position = np.where(here, -1, position - (last - first) * per_epoch)
        return epochs, done

    def _pieces(self) -> list[tuple[int, int, int]]:
        """Runs of epochs with one factor: (first epoch, last epoch exclusive, factor)."""
        starts = [self.epoch, *(first for first, _ in self.accumulate if first > self.epoch)]
        return [(a, b, self.factor(a)) for a, b in zip(starts, [*starts[1:], 2**31], strict=True)]


def ticks(interval: str, frequency: int, grid: EpochGrid, first: int, last: int) -> Steps:
    """The optimizer steps ``first <= s < last`` right after which a scheduler is stepped.

    Lightning looks after each optimizer step at the number of *micro-batches of the epoch* so far
    (``interval="step"``) or, after the last batch of an epoch, at the number of epochs (``interval="epoch"``), and
    steps the scheduler when that is a multiple of ``frequency``. With accumulation a scheduler of frequency 3 is
    therefore stepped where both counts meet, and the count begins anew with each epoch.
    """
    if interval == "step":
        steps = np.arange(first, last, dtype=np.int64)
        return steps if frequency == 1 else steps[grid.place(steps)[1] % frequency == 0]
    if last <= first or grid.batches is None:
        return np.empty(0, dtype=np.int64)
    (begin, end), _ = grid.place([first, last - 1])
    epochs = np.arange(begin, end + 1, dtype=np.int64)
    epochs = epochs[(epochs + 1) % frequency == 0]
    ends = grid.ends(epochs)
    return ends[(ends >= first) & (ends < last)]
