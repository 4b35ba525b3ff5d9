"""Layouts of batches: where their samples and tokens are found."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from numbers import Real
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from lightning_scaling.compute.batch_shapes import Leaf, leaves

Amount = int | Tensor

_IDS = {"input_ids", "token_ids", "source_ids", "text_ids", "ids", "idx"}
_TOKEN_NAMES = _IDS | {"input_tokens", "tokens", "inputs", "input", "src", "x"}
# Under three columns, integers are pairs of identifiers (user and item, head and tail), not a sequence.
_LEAST_LENGTH = 3
_INTEGERS = frozenset((torch.int64, torch.int32, torch.int16, torch.uint8, torch.int8))


class Layout(NamedTuple):
    """How to read one kind of batch, found once and used for every batch of that kind."""

    read: Callable[[Any], tuple[Amount | None, Amount | None]]
    positions: Callable[[Any], int | None]
    unit: Literal["tokens", "samples"]
    sentence: str
    known: bool = True


class LayoutChangedError(Exception):
    """The batch is not laid out as the one before."""


def _follow(steps: tuple[Callable[[Any], Any], ...], batch: Any) -> Any:
    for step in steps:
        batch = step(batch)
    return batch


def _unnamed(found: list[Leaf]) -> Leaf | None:
    first = next((leaf for leaf in found if isinstance(leaf.value, Tensor) and leaf.value.ndim > 0), None)
    return first if first is not None and first.name is None else None


def token_layout(found: list[Leaf], *, strict: bool) -> Layout | None:
    """Layout of a batch with sequences of tokens; ``None`` where there are none."""
    tensors = [leaf for leaf in found if isinstance(leaf.value, Tensor) and not leaf.value.is_nested]

    def is_ids(leaf: Leaf, least: int) -> bool:
        return leaf.value.ndim == 2 and leaf.value.shape[1] >= least and leaf.value.dtype in _INTEGERS

    chosen = next((leaf for leaf in tensors if leaf.name in _TOKEN_NAMES and is_ids(leaf, 2)), None)
    first = _unnamed(found)
    # Without a name, bytes are taken for pixels.
    if chosen is None and first is not None and not first.value.is_nested and first.value.dtype is not torch.uint8:
        chosen = first if is_ids(first, _LEAST_LENGTH) else None
    if chosen is None and not strict:
        flat = (leaf for leaf in tensors if leaf.value.ndim == 1 and leaf.value.dtype in _INTEGERS)
        chosen = next((leaf for leaf in tensors if leaf.value.ndim >= 2), None) or next(flat, None)
    if chosen is None or chosen.value.ndim == 1:
        return None if chosen is None else _flat(chosen)
    alike = [leaf for leaf in tensors if leaf.value.shape == chosen.value.shape]
    masks = (leaf for leaf in alike if leaf.name == "attention_mask" and leaf.value.dtype in {*_INTEGERS, torch.bool})
    return _rows(chosen, next(masks, None), labelled=any(leaf.name == "labels" for leaf in alike))


def _where(leaf: Leaf) -> str:
    if leaf.name is not None:
        return f"under '{leaf.name}'"
    return "that comes first in the batch" if leaf.steps else "that is the batch"


def _rows(leaf: Leaf, mask: Leaf | None, *, labelled: bool) -> Layout:
    steps, ndim, dtype = leaf.steps, leaf.value.ndim, leaf.value.dtype
    rows, length = leaf.value.shape[:2]

    mask_steps = () if mask is None else mask.steps

    def shape(batch: Any) -> torch.Size:
        tensor = _follow(steps, batch)
        if tensor.ndim != ndim or tensor.dtype is not dtype:
            raise LayoutChangedError
        return torch.Size(tensor.shape[:2])

    def read(batch: Any) -> tuple[int, Amount]:
        size = shape(batch)
        if mask is None:
            return size[0], size.numel()
        visible = _follow(mask_steps, batch)
        if visible.shape != size:
            raise LayoutChangedError
        # Nonzero rather than the sum: packed sequences number their documents in the mask.
        return size[0], torch.count_nonzero(visible)

    kind = "integer " if dtype in _INTEGERS else ""
    sentence = f"counting tokens: {ndim}-D {kind}tensor of shape {tuple(leaf.value.shape)} {_where(leaf)}, "
    amount = f"{rows * length} tokens per micro-batch"
    if mask is not None:
        amount = f"at most {amount}, padding left out by 'attention_mask'"
    elif labelled:  # they may be -100 at the padding, which only a read from the device would show
        amount += ", padding included: there is no 'attention_mask'"
    return Layout(read, lambda batch: shape(batch).numel(), "tokens", sentence + amount)


def _flat(leaf: Leaf) -> Layout:
    def read(batch: Any) -> tuple[None, int]:
        tensor = _follow(leaf.steps, batch)
        if tensor.ndim != 1:
            raise LayoutChangedError
        return None, tensor.shape[0]

    shape = tuple(leaf.value.shape)
    sentence = f"counting tokens: flat integer tensor of shape {shape} {_where(leaf)}, samples unknown"
    return Layout(read, lambda batch: read(batch)[1], "tokens", sentence)


def sample_layout(found: list[Leaf], batch: Any) -> Layout:
    """Layout of a batch whose samples are counted."""
    if type(graphs := getattr(batch, "num_graphs", None)) is int:
        return _samples(lambda b: int(b.num_graphs), f"graphs of the batch, {graphs} per micro-batch")
    for leaf in found:
        if _has_rows(leaf.value):
            images = _images(leaf, batch)
            return _first_dimension(leaf) if images is None else _length(leaf.steps[:-1], leaf.name, "images", images)
    if any(isinstance(leaf.value, Tensor) for leaf in found):
        return _samples(lambda b: 1, "0-d tensors, 1 per micro-batch")
    for leaf in found:
        if isinstance(leaf.value, (list, tuple)) and leaf.value:
            return _length(leaf.steps, leaf.name, "strings", leaf.value)
    sentence = (
        f"counting nothing: no tensor found in a batch of type {type(batch).__name__}; give `count=` a callable that "
        "returns the tokens or samples of a batch"
    )

    def unknown(batch: Any) -> tuple[None, None]:
        if any(_has_rows(leaf.value) for leaf in leaves(batch)):
            raise LayoutChangedError
        return None, None

    return Layout(unknown, lambda b: None, "samples", sentence, known=False)


def _samples(count: Callable[[Any], int], what: str) -> Layout:
    return Layout(lambda batch: (count(batch), None), count, "samples", f"counting samples: {what}")


def _has_rows(value: Any) -> bool:
    if isinstance(value, Tensor):
        return value.ndim > 0
    return isinstance(shape := getattr(value, "shape", None), tuple) and len(shape) > 0


def _first_dimension(leaf: Leaf) -> Layout:
    steps, nested = leaf.steps, isinstance(leaf.value, Tensor) and leaf.value.is_nested

    def count(batch: Any) -> int:
        value = _follow(steps, batch)
        if not nested and not value.shape:
            raise LayoutChangedError
        return int(value.size(0) if nested else value.shape[0])

    shape = "nested" if nested else tuple(leaf.value.shape)
    where = "the batch" if not steps else "the first tensor of the batch" if leaf.name is None else f"'{leaf.name}'"
    rows = leaf.value.size(0) if nested else leaf.value.shape[0]
    return _samples(count, f"first dimension of {where}, of shape {shape}, {rows} samples per micro-batch")


def _length(steps: tuple[Callable[[Any], Any], ...], name: str | None, what: str, now: Sequence[Any]) -> Layout:
    def count(batch: Any) -> int:
        items = _follow(steps, batch)
        if not isinstance(items, (list, tuple)):
            raise LayoutChangedError
        return len(items)

    where = f"the list under '{name}'" if name is not None else "a list"
    return _samples(count, f"{what} in {where}, {len(now)} samples per micro-batch")


def _images(leaf: Leaf, batch: Any) -> Sequence[Tensor] | None:
    """The list of images of different sizes that a detection batch starts with, if it does."""
    parent = _follow(leaf.steps[:-1], batch) if len(leaf.steps) > 1 else None
    if not isinstance(parent, (list, tuple)) or hasattr(parent, "_fields"):
        return None
    pictures = all(isinstance(item, Tensor) and item.ndim == 3 and item.shape[0] in (1, 3, 4) for item in parent)
    return parent if pictures else None


def layout_per_sample(tokens: int, samples: Layout) -> Layout:
    """Layout of a batch with a fixed number of tokens per sample."""
    if not samples.known:
        return samples

    def positions(batch: Any) -> int:
        return (samples.positions(batch) or 0) * tokens

    sentence = f"counting tokens: {tokens} per sample as given, {samples.sentence.removeprefix('counting samples: ')}"
    return Layout(lambda batch: (samples.read(batch)[0], positions(batch)), positions, "tokens", sentence)


def layout_by_callable(function: Callable[[Any], Any], samples: Layout) -> Layout:
    """Layout of a batch whose tokens a user's function returns."""

    def read(batch: Any) -> tuple[Amount | None, Amount | None]:
        answer = function(batch)
        if isinstance(answer, Mapping):
            if not answer or not answer.keys() <= {"samples", "tokens"}:
                raise ValueError(
                    "The callable `count` may return a mapping with 'samples' and 'tokens' only, "
                    f"but its keys are {list(answer)}."
                )
            amounts = {key: _checked(value) for key, value in answer.items()}
            return amounts["samples"] if "samples" in amounts else samples.read(batch)[0], amounts.get("tokens")
        return samples.read(batch)[0], _checked(answer)

    sentence = f"counting tokens: as returned by `count`, {samples.sentence.removeprefix('counting ')}"
    return Layout(read, lambda batch: None, "tokens", sentence)


def _checked(answer: Any) -> Amount:
    if type(answer) is int and answer >= 0:
        return answer
    wanted = "The callable `count` must return the tokens of a batch as an integer or a 0-d tensor"
    if isinstance(answer, Tensor):
        if answer.numel() != 1 or answer.dtype is torch.bool or answer.is_complex():
            raise TypeError(f"{wanted}, but it returned a {answer.dtype} tensor of shape {tuple(answer.shape)}.")
        return answer.detach()
    if isinstance(answer, bool) or not isinstance(answer, Real):
        raise TypeError(f"{wanted}, but it returned {answer!r}.")
    number = float(answer)
    if not math.isfinite(number) or number < 0 or number != int(number):
        raise ValueError(f"{wanted} that is not negative, but it returned {answer!r}.")
    return int(number)
