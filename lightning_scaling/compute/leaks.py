"""Taking back tensors that a rehearsed step has left in caches outside of the copy.

A step may fill a cache that is no part of the module: an ``lru_cache`` around a function that builds masks, a
dictionary at the top of a file. What a rehearsal puts there has no values, and would break the real step that finds it.
"""

from __future__ import annotations

import functools
import gc
import types
import weakref
from collections.abc import Iterable
from typing import Any

from torch import Tensor

_DEPTH = 4
_LRU: Any = type(functools.lru_cache(lambda: None))
_SKIPPED = (types.FrameType, types.FunctionType, types.ModuleType, types.CodeType, type)


def take_back(made: Iterable[weakref.ref[Tensor]]) -> bool:
    """Remove tensors that are still alive from the caches, dictionaries and lists that hold them.

    Cached functions are emptied, entries of dictionaries and lists removed, and variables at the top of a file set to
    ``None``.

    Args:
        made: Tensors that should be gone.

    Returns:
        Whether they all are.
    """
    made = list(made)
    if not _alive(made):
        return True
    gc.collect()
    if not (left := _alive(made)):
        return True
    names = {id(tensor) for tensor in left}
    for cached in _lru_caches():
        if cached.cache_info().currsize and _holds(cached, names):
            cached.cache_clear()
    left = _alive(made)
    targets: list[Any] = left
    for _ in range(_DEPTH):
        if not targets:
            break
        targets = _let_go(targets)
    del left, targets
    return not _alive(made)


def _lru_caches() -> list[Any]:
    return [item for item in gc.get_objects() if type(item) is _LRU]


def _alive(made: Iterable[weakref.ref[Tensor]]) -> list[Tensor]:
    return [tensor for ref in made if (tensor := ref()) is not None]


def _holds(owner: Any, names: set[int]) -> bool:
    level = [owner]
    for _ in range(_DEPTH):
        level = [item for item in gc.get_referents(*level) if not isinstance(item, _SKIPPED)]
        if any(id(item) in names for item in level):
            return True
    return False


def _let_go(targets: list[Any]) -> list[Any]:
    """Remove the targets from what refers to them; give back what can only be removed as a whole."""
    names = {id(target) for target in targets}
    whole: list[Any] = []
    for holder in gc.get_referrers(*targets):
        if holder is targets:
            continue
        if isinstance(holder, dict):
            top_of_file = "__builtins__" in holder or "__spec__" in holder
            for key in [key for key, value in holder.items() if id(value) in names]:
                if top_of_file:
                    holder[key] = None
                else:
                    del holder[key]
        elif isinstance(holder, list):
            holder[:] = [item for item in holder if id(item) not in names]
        elif isinstance(holder, tuple):
            whole.append(holder)
    return whole
