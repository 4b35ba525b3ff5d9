"""Shapes of a batch: paths to its tensors, a cheap key of its shape, and its size."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from itertools import islice
from operator import attrgetter, itemgetter
from typing import Any, NamedTuple

import torch
from torch import Tensor

_MAX_LEAVES = 1000
_MAX_DEPTH = 20
_ATOMS = frozenset((str, bytes, int, float, bool, complex, type(None)))


class Leaf(NamedTuple):
    """One value inside a batch.

    Attributes:
        steps: Getters that lead from the batch to the value.
        name: Key or field name it stands under, ``None`` inside plain tuples and lists.
        value: The value.
    """

    steps: tuple[Callable[[Any], Any], ...]
    name: str | None
    value: Any


def leaves(batch: Any) -> Iterator[Leaf]:
    """Yield the values of a batch depth first, in the order in which Lightning looks for the batch size.

    Mappings (``UserDict`` and its kin too), named tuples, dataclasses, tuples and lists are entered; a list of strings
    is one value.
    """
    return islice(_walk(batch, (), None, 0), _MAX_LEAVES)


def _walk(value: Any, steps: tuple[Callable[[Any], Any], ...], name: str | None, depth: int) -> Iterator[Leaf]:
    children: Iterator[tuple[Callable[[Any], Any], str | None, Any]]
    children = iter(())
    if isinstance(value, Tensor) or depth > _MAX_DEPTH:
        pass
    elif isinstance(value, Mapping):
        children = ((itemgetter(key), str(key), item) for key, item in value.items())
    elif isinstance(value, (tuple, list)) and not (value and isinstance(value[0], (str, bytes))):
        names = getattr(value, "_fields", None)
        children = ((itemgetter(i), names[i] if names else name, item) for i, item in enumerate(value))
    elif is_dataclass(value) and not isinstance(value, type):
        children = ((attrgetter(f.name), f.name, getattr(value, f.name)) for f in fields(value))
    entered = False
    for getter, child_name, child in children:
        entered = True
        yield from _walk(child, (*steps, getter), child_name, depth + 1)
    if not entered:
        yield Leaf(steps, name, value)


def signature(batch: Any) -> Any:
    """A hashable key of a batch's tensor shapes: equal shapes in an equal structure have equal keys.

    Costs about a microsecond for the usual batches. Values that are not tensors do not count.
    """
    kind = type(batch)
    if kind in _ATOMS:
        return None
    if kind is Tensor:
        return batch.shape
    if (kind is tuple or kind is list) and len(batch) > 8 and type(batch[0]) in _ATOMS and type(batch[-1]) in _ATOMS:
        return len(batch)
    if isinstance(batch, Tensor):
        return None if batch.is_nested else batch.shape
    if isinstance(batch, (dict, tuple, list, Mapping)):
        items = batch.values() if isinstance(batch, Mapping) else batch
        return tuple([item.shape if type(item) is Tensor else signature(item) for item in items])
    if is_dataclass(batch) and not isinstance(batch, type):
        return tuple([signature(getattr(batch, f.name)) for f in fields(batch)])
    if (shape := getattr(batch, "shape", None)) is not None and isinstance(shape, (tuple, torch.Size)):
        return torch.Size(shape)
    return _object_signature(batch)


def _object_signature(batch: Any) -> Any:
    """Batches that are objects of their own (graphs, detections): the shapes of what they hold."""
    if isinstance(batch, type) or not hasattr(batch, "__dict__"):
        return None
    sizes = (getattr(batch, "num_nodes", None), getattr(batch, "num_edges", None), getattr(batch, "num_graphs", None))
    if any(type(size) is int for size in sizes):
        return tuple(size if type(size) is int else None for size in sizes)
    return tuple([signature(item) for item in vars(batch).values() if isinstance(item, (Tensor, Mapping, tuple, list))])


def structure(key: Any) -> Any:
    """What batches have to share so that their FLOPs are one function of their size: nesting and dimensions.

    Lists of more than four tensors of equally many dimensions are alike whatever their length.

    Args:
        key: A signature.
    """
    if isinstance(key, torch.Size):
        return len(key)
    if isinstance(key, tuple):
        inside = tuple([structure(item) for item in key])
        return ("*", inside[0]) if len(inside) > 4 and len(set(inside)) == 1 else inside
    return "-" if key is None else "n"


def rows_and_size(key: Any) -> tuple[int, int]:
    """First dimension of the first tensor, 1 without one, and the numbers in all tensors, padding included.

    Args:
        key: A signature; without tensors, plain numbers in it, such as the nodes of a graph, are the sizes.
    """
    every = list(_sizes(key))
    sizes = [size for size in every if isinstance(size, torch.Size)] or every
    rows = next((size[0] if isinstance(size, torch.Size) else size for size in sizes if size not in (0, ())), 1)
    return max(rows, 1), sum(math.prod(size) if isinstance(size, torch.Size) else size for size in sizes)


def _sizes(key: Any) -> Iterator[Any]:
    if isinstance(key, torch.Size):
        yield key
    elif isinstance(key, tuple):
        for item in key:
            yield from _sizes(item)
    elif key is not None:
        yield key


def plain(key: Any) -> Any:
    """A signature as nested tuples of integers and ``None``, safe to store."""
    if isinstance(key, (tuple, list)):
        return tuple([plain(item) for item in key])
    return None if key is None else int(key)
