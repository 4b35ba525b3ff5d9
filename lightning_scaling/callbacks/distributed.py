"""Agreement between the processes of one run, through the Trainer's own strategy."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch.utils._pytree import tree_flatten
from torch.utils.data import DataLoader, IterableDataset

_EXCHANGING_HOOKS = ("allreduce_hook", "fp16_compress_hook", "bf16_compress_hook", "powerSGD_hook")


class Ranks:
    """The processes of a run, seen from one of them.

    Every method that talks to the others must be called by all of them at the same point of training.

    Args:
        trainer: A Trainer whose strategy is set up.

    Attributes:
        world: Number of ranks.
        first: Whether this is rank zero.
        copies: How often each batch is seen: what is summed over ranks has to be divided by it.
    """

    def __init__(self, trainer: Any) -> None:
        self._strategy = trainer.strategy
        self.world = int(trainer.world_size)
        self.first = bool(trainer.is_global_zero)
        sampler = getattr(self._strategy, "distributed_sampler_kwargs", None)
        # Tensor-parallel ranks see the same batch, which counts once.
        replicas = int(sampler["num_replicas"]) if sampler else self.world
        self.copies = self.world // max(1, min(self.world, replicas))

    def sum(self, rows: NDArray[np.float64]) -> NDArray[np.float64]:
        """Sum of an array over all ranks: one collective, the same result on each of them."""
        if self.world == 1:
            return rows
        summed = torch.from_numpy(np.ascontiguousarray(rows)).to(self._strategy.root_device, copy=True)
        if dist.is_available() and dist.is_initialized():
            dist.all_reduce(summed)  # the strategy would have the devices meet at a barrier first
        else:
            summed = self._strategy.reduce(summed, reduce_op="sum")
        return summed.cpu().numpy().astype(np.float64, copy=False)

    def broadcast(self, sent: bytes) -> bytes:
        """What rank zero sends, on all ranks."""
        received: bytes = self._strategy.broadcast(sent)
        return received

    def sum_parts(self, *parts: NDArray[np.float64]) -> list[NDArray[np.float64]]:
        """Sums of several arrays over all ranks, in one collective."""
        summed = self.sum(np.concatenate([part.ravel() for part in parts]))
        ends = np.cumsum([part.size for part in parts])[:-1]
        return [flat.reshape(part.shape) for flat, part in zip(np.split(summed, ends), parts, strict=True)]

    def meet_at_steps(self) -> bool:
        """Whether the ranks exchange something at every step.

        Not those that train on in torch's ``Join`` after others have run out of data, and not those with a
        communication hook of which it is not known: that of local SGD leaves exchanges out.
        """
        model = getattr(self._strategy, "model", None)
        joining = getattr(getattr(model, "_join_config", None), "enable", False)
        hook = getattr(self._strategy, "_ddp_comm_hook", None)
        return not joining and (hook is None or getattr(hook, "__name__", "") in _EXCHANGING_HOOKS)

    def have_as_many_batches(self, trainer: Any) -> bool:
        """Whether every rank is certain to train on the same number of batches in each epoch; one collective.

        Streams may end at another batch on each rank, whatever length they announce.
        """
        if self.world == 1:
            return True
        loaders = tree_flatten(trainer.train_dataloader)[0]
        sized = all(isinstance(one, DataLoader) and not isinstance(one.dataset, IterableDataset) for one in loaders)
        batches = trainer.num_training_batches if sized else float("nan")
        first = float(self._strategy.broadcast(float(batches)))
        return bool(self.sum(np.array([float(first == batches)]))[0] == self.world)
