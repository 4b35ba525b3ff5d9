"""Parameter counts of a model."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from torch import nn
from torch.nn.parameter import is_lazy


@dataclass(frozen=True)
class ParamCounts:
    """How many parameters a model has, each weight counted once however often it is used.

    Attributes:
        total: All parameters, frozen ones too.
        trainable: Those with ``requires_grad``.
        embedding: Weights of ``nn.Embedding`` and ``nn.EmbeddingBag``, whether or not they double as an output head.
        non_embedding: ``total - embedding``, the ``N`` of Kaplan et al.
        active: Parameters used for one token: the number given, else ``total``.
        tied: The part of ``embedding`` that another module owns as well, such as an output head tied to it.
        uninitialized: Parameter tensors whose shape is not known yet (lazy modules); they are in no other count.
    """

    total: int
    trainable: int
    embedding: int
    non_embedding: int
    active: int
    tied: int = 0
    uninitialized: int = 0

    @property
    def matmul(self) -> int:
        """The ``N`` of ``6 N D``: ``total`` without the tables that are only looked up; a tied head stays in."""
        return self.total - self.embedding + self.tied

    def to_dict(self) -> dict[str, int]:
        """The counts as builtins."""
        return asdict(self)

    @classmethod
    def from_dict(cls, counts: Mapping[str, Any]) -> ParamCounts:
        """The counts that :meth:`to_dict` wrote."""
        return cls(**counts)


def count_params(module: nn.Module, *, active: int | None = None) -> ParamCounts:
    """Count the parameters of a module.

    Nothing is read but shapes, so a module on the meta device counts like any other. A weight shared by several modules
    counts once: a head tied to an embedding by sharing the parameter is in ``embedding`` and in ``tied``, so it is left
    out of ``non_embedding`` but not out of ``matmul``. A head that calls ``F.linear(x, embedding.weight)`` is not seen,
    and not in ``tied``. Count before sharding: of a module that FSDP has flattened only this rank's part
    is left. Weights split up by DeepSpeed ZeRO 3 or packed into 4 bits count in full.

    Args:
        module: Any module.
        active: Parameters used for one token, for a mixture of experts; all of them unless given.

    Returns:
        The counts.

    Raises:
        TypeError: If ``module`` is not a module or ``active`` is not an integer.
        ValueError: If ``active`` is not between 1 and the total.

    Example:
        >>> import torch
        >>> counts = count_params(torch.nn.Sequential(torch.nn.Embedding(100, 8), torch.nn.Linear(8, 4)))
        >>> counts.total, counts.embedding, counts.non_embedding
        (836, 800, 36)
    """
    if not isinstance(module, nn.Module):
        raise TypeError(f"`module` must be a torch.nn.Module, but got {type(module).__name__}.")
    total = trainable = embedding = tied = uninitialized = 0
    tables: set[int] = set()
    elsewhere: set[int] = set()
    for child in module.modules():
        owned = tables if isinstance(child, (nn.Embedding, nn.EmbeddingBag)) else elsewhere
        owned.update(id(weight) for weight in child._parameters.values() if weight is not None)
    for weight in module.parameters():
        if is_lazy(weight):
            uninitialized += 1
            continue
        size = _size(weight)
        total += size
        trainable += size if weight.requires_grad else 0
        if id(weight) in tables:
            embedding += size
            tied += size if id(weight) in elsewhere else 0
    return ParamCounts(
        total=total,
        trainable=trainable,
        embedding=embedding,
        non_embedding=total - embedding,
        active=total if active is None else _checked_active(active, total),
        tied=tied,
        uninitialized=uninitialized,
    )


def _size(weight: nn.Parameter) -> int:
    whole = getattr(weight, "ds_numel", None)  # DeepSpeed ZeRO 3 leaves an empty tensor and notes the true size
    if whole is not None:
        return int(whole)
    packed = getattr(getattr(weight, "quant_state", None), "shape", None)  # bitsandbytes packs two weights in a byte
    if packed is not None:
        return math.prod(packed)
    return int(weight.numel())


def _checked_active(active: int, total: int) -> int:
    if isinstance(active, bool) or not isinstance(active, int):
        raise TypeError(f"`active` must be an integer number of parameters or None, but got {active!r}.")
    if not 1 <= active <= max(total, 1):
        raise ValueError(f"`active` must be between 1 and the {total} parameters of the model, but got {active}.")
    return active
