"""A throw-away copy of a module and a batch: the same structure, no shared state, and tensors as one makes them."""

from __future__ import annotations

import copy
import functools
import io
import logging
import sys
import threading
import types
from collections import OrderedDict, deque
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.utils.data import DataLoader, Dataset

from lightning_scaling.compute.standins import IdleOptimizer, QuietMetric, Silent, View, trainer_view

_MAX_OBJECTS = 200_000
_MAX_ARRAY_BYTES = 1_000_000
_ATOMS = (bool, int, float, complex, str, bytes, type(None), type, range, torch.dtype, torch.device, torch.Size)
_HOOKS = (
    "_forward_hooks",
    "_forward_pre_hooks",
    "_forward_hooks_with_kwargs",
    "_forward_pre_hooks_with_kwargs",
    "_forward_hooks_always_called",
    "_backward_hooks",
    "_backward_pre_hooks",
)
# Tokenizers and data sets are read, not changed, by a training step, and are slow to copy.
_SHARED_PACKAGES = frozenset(("transformers", "tokenizers", "sentencepiece", "tiktoken", "datasets"))
_LOCKS = (type(threading.Lock()), type(threading.RLock()))


class CannotCopyError(RuntimeError):
    """The module holds something that has no safe copy."""


class Replica:
    """The copy, and what stands in for the training loop.

    Args:
        module: The module to copy; nothing in it is changed.
        batch: The batch to copy.
        new: Makes the copy of one plain dense tensor.

    Attributes:
        module: The copied module, with no hooks, not compiled.
        batch: The copied batch.
        optimizers: Stand-ins for the trainer's optimizers, over the copied parameters.

    Raises:
        CannotCopyError: If something in them cannot be copied safely.
    """

    def __init__(self, module: nn.Module, batch: Any, new: Callable[[Tensor], Tensor]) -> None:
        module = getattr(module, "_orig_mod", module)
        self._new = new
        self._memo: dict[int, Any] = {}
        self._kept: list[Any] = []  # originals stay alive while their identities are keys
        self._modules: set[int] = set()
        self._compiled: list[nn.Module] = []
        self._optimizers_found: list[Any] = []
        self._trainer = trainer = vars(module).get("_trainer")
        self.optimizers: list[IdleOptimizer] = []
        self._walk([module, batch], trainer)
        for optimizer in list(getattr(trainer, "optimizers", None) or ()):
            self.optimizers.append(self._idle(optimizer))
        for optimizer in self._optimizers_found:
            self._idle(optimizer)
        self.trainer = trainer_view(trainer, self.optimizers) if trainer is not None else None
        if trainer is not None:
            self._keep(trainer, self.trainer)
        for wrapper in self._compiled:
            self._memo[id(wrapper)] = copy.deepcopy(wrapper._orig_mod, self._memo)
        self.module: nn.Module = copy.deepcopy(module, self._memo)
        self.batch: Any = copy.deepcopy(batch, self._memo)
        if any(id(child) in self._modules for child in self.module.modules()):
            raise CannotCopyError("it holds a module that cannot be copied")
        self._settle()

    def _keep(self, original: Any, replacement: Any) -> None:
        self._kept.append(original)
        self._memo[id(original)] = replacement

    def _idle(self, optimizer: Any) -> IdleOptimizer:
        found = self._memo.get(id(optimizer))
        if not isinstance(found, IdleOptimizer):
            found = IdleOptimizer(optimizer, self._memo)
            self._keep(optimizer, found)
        return found

    def _walk(self, roots: list[Any], trainer: Any) -> None:
        """Decide, object by object, what takes its place in the copy; what is not decided is copied in full."""
        seen: set[int] = set()
        stack = list(roots)
        arrays = getattr(sys.modules.get("numpy"), "ndarray", ())
        while stack:
            value = stack.pop()
            if isinstance(value, _ATOMS) or id(value) in seen or id(value) in self._memo or value is trainer:
                continue
            seen.add(id(value))
            if len(seen) > _MAX_OBJECTS:
                raise CannotCopyError(f"it holds more than {_MAX_OBJECTS} Python objects")
            if isinstance(value, Tensor):
                self._keep(value, self._tensor(value))
            elif isinstance(value, arrays):
                if value.nbytes > _MAX_ARRAY_BYTES:
                    frozen = value.view()
                    frozen.flags.writeable = False
                    self._keep(value, frozen)
            elif not self._stood_in(value):
                stack.extend(_inside(value))
                if isinstance(value, nn.Module):
                    self._modules.add(id(value))
                    if isinstance(value, torch.jit.ScriptModule):
                        raise CannotCopyError("it holds a TorchScript module")
                    if "_orig_mod" in value._modules:
                        self._compiled.append(value)
                    for name in _HOOKS:
                        hooks = vars(value).get(name)
                        if hooks:
                            self._keep(hooks, OrderedDict())

    def _tensor(self, value: Tensor) -> Tensor:
        if is_lazy(value):
            raise CannotCopyError("it has lazy parameters that have no shape yet")
        buffer = getattr(torch.nn, "Buffer", Tensor)
        if type(value) not in (Tensor, nn.Parameter, buffer) or value.is_nested or value.layout != torch.strided:
            kind = value.layout if type(value) is Tensor else type(value).__name__
            raise CannotCopyError(f"it holds a tensor of a special kind ({kind})")
        with torch.no_grad():
            made = self._new(value)
        if isinstance(value, nn.Parameter):
            return nn.Parameter(made, requires_grad=value.requires_grad)
        return made.requires_grad_(value.requires_grad)

    def _stood_in(self, value: Any) -> bool:
        kind = type(value)
        if isinstance(value, torch.Generator):
            twin = torch.Generator(value.device)
            twin.set_state(value.get_state())
            self._keep(value, twin)
        elif isinstance(value, nn.Module):
            # A metric checks values, which are not there; one with a gradient may be the loss.
            metric = any((base.__module__ or "").startswith("torchmetrics.") for base in kind.__mro__)
            if not metric or getattr(value, "is_differentiable", False):
                return False
            self._keep(value, QuietMetric())
        elif isinstance(value, torch.optim.Optimizer) or (hasattr(kind, "toggle_model") and hasattr(kind, "step")):
            self._optimizers_found.append(value)
        elif hasattr(kind, "fit") and "fit_loop" in getattr(value, "__dict__", ()):
            self._keep(value, trainer_view(value, []))
        elif hasattr(kind, "prepare_data") and hasattr(kind, "train_dataloader"):
            self._keep(value, View(value))
        elif (hasattr(kind, "log_metrics") and hasattr(kind, "log_hyperparams")) or isinstance(value, io.IOBase):
            self._keep(value, Silent())
        elif isinstance(value, (Dataset, DataLoader, types.ModuleType, logging.Logger, *_LOCKS)) or (
            (kind.__module__ or "").partition(".")[0] in _SHARED_PACKAGES and not isinstance(value, Mapping)
        ):
            self._keep(value, value)
        else:
            return False
        return True

    def _settle(self) -> None:
        for child in self.module.modules():
            own = vars(child)
            if "_trainer" in own:
                own["_trainer"] = self.trainer
            if own.get("_fabric") is not None:
                own["_fabric"] = None
            if own.get("_compiler_ctx"):
                for name in ("forward", "training_step", "validation_step", "test_step", "predict_step"):
                    own.pop(name, None)
                own["_compiler_ctx"] = None
            if own.get("_compiled_call_impl") is not None:
                own["_compiled_call_impl"] = None
            if isinstance(child, nn.SyncBatchNorm):
                own["forward"] = functools.partial(_batch_norm, child)

    def dissolve(self) -> None:
        """Take the copy apart, so that it is gone at once and not at some later garbage collection."""
        for child in list(self.module.modules()):
            for name in ("_parameters", "_buffers", "_modules"):
                vars(child).get(name, {}).clear()
            vars(child).clear()
        for optimizer in self.optimizers:
            optimizer.param_groups.clear()
            optimizer.switch.optimizers = []
        self._memo.clear()
        self._kept.clear()
        self.batch = None

    @property
    def originals(self) -> set[int]:
        """Identities of the tensors of the original module and batch."""
        return {id(value) for value in self._kept if isinstance(value, Tensor)}

    @property
    def schedulers(self) -> int:
        """How many learning-rate schedulers the trainer has."""
        return len(getattr(self._trainer, "lr_scheduler_configs", None) or ())

    @property
    def ranks(self) -> int:
        """World size of the trainer."""
        size = getattr(self._trainer, "world_size", 1)
        return size if isinstance(size, int) else 1


def _inside(value: Any) -> list[Any]:
    if isinstance(value, Mapping):
        inside = [*value.keys(), *value.values()]
    elif isinstance(value, (list, tuple, set, frozenset, deque)):
        inside = list(value)
    elif isinstance(value, functools.partial):
        inside = [value.func, value.args, value.keywords]
    elif isinstance(value, types.MethodType):
        inside = [value.__self__]
    else:
        inside = []
    own = getattr(value, "__dict__", None)
    if isinstance(own, dict) and not isinstance(value, (types.FunctionType, types.BuiltinFunctionType)):
        hooks = _HOOKS if isinstance(value, nn.Module) else ()
        inside.extend(item for name, item in own.items() if name not in hooks and name not in ("_trainer", "_fabric"))
    return inside


def _batch_norm(layer: nn.SyncBatchNorm, values: Tensor) -> Tensor:
    return nn.functional.batch_norm(values, None, None, layer.weight, layer.bias, True, 0.1, layer.eps)
