"""Count of the operations of a real training step."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any

from torch import nn
from torch.optim import optimizer as optim
from torch.utils._python_dispatch import _get_current_dispatch_mode, _pop_mode

from lightning_scaling.compute.opcount import OpCounter, leave_to_python, operation_seconds


class Watch:
    """Count of the operations of one real training step; see ``FlopMeter.watch``.

    A context manager that may also be used as ``begin()`` and ``end()`` from two hooks. It never raises.

    Args:
        prepare: Called before the step: the parameters whose use is to be noted; ``None`` leaves the step alone.
        store: Called with the operations of a step that did not fail; gives its FLOPs.

    Attributes:
        seconds: Time that the look has taken, estimated from the number of operations.
    """

    def __init__(
        self, prepare: Callable[[], Iterable[nn.Parameter] | None], store: Callable[[OpCounter], int | None]
    ) -> None:
        self.seconds = 0.0
        self._prepare, self._store = prepare, store
        self._mode: OpCounter | None = None
        self._depth = 0
        self._hooks: list[Any] = []

    def begin(self) -> bool:
        """Start to count; ``False`` if this step cannot be looked at or need not be."""
        try:
            parameters = None if self._mode is not None else self._prepare()
            if parameters is None:
                return False
            leave_to_python()
            self._hooks = [
                optim.register_optimizer_step_pre_hook(self._before_update),
                optim.register_optimizer_step_post_hook(self._after_update),
            ]
            mode = OpCounter(parameters)
            mode.__enter__()  # type: ignore[no-untyped-call]
        except Exception:
            self._unhook()
            return False
        self._mode = mode
        return True

    def updating(self) -> None:
        """Note that an optimizer is about to update the parameters, as Lightning says after each closure."""
        if self._mode is not None:
            self._mode.updating = True

    def _before_update(self, optimizer: Any, args: Any, kwargs: Any) -> None:
        self._depth += 1
        if len(args) < 2 and kwargs.get("closure") is None:
            self.updating()

    def _after_update(self, optimizer: Any, args: Any, kwargs: Any) -> None:
        # An optimizer that calls the step of its base class is still updating when that returns.
        self._depth -= 1
        if self._mode is not None and self._depth <= 0:
            self._mode.updating = False

    def _unhook(self) -> None:
        for hook in self._hooks:
            hook.remove()
        self._hooks = []

    def end(self, *, failed: bool = False) -> int | None:
        """Stop counting and keep the result, unless the step failed. Call it in every case, once or more often.

        Returns:
            FLOPs of the step; ``None`` if they are not known.
        """
        mode, self._mode = self._mode, None
        if mode is None:
            return None
        try:
            self._unhook()
            mode.leave()
        except Exception:
            if _get_current_dispatch_mode() is mode:  # no operation of the user may pass through it from here on
                _pop_mode()
            return None
        with suppress(Exception):
            self.seconds = mode.operations * operation_seconds()
            if not failed:
                return self._store(mode)
        return None

    def __enter__(self) -> Watch:
        self.begin()
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: Any) -> None:
        self.end(failed=kind is not None)


def is_compiled(module: nn.Module) -> bool:
    """Whether parts of a module are compiled."""
    marks = ("_compiled_call_impl", "_compiler_ctx")
    return any("_orig_mod" in one._modules or any(map(vars(one).get, marks)) for one in module.modules())


def compiled_frames() -> int:
    """Functions that have been compiled in this process."""
    dynamo = sys.modules.get("torch._dynamo.utils")
    return 0 if dynamo is None else int(dynamo.counters.get("frames", {}).get("total", 0))
