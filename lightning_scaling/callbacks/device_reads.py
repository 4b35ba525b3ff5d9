"""Reading scalars that live on a device: many of them in one transfer, each exactly once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


class CaptureError(Exception):
    """Capture cannot go on; the message is one sentence for the user."""


def loss_of(outputs: Any) -> Any:
    """The loss in what ``training_step`` left behind; ``None`` for a skipped step. Extra outputs are not touched."""
    if isinstance(outputs, Tensor):
        return outputs
    return outputs.get("loss") if isinstance(outputs, Mapping) else None


def owned(value: Any, name: str, *, clone: bool) -> Tensor | None:
    """A 0-d tensor without a graph that nobody else will change; stays on its device.

    Args:
        value: A tensor of one element, a number or ``None``.
        name: What it is, for the error.
        clone: Whether someone else may write to the tensor later.

    Raises:
        CaptureError: If it is not a single number.
    """
    if value is None:
        return None
    if isinstance(value, Tensor):
        if value.numel() != 1:
            raise CaptureError(
                f"{name} must be a single number, but it has shape {tuple(value.shape)}; return its mean, or name a "
                "logged metric with `monitor=`"
            )
        local: Tensor = value.to_local() if hasattr(value, "to_local") else value
        kept = local.detach().reshape(())
        return kept.clone() if clone else kept
    if isinstance(value, int | float):
        return torch.tensor(float(value), dtype=torch.float64)
    raise CaptureError(f"{name} must be a tensor with a single number, but it is a {type(value).__name__}")


def same_value(value: Any, last: Any) -> bool:
    """Whether two reads of a logged metric gave the same stored value; ``last`` is still held."""
    if value is last:
        return True
    return isinstance(value, Tensor) and isinstance(last, Tensor) and value.data_ptr() == last.data_ptr() != 0


def stacked(values: list[Tensor]) -> Tensor:
    """Scalars of a device in one tensor there, shape ``(n,)``, ``n`` at least 1; nothing is read."""
    try:
        joined = torch.stack(values)
    except (RuntimeError, TypeError):  # shapes () and (1,), or devices, mixed
        device = values[-1].device
        joined = torch.stack([value.reshape(()).to(device) for value in values])
    if joined.ndim != 1:
        joined = joined.reshape(-1)
    return joined.detach() if joined.requires_grad else joined


def read_parts(parts: Sequence[Tensor], factors: Sequence[int] = ()) -> NDArray[np.float64]:
    """Read tensors of one dimension one after the other, with one transfer.

    Args:
        parts: The tensors, of ``n`` elements together; changed when they are scaled.
        factors: Multiplier of each element, shape ``(n,)``, applied in the tensors' own precision: dividing by a small
            whole number and multiplying by it again gives the old number back in floating point, where a wider product
            would not. All ones when empty.
    """
    try:
        joined = parts[0] if len(parts) == 1 else torch.cat(tuple(parts))
    except RuntimeError:  # on several devices
        joined = torch.cat([part.to(parts[-1].device) for part in parts])
    if set(factors) - {1}:
        start = 0
        for factor, group in groupby(factors):
            stop = start + len(list(group))
            joined[start:stop] *= factor
            start = stop
    wide = torch.float32 if joined.device.type == "mps" else torch.float64
    return joined.to(wide).cpu().numpy().astype(np.float64, copy=False)


def read_numbers(values: Sequence[Any]) -> NDArray[np.float64]:
    """Read a mixture of Python numbers and device scalars; ``None`` becomes ``nan``; shape ``(n,)``."""
    kinds = set(map(type, values))
    if kinds <= {int, float, type(None)}:
        return np.array([np.nan if value is None else value for value in values], dtype=np.float64)
    read = np.array([np.nan if value is None or isinstance(value, Tensor) else value for value in values])
    where = [index for index, value in enumerate(values) if isinstance(value, Tensor)]
    read[where] = read_parts([stacked([values[index] for index in where])])
    return read


def kept_rate(rate: Any) -> Any:
    """A learning rate as a float, or as a copy of the tensor, whose value changes in place."""
    return rate.detach().clone() if isinstance(rate, Tensor) else float(rate)
