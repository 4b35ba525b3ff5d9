"""Number of steps of a whole pass over the training data, where it is known."""

from __future__ import annotations

from typing import Any

from torch.utils.data import BatchSampler, DataLoader, IterableDataset, RandomSampler, SequentialSampler
from torch.utils.data.sampler import WeightedRandomSampler


def steps_per_epoch(trainer: Any) -> int | None:
    """Optimizer steps of one pass over the training data.

    An epoch that ``limit_train_batches`` cuts short is a pass where it has the same batches each time; where they are
    drawn anew from all data, a pass is as long as the loader.

    Args:
        trainer: The Trainer in training.

    Returns:
        The steps; ``None`` where a pass has no end (streams), where loaders are made anew and may bring other data,
        where samples are drawn with replacement, or where the module itself decides when to step.
    """
    batches, group = trainer.num_training_batches, trainer.accumulate_grad_batches
    if not (isinstance(batches, int) and batches > 0 and isinstance(group, int)):
        return None
    if trainer.reload_dataloaders_every_n_epochs or not trainer.lightning_module.automatic_optimization:
        return None
    limit = trainer.limit_train_batches
    whole = _whole(trainer.train_dataloader, batches, cut=isinstance(limit, int) or limit < 1.0)
    return None if whole is None else -(-whole // group)


def _whole(loader: Any, batches: int, *, cut: bool) -> int | None:
    """Batches of a pass, given those of an epoch."""
    if not isinstance(loader, DataLoader):
        return None if cut and not isinstance(loader, list | tuple) else batches
    sampler = loader.sampler
    if isinstance(sampler, RandomSampler | WeightedRandomSampler) and sampler.replacement:
        return None
    if not cut or len(loader) <= batches:
        return batches
    if isinstance(loader.dataset, IterableDataset) or type(loader.batch_sampler) not in (BatchSampler, type(None)):
        return None
    fixed = isinstance(sampler, SequentialSampler) or getattr(sampler, "shuffle", None) is False
    return batches if fixed else len(loader)
