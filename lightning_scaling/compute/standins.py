"""Stand-ins for the parts of a training loop that a training step touches, so that a rehearsal changes none of them."""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from enum import Enum
from pathlib import PurePath
from typing import Any

import torch
from torch import Tensor, nn

_PLAIN = (bool, int, float, complex, str, bytes, type(None), torch.dtype, torch.device, Enum, PurePath, type)


class Silent:
    """Takes every call, attribute, item and loop, and does nothing."""

    def __call__(self, *args: Any, **kwargs: Any) -> Silent:  # noqa: D102
        return self

    def __getattr__(self, name: str) -> Silent:
        if name.startswith("__"):
            raise AttributeError(name)
        return self

    def __setattr__(self, name: str, value: Any) -> None:
        pass

    def __getitem__(self, key: Any) -> Silent:
        return self

    def __setitem__(self, key: Any, value: Any) -> None:
        pass

    def __iter__(self) -> Iterator[Any]:
        return iter(())

    def __len__(self) -> int:
        return 0

    def __bool__(self) -> bool:
        return False

    def __enter__(self) -> Silent:
        return self

    def __exit__(self, *error: Any) -> None:
        pass

    def __deepcopy__(self, memo: dict[int, Any]) -> Silent:
        return self


class View:
    """Shows the plain values of an object, and of the objects in it; its methods can be called but do nothing.

    Args:
        seen: The object looked at.
        replaced: Attributes to answer otherwise.
    """

    def __init__(self, seen: Any, replaced: Mapping[str, Any] | None = None) -> None:
        object.__setattr__(self, "_seen", seen)
        object.__setattr__(self, "_replaced", dict(replaced or {}))

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        replaced = object.__getattribute__(self, "_replaced")
        if name in replaced:
            return replaced[name]
        return _shown(getattr(object.__getattribute__(self, "_seen"), name))

    def __setattr__(self, name: str, value: Any) -> None:
        object.__getattribute__(self, "_replaced")[name] = value

    def __call__(self, *args: Any, **kwargs: Any) -> Silent:  # noqa: D102
        return Silent()

    def __getitem__(self, key: Any) -> Any:
        return _shown(object.__getattribute__(self, "_seen")[key])

    def __setitem__(self, key: Any, value: Any) -> None:
        pass

    def __iter__(self) -> Iterator[Any]:
        return (_shown(item) for item in object.__getattribute__(self, "_seen"))

    def __len__(self) -> int:
        return len(object.__getattribute__(self, "_seen"))

    def __bool__(self) -> bool:
        return bool(object.__getattribute__(self, "_seen"))

    def __deepcopy__(self, memo: dict[int, Any]) -> View:
        return self


def _shown(value: Any) -> Any:
    if isinstance(value, _PLAIN):
        return value
    if callable(value) and not isinstance(value, nn.Module):
        return Silent()
    if isinstance(value, Tensor):
        raise RuntimeError("the training step reads a tensor from the trainer")
    return View(value)


def trainer_view(trainer: Any, optimizers: list[IdleOptimizer]) -> View:
    """A trainer to look at: plain attributes are real, loggers and metrics are empty, optimizers idle."""
    empty: dict[str, Any] = {"callback_metrics": {}, "logged_metrics": {}, "progress_bar_metrics": {}}
    return View(trainer, {"logger": Silent(), "loggers": [], "optimizers": optimizers, **empty})


class IdleOptimizer:
    """Has the parameter groups of an optimizer, over the copied parameters, and steps nowhere.

    Args:
        optimizer: The optimizer stood in for.
        memo: Copies of the parameters by the identity of the originals.
    """

    def __init__(self, optimizer: Any, memo: Mapping[int, Any]) -> None:
        self.param_groups: list[dict[str, Any]] = [
            {key: value if isinstance(value, _PLAIN) else Silent() for key, value in group.items() if key != "params"}
            | {"params": [memo[id(weight)] for weight in group["params"] if id(weight) in memo]}
            for group in optimizer.param_groups
        ]
        self.state: dict[Any, Any] = defaultdict(dict)
        self.optimizer = self
        self.switch = Switch()

    def step(self, closure: Callable[[], Any] | None = None, **kwargs: Any) -> Any:
        """Call the closure, if there is one."""
        return closure() if closure is not None else None

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Nothing."""

    @contextlib.contextmanager
    def toggle_model(self, sync_grad: bool = True) -> Iterator[None]:
        """Switch the gradients of the other optimizers' parameters off, as the real one does."""
        self.switch.toggle_optimizer(self)
        try:
            yield
        finally:
            self.switch.untoggle_optimizer(self)

    def __getattr__(self, name: str) -> Silent:
        if name.startswith("__"):
            raise AttributeError(name)
        return Silent()

    def __deepcopy__(self, memo: dict[int, Any]) -> IdleOptimizer:
        return self


class Switch:
    """Turns gradients on and off between several optimizers."""

    def __init__(self) -> None:
        self.optimizers: list[IdleOptimizer] = []
        self._before: list[tuple[Tensor, bool]] = []

    def toggle_optimizer(self, optimizer: Any) -> None:
        """Leave only the parameters of this optimizer with gradients."""
        kept = {id(weight) for group in optimizer.param_groups for weight in group["params"]}
        others = {id(w): w for other in self.optimizers for group in other.param_groups for w in group["params"]}
        self._before = [(weight, weight.requires_grad) for key, weight in others.items() if key not in kept]
        for weight, _ in self._before:
            weight.requires_grad = False

    def untoggle_optimizer(self, optimizer: Any) -> None:
        """Give the others back what they had."""
        for weight, needed in self._before:
            weight.requires_grad = needed
        self._before = []

    @contextlib.contextmanager
    def toggled_optimizer(self, optimizer: Any) -> Iterator[None]:
        """Toggle for the length of a block."""
        self.toggle_optimizer(optimizer)
        try:
            yield
        finally:
            self.untoggle_optimizer(optimizer)


class QuietMetric(nn.Module):
    """Stands in for a metric: takes every update, and is always zero."""

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        """Zero, on the device of the first tensor given."""
        device = next((value.device for value in (*args, *kwargs.values()) if isinstance(value, Tensor)), None)
        return torch.zeros((), device=device)

    compute = forward

    def update(self, *args: Any, **kwargs: Any) -> None:
        """Nothing."""

    def reset(self) -> None:
        """Nothing."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or name in ("training",):
            return super().__getattr__(name)
        return Silent()


def detach_from_loop(
    module: nn.Module,
    optimizers: list[IdleOptimizer],
    schedulers: int,
    ranks: int,
    look: Callable[[Tensor], None],
) -> None:
    """Replace the methods by which a copied LightningModule reaches its trainer.

    Args:
        module: The copy; only methods that its class has are replaced.
        optimizers: What ``optimizers()`` returns; the single one when there is one, as Lightning does.
        schedulers: How many schedulers ``lr_schedulers()`` pretends to have.
        ranks: World size, the first dimension of what ``all_gather`` returns.
        look: Called with every loss before its backward pass.
    """
    switch = Switch()
    switch.optimizers = optimizers
    for optimizer in optimizers:
        optimizer.switch = switch

    def nothing(*args: Any, **kwargs: Any) -> None:
        return None

    def backward(loss: Tensor, *args: Any, **kwargs: Any) -> None:
        look(loss)
        loss.backward(*args, **kwargs)  # type: ignore[no-untyped-call]

    def gather(data: Any, group: Any = None, sync_grads: bool = False) -> Any:
        if isinstance(data, Tensor):
            data = data if sync_grads else data.detach()
            return data if ranks == 1 else data.expand(ranks, *data.shape).clone()
        if isinstance(data, Mapping):
            return {key: gather(value, group, sync_grads) for key, value in data.items()}
        if isinstance(data, (tuple, list)):
            return type(data)(gather(value, group, sync_grads) for value in data)
        return data

    pretended = [Silent() for _ in range(schedulers)]
    replaced: dict[str, Any] = {
        "log": nothing,
        "log_dict": nothing,
        "print": nothing,
        "manual_backward": backward,
        "optimizers": lambda use_pl_optimizer=True: optimizers[0] if len(optimizers) == 1 else list(optimizers),
        "lr_schedulers": lambda: None if not pretended else pretended[0] if schedulers == 1 else pretended,
        "toggle_optimizer": switch.toggle_optimizer,
        "untoggle_optimizer": switch.untoggle_optimizer,
        "toggled_optimizer": switch.toggled_optimizer,
        "clip_gradients": nothing,
        "lr_scheduler_step": nothing,
        "all_gather": gather,
    }
    for child in module.modules():
        if "_trainer" in vars(child):
            vars(child).update({name: method for name, method in replaced.items() if hasattr(type(child), name)})
