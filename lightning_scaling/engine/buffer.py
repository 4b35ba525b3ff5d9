"""The losses since the last update, in bounded memory."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

_CHUNKS = 4096


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
        self._sums = np.zeros((3, _CHUNKS))  # of steps, losses and ones
        self.nonfinite = 0

    def __len__(self) -> int:
        return self._seen

    def add(self, steps: NDArray[np.float64], losses: NDArray[np.float64]) -> None:
        """Add losses, shape ``(n,)`` each; those not finite are only counted."""
        finite = np.isfinite(losses)
        self.nonfinite += int(losses.size - finite.sum())
        rows = np.stack([steps[finite], losses[finite], np.ones(finite.sum())])
        while rows.size:
            if self._seen == _CHUNKS * self._stride:
                self._double()
            room = _CHUNKS * self._stride - self._seen
            part, rows = rows[:, :room], rows[:, room:]
            owner = (self._seen + np.arange(part.shape[1])) // self._stride
            for sums, values in zip(self._sums, part, strict=True):
                np.add.at(sums, owner, values)
            self._seen += part.shape[1]

    def _double(self) -> None:
        merged = self._sums[:, 0::2] + self._sums[:, 1::2]
        self._sums = np.concatenate([merged, np.zeros_like(merged)], axis=1)
        self._stride *= 2

    @property
    def means(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Mean step and mean loss of every chunk, shape ``(k,)`` each."""
        steps, losses, count = self._sums[:, self._sums[2] > 0]
        return steps / count, losses / count

    def state_dict(self) -> dict[str, Any]:
        """The chunks as builtins."""
        sums = self._sums[:, self._sums[2] > 0].tolist()
        return {"stride": self._stride, "seen": self._seen, "sums": sums, "nonfinite": self.nonfinite}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from what :meth:`state_dict` returned."""
        self.clear()
        sums = np.array(state["sums"])
        self._sums[:, : sums.shape[1]] = sums
        self._stride, self._seen, self.nonfinite = state["stride"], state["seen"], state["nonfinite"]
