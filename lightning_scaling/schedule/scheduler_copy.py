"""Copies of live schedulers, bound to a stub optimizer of one number per parameter group."""

from __future__ import annotations

import copy
import functools
import random
import sys
import types
import warnings
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from typing import Any

import numpy as np
import torch

_ATOMS = (int, float, complex, str, bytes, type(None), type, types.ModuleType, types.BuiltinFunctionType, np.generic)
_FOREIGN = {"torch", "numpy", "lightning", "pytorch_lightning", "lightning_fabric", "torchmetrics", "mlflow"}
# Attributes of torch's schedulers that hold one entry per parameter group.
_PER_GROUP = ("base_lrs", "lr_lambdas", "_last_lr", "max_lrs", "base_momentums", "max_momentums")
# A scheduler that owns more objects holds data or a model; larger arrays are data too and stay shared.
_MAX_OBJECTS = 20_000
_MAX_ARRAY_SIZE = 4096


class CannotCopyError(Exception):
    """A scheduler holds something that cannot be copied safely; the message says what."""


class StubOptimizer(torch.optim.Optimizer):
    """An optimizer with the same parameter groups, each of a single number, whose step does nothing."""

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        groups = [
            {"params": [torch.zeros(1)]} | {key: _plain(value) for key, value in group.items() if key != "params"}
            for group in optimizer.param_groups
        ]
        super().__init__(groups, {key: _plain(value) for key, value in optimizer.defaults.items()})
        self._opt_called = True

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Do nothing."""


def _plain(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return float(value.detach()) if value.numel() == 1 else value
    return type(value)(map(_plain, value)) if type(value) in (list, tuple) else value


class SchedulerCopies:
    """Schedulers that can be stepped at will: no attribute of the live ones, or of their optimizer, is ever written.

    Schedulers of torch's own keep the followed parameter group alone, so that a step takes no longer with many groups.

    Args:
        optimizer: The live optimizer.
        schedulers: The live schedulers bound to it.
        group: Index of the parameter group whose rate is followed.

    Attributes:
        schedulers: The copies.
        group: The parameter group followed, in which the copies set ``"lr"``.

    Raises:
        CannotCopyError: If a scheduler holds what cannot be copied.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, schedulers: Sequence[Any], group: int) -> None:
        self._stub = StubOptimizer(optimizer)
        self._index = group
        copier = _Copier({id(optimizer): self._stub})
        try:
            self.schedulers = [copier.copy(scheduler, root=True) for scheduler in schedulers]
        except CannotCopyError:
            raise
        except Exception as error:
            raise CannotCopyError(f"copying them fails with {type(error).__name__} ({error})") from error
        for part in self._parts():
            if getattr(part, "optimizer", self._stub) is not self._stub:
                raise CannotCopyError(f"{type(part).__name__} is bound to another optimizer")
            if isinstance(getattr(part, "base_lrs", None), list):
                part.base_lrs = _plain(part.base_lrs)
            if hasattr(part, "verbose"):
                part.verbose = False
        if all(map(_is_of_torch, self.schedulers)):
            self._keep_one_group()
        self.group: dict[str, Any] = self._stub.param_groups[self._index]

    def _parts(self) -> Iterator[Any]:
        return chain.from_iterable(map(parts, self.schedulers))

    def _keep_one_group(self) -> None:
        one = slice(self._index, self._index + 1)
        for part in self._parts():
            for name in _PER_GROUP:
                if isinstance(getattr(part, name, None), list):
                    setattr(part, name, getattr(part, name)[one])
        self._stub.param_groups = self._stub.param_groups[one]
        self._index = 0

    def rewind(self) -> None:
        """Put the schedulers back to where they began, as their constructors did."""
        for group in self._stub.param_groups:
            group["lr"] = group["initial_lr"]
        for scheduler in self.schedulers:
            _begin(scheduler, self._stub)

    def impurity(self) -> str:
        """Why the users' functions in the schedulers cannot be asked ahead of time; empty when they can."""
        for part in self._parts():
            epoch = int(getattr(part, "last_epoch", 0))
            lambdas, scale = getattr(part, "lr_lambdas", None), getattr(part, "_scale_fn_custom", None)
            for function in ([lambdas[self._index]] if lambdas else []) + ([] if scale is None else [scale]):
                try:
                    asked = [float(function(epoch + ahead)) for ahead in (1, 2, 1)]
                except Exception:
                    continue  # the simulation will meet it at its own step, if at all
                if asked[0] != asked[2]:
                    return f"the function given to {type(part).__name__} gives different rates for the same epoch"
        return ""


def parts(scheduler: Any) -> Iterator[Any]:
    """The scheduler itself, or those it is made of, however deep."""
    inner = getattr(scheduler, "_schedulers", None)
    yield from [scheduler] if inner is None else chain.from_iterable(map(parts, inner))


def _is_of_torch(scheduler: Any) -> bool:
    own = type(scheduler).__module__.startswith("torch.optim.")
    return own and all(map(_is_of_torch, getattr(scheduler, "_schedulers", ())))


def _begin(scheduler: Any, optimizer: torch.optim.Optimizer) -> None:
    inner = getattr(scheduler, "_schedulers", None)
    if inner is None:
        scheduler.last_epoch = -1
        base = getattr(scheduler, "base_lrs", None)
        if isinstance(scheduler, torch.optim.lr_scheduler.CyclicLR):
            # Its constructor takes the first step before it sets its own base rates.
            scheduler.base_lrs = [group["initial_lr"] for group in optimizer.param_groups]
        scheduler._initial_step()
        if base is not None:
            scheduler.base_lrs = base
        return
    for part in inner:
        _begin(part, optimizer)
    if not hasattr(scheduler, "_milestones"):
        return
    # SequentialLR undoes what the constructors of its parts did, then begins with the first part alone.
    scheduler.last_epoch = 0
    for group in optimizer.param_groups:
        group["lr"] = group["initial_lr"]
    for part in parts(scheduler) if hasattr(scheduler, "recursive_undo") else inner:  # all of them since torch 2.5
        part.last_epoch -= 1
    inner[sum(milestone <= 0 for milestone in scheduler._milestones)]._initial_step()


class _Copier:
    """Copies schedulers and the small objects they own; models, data and library objects stay shared.

    ``copy.deepcopy`` would follow a bound method such as ``LambdaLR(opt, self.warmup)`` into the whole model.
    """

    def __init__(self, known: dict[int, Any]) -> None:
        self._done = dict(known)
        self._alive: list[Any] = []  # an id is good as long as its object lives

    def copy(self, value: Any, *, root: bool = False) -> Any:
        if isinstance(value, _ATOMS):
            return value
        if id(value) not in self._done:
            if len(self._alive) > _MAX_OBJECTS:
                raise CannotCopyError("it holds too many objects to copy")
            self._alive.append(value)
            self._done[id(value)] = self._make(value, root)
        return self._done[id(value)]

    def _make(self, value: Any, root: bool) -> Any:
        kind = type(value)
        if kind in (list, tuple, set, frozenset, deque):
            return kind(map(self.copy, value))
        if kind in (dict, Counter, OrderedDict, defaultdict):
            return self._fill(value.copy(), value)
        if isinstance(value, torch.Tensor):
            return value.detach().clone() if value.numel() <= _MAX_ARRAY_SIZE else value
        if isinstance(value, np.ndarray):
            return value.copy() if value.size <= _MAX_ARRAY_SIZE else value
        if kind is types.MethodType:
            return types.MethodType(value.__func__, self.copy(value.__self__))
        if kind is functools.partial:
            keywords = self._fill({}, value.keywords)
            return functools.partial(self.copy(value.func), *map(self.copy, value.args), **keywords)
        if kind is types.FunctionType:
            return self._function(value)
        if root or isinstance(value, torch.optim.lr_scheduler.LRScheduler) or _is_owned(value):
            made = self._done[id(value)] = object.__new__(kind)
            self._fill(made.__dict__, vars(value))
            return made
        if isinstance(value, torch.optim.Optimizer):
            return StubOptimizer(value)
        if isinstance(value, random.Random | np.random.Generator | np.random.RandomState):
            return copy.deepcopy(value)
        if isinstance(value, Iterator):
            try:
                return copy.copy(value)
            except TypeError:
                raise CannotCopyError(f"it draws from a {kind.__name__}, which cannot be rewound") from None
        if hasattr(value, "param_groups"):
            raise CannotCopyError(f"it holds an optimizer of the unknown kind {kind.__name__}")
        return value

    def _fill(self, made: Any, items: Any) -> Any:
        for key, item in items.items():
            made[key] = self.copy(item)
        return made

    def _function(self, value: types.FunctionType) -> Any:
        if not value.__closure__ and not value.__dict__ and not value.__defaults__:
            return value
        cells = tuple(types.CellType() for _ in value.__closure__ or ())
        made = types.FunctionType(value.__code__, value.__globals__, value.__name__, None, cells)
        self._done[id(value)] = made
        made.__defaults__, made.__kwdefaults__ = self.copy(value.__defaults__), self.copy(value.__kwdefaults__)
        self._fill(made.__dict__, value.__dict__)
        for cell, live in zip(cells, value.__closure__ or (), strict=True):
            try:
                cell.cell_contents = self.copy(live.cell_contents)
            except ValueError:
                continue  # a cell that is still empty
        return made


def _is_owned(value: Any) -> bool:
    """Whether an object is a plain one of the user's: state in ``__dict__``, no library class behind it."""
    for base in type(value).__mro__[:-1]:
        home = base.__module__.partition(".")[0]
        if home in ("abc", "typing"):
            continue
        if home in _FOREIGN or home in sys.stdlib_module_names or "__slots__" in vars(base):
            return False
    return hasattr(value, "__dict__")


@contextmanager
def quietly() -> Iterator[None]:
    """Keep the random states as they are, and the warnings of a simulation to itself."""
    python, numpy = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
