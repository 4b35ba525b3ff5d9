"""The losses since the last update, in bounded memory."""

from __future__ import annotations

from collections.abc import Mapping
from copy import copy
from typing import Any

import numpy as np
from numpy.typing import NDArray

_CHUNKS = 4096
_SAVED_CHUNKS = 256


class LossBuffer:
    """Means of chunks of consecutive losses; the chunks double in size whenever 4,096 of them are full.

    Where chunks end depends on how many losses came before, not on how they were cut into blocks.
    """

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        """Forget everything."""
        self._stride = 1
        self._seen = 0
        self._step = np.zeros(_CHUNKS)
        self._loss = np.zeros(_CHUNKS)
        self._count = np.zeros(_CHUNKS)
        self.nonfinite = 0

    def __len__(self) -> int:
        return self._seen

    def add(self, steps: NDArray[np.float64], losses: NDArray[np.float64]) -> None:
        """Add losses, shape ``(n,)`` each; those not finite are only counted."""
        finite = np.isfinite(losses)
        self.nonfinite += int(losses.size - finite.sum())
        steps, losses = steps[finite], losses[finite]
        while steps.size:
            if self._seen == _CHUNKS * self._stride:
                self._double()
            room = _CHUNKS * self._stride - self._seen
            part, rest = steps[:room], steps[room:]
            owner = (self._seen + np.arange(part.size)) // self._stride
            np.add.at(self._step, owner, part)
            np.add.at(self._loss, owner, losses[:room])
            np.add.at(self._count, owner, 1.0)
            self._seen += part.size
            steps, losses = rest, losses[room:]

    def _double(self) -> None:
        half = _CHUNKS // 2
        for column in (self._step, self._loss, self._count):
            column[:half] = column[0::2] + column[1::2]
            column[half:] = 0.0
        self._stride *= 2

    @property
    def means(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Mean step and mean loss of every chunk, shape ``(k,)`` each."""
        used = self._count > 0
        return self._step[used] / self._count[used], self._loss[used] / self._count[used]

    def state_dict(self) -> dict[str, Any]:
        """The losses as builtins: at most 256 chunks of them. Saving changes nothing here."""
        small = copy(self)
        small._step, small._loss, small._count = self._step.copy(), self._loss.copy(), self._count.copy()
        while np.count_nonzero(small._count) > _SAVED_CHUNKS:
            small._double()
        used = np.count_nonzero(small._count)
        return {
            "stride": small._stride,
            "seen": small._seen,
            "step": small._step[:used].tolist(),
            "loss": small._loss[:used].tolist(),
            "count": small._count[:used].tolist(),
            "nonfinite": small.nonfinite,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from what :meth:`state_dict` returned."""
        self.clear()
        used = len(state["step"])
        self._stride, self._seen = state["stride"], state["seen"]
        self._step[:used], self._loss[:used], self._count[:used] = state["step"], state["loss"], state["count"]
        self.nonfinite = state["nonfinite"]
