"""Agreement between the processes of one run, through the Trainer's own strategy."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray


class Ranks:
    """The processes of a run, seen from one of them.

    Every method that talks to the others must be called by all of them at the same point of training.

    Args:
        trainer: A Trainer whose strategy is set up.
    """

    def __init__(self, trainer: Any) -> None:
        self._strategy = trainer.strategy
        self.world = int(trainer.world_size)
        self.first = bool(trainer.is_global_zero)
        self._copies = self.world // max(1, min(self.world, self._data_replicas()))

    def _data_replicas(self) -> int:
        """Ranks that see different data; tensor-parallel ranks see the same batch, which counts once."""
        sampler = getattr(self._strategy, "distributed_sampler_kwargs", None)
        return int(sampler["num_replicas"]) if sampler else self.world

    @property
    def share(self) -> int:
        """How often each batch is seen: what is summed over ranks has to be divided by it."""
        return self._copies

    def total(self, rows: NDArray[np.float64]) -> NDArray[np.float64]:
        """Sum of an array over all ranks: one collective, the same result on each of them."""
        if self.world == 1:
            return rows
        device = self._strategy.root_device
        sent = torch.from_numpy(np.ascontiguousarray(rows)).to(device)
        received: torch.Tensor = self._strategy.reduce(sent, reduce_op="sum")
        return received.cpu().numpy().astype(np.float64, copy=False)
