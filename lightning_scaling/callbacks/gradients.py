"""Norms of gradients at a few optimizer steps, from which the gradient-noise scale is estimated.

Nothing here imports Lightning or talks to other ranks: the norms are reduced together with the losses at a flush.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from math import isfinite, sqrt
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.hooks import RemovableHandle

from lightning_scaling.callbacks.aggregation import Array
from lightning_scaling.callbacks.device_reads import read_numbers
from lightning_scaling.callbacks.gradient_noise import NoiseScale

_STRATEGIES = ("SingleDeviceStrategy", "DDPStrategy")
_EVERY = 50
_SLOTS = 16
_WIDER = dict.fromkeys((torch.float16, torch.bfloat16), torch.float32)
_STATE_VERSION = 1


class Gradients:
    """Records gradient norms on at most one optimizer step in 50; never synchronizes the device.

    Of an optimizer step made of ``m`` micro-batches (accumulated ones times ranks) two squared norms are taken: that of
    the gradient of one micro-batch of this rank, and that of the step's own, after all reduction and before clipping.
    With accumulated batches the former is what the first of them leaves in ``parameter.grad``. Without, on several
    ranks, it is what arrives at tensor hooks, which are there for this one backward pass and are called before the
    gradients are added up over the ranks. On one rank without accumulation there is only the norm.

    Where gradients are sharded, optimization is manual or there are several optimizers, nothing is read; and neither
    where a gradient is sparse or a communication hook changes how ranks share them.

    Args:
        trainer: The Trainer, about to train.
        module: The module in training.
        progress: Its ``completed`` counts optimizer steps.
        clock: Monotonic clock in seconds.

    Attributes:
        seconds: Time taken since this was last set to 0.
        norm: Norm of the gradient that the optimizer gets, before clipping, root mean square over the samples of the
            latest flush with any; ``None`` before the first.
        batch: Samples, or tokens, of the optimizer steps sampled last, all ranks together.
        error: What went wrong; nothing is read any more.
        world: Number of ranks.
        noise: The averages.
        resting: Whether to read nothing for now; all ranks alike.
        follows_batches: Whether :meth:`batch_ended` is to be called.
        armed: Whether :meth:`before_step` is to be called before the next optimizer step.
    """

    def __init__(self, trainer: Any, module: Any, progress: Any, clock: Callable[[], float]) -> None:
        self.seconds = 0.0
        self.norm: float | None = None
        self.batch: float | None = None
        self.error: Exception | None = None
        self.noise = NoiseScale()
        self._trainer, self._progress, self._clock = trainer, progress, clock
        self.world = int(trainer.world_size)
        self._able = self._shared = _can_be_seen(trainer, module)
        self.follows_batches = self._able and self.world * int(trainer.accumulate_grad_batches) > 1
        self.resting = False
        self._wait = 0
        self._slots: list[tuple[Tensor | None, Tensor | None, float]] = []
        self._done = self._next = int(progress.completed)
        self._fresh = False
        self._handles: list[RemovableHandle] = []
        self._close_step()

    def _remove_hooks(self) -> None:
        while self._handles:
            self._handles.pop().remove()

    def _close_step(self) -> None:
        self._remove_hooks()
        self._open = self.armed = False
        self._sound = True
        self._seen, self._group = 0, 1
        self._small: Tensor | None = None
        self._big: Tensor | None = None
        self._parts: dict[int, Tensor] = {}

    def detach(self) -> None:
        """Let go of the Trainer and take all hooks away."""
        self._able = self.follows_batches = False
        self._close_step()
        self._slots = []
        del self._trainer, self._progress

    # ---------------------------------------------------------- in the training loop

    def batch_ended(self, outputs: Any) -> None:
        """Called after each micro-batch, alike on all ranks."""
        if self._wait:
            self._wait -= 1
        elif self._able:
            self._wait = self._guarded(self._batch_done, outputs) or 0

    def before_step(self, optimizer: Any) -> None:
        """Called before an optimizer step while :attr:`armed`: all gradients are there, reduced, and not clipped."""
        self._guarded(self._step if self._open else self._norm_alone, optimizer)

    def arm(self) -> None:
        """Read the norm at the next optimizer step if it is due, where only norms can be had."""
        done = int(self._progress.completed)
        ready = self._able and not self.resting and len(self._slots) < _SLOTS
        if ready and done >= self._next and self.world * int(self._trainer.accumulate_grad_batches) == 1:
            self.armed = True

    def _guarded(self, function: Callable[[Any], int | None], argument: Any) -> int | None:
        begun = self._clock()
        try:
            return function(argument)
        except Exception as error:
            self._fail(error)
            return None
        finally:
            self.seconds += self._clock() - begun

    def _fail(self, error: Exception) -> None:
        self.error, self._able = error, False
        self._close_step()
        self._slots = []

    def _norm_alone(self, optimizer: Any) -> None:
        self._next = int(self._progress.completed) + _EVERY
        norm = self._norm_of_step(optimizer)
        if norm is not None:
            self._slots.append((None, norm, 1.0))
        self._close_step()

    def _batch_done(self, outputs: Any) -> int:
        """Follow the micro-batches of a step; returns how many to skip before the next call."""
        done = int(self._progress.completed)
        stepped, self._done = self._fresh and done != self._done, done
        self._fresh = True
        if self._open:
            self._seen += 1
            self._sound &= bool(outputs) and outputs.get("loss") is not None
            if stepped:
                self._finish()
            elif self._seen == 1 and self._group > 1:
                self._small = self._unscaled(self._squared())
        elif stepped and done >= self._next:
            self._begin(done)
        if self._open or done + 2 >= self._next:
            return 0
        self._fresh = False
        return self._next - done - 2

    def _begin(self, done: int) -> None:
        self._next = done + _EVERY
        if self.resting or len(self._slots) == _SLOTS:
            return
        self._group = int(self._trainer.accumulate_grad_batches)
        self._open = self.armed = True
        if self._group == 1:
            for place, parameter in enumerate(self._parameters()):
                handle = parameter.register_hook(partial(self._arrived, place))  # type: ignore[no-untyped-call]
                self._handles.append(handle)

    def _arrived(self, place: int, gradient: Tensor) -> None:
        """A gradient of this rank alone, on its way to its parameter."""
        begun = self._clock()
        try:
            if place in self._parts or not _plain(gradient):
                self._sound = False  # a part of it, as under some kinds of checkpointing
            else:
                self._parts[place] = squared_norm([gradient])
        except Exception as error:
            self.error, self._able, self._sound = error, False, False
        self.seconds += self._clock() - begun

    def _step(self, optimizer: Any) -> None:
        if self._big is not None:
            return  # an optimizer that evaluates its closure several times
        self._remove_hooks()
        if self._group == 1 and self._parts:
            self._small = self._unscaled(torch.stack(list(self._parts.values())).sum())
            self._parts = {}
        self._big = self._norm_of_step(optimizer)

    def _finish(self) -> None:
        group, small, big = self._group, self._small, self._big
        whole = self._seen == group == int(self._trainer.accumulate_grad_batches)
        cut = not whole or bool(self._trainer.is_last_batch)  # the last batch may be a short one
        self._next += cut  # so that not all samples meet the end of an epoch
        if cut or not self._sound or small is None or big is None:
            small = big = None
        elif group > 1:
            small = small * float(group * group)  # Lightning divides the loss by their number
        self._slots.append((small, big, float(group * self.world)))
        self._close_step()

    def _parameters(self) -> list[Tensor]:
        groups = self._trainer.optimizers[0].param_groups
        return [parameter for group in groups for parameter in group["params"] if parameter.requires_grad]

    def _norm_of_step(self, optimizer: Any) -> Tensor | None:
        """Squared norm as the optimizer gets it: without the scale of its loss, which some take away themselves."""
        late = getattr(optimizer, "_step_supports_amp_scaling", False)
        return self._unscaled(self._squared()) if late else self._squared()

    def _squared(self) -> Tensor | None:
        """Squared norm of all that is in ``parameter.grad``."""
        gradients = [parameter.grad for parameter in self._parameters() if parameter.grad is not None]
        if not all(map(_plain, gradients)) or len({gradient.device for gradient in gradients}) > 1:
            self._sound = self._able = False
            return None
        return squared_norm(gradients) if gradients else None

    def _unscaled(self, squared: Tensor | None) -> Tensor | None:
        """A squared norm freed from the scale of the loss, where there is one."""
        scaler = getattr(self._trainer.precision_plugin, "scaler", None)
        if scaler is None or squared is None:
            return squared
        scale = getattr(scaler, "_scale", None)  # `get_scale` would wait for the device
        return squared / scale.square() if isinstance(scale, Tensor) else None

    # ------------------------------------------------------------------ at flushes

    def drain(self) -> Array:
        """Numbers to be summed over the ranks, of one length on all of them; one transfer.

        A row is 1 for a sample of use, the squared norm of a micro-batch and that of the step, and the micro-batches.
        """
        if self.world > 1 and not self._shared:
            return np.zeros(0)
        slots, self._slots = self._slots, []
        rows = np.zeros((_SLOTS, 4))
        try:
            read = read_numbers([value for small, big, _ in slots for value in (small, big)])
        except Exception as error:
            self._fail(error)
            return rows.ravel()
        for place, (small, big) in enumerate(read.reshape(-1, 2)):
            parts = slots[place][2]
            if isfinite(big) and (parts == 1 or isfinite(small)):
                rows[place] = 1.0, 0.0 if parts == 1 else small, big, parts
        return rows.ravel()

    def update(self, summed: Array, size: float | None) -> None:
        """Update the averages with the sum over the ranks of what :meth:`drain` returned.

        Args:
            summed: The sum.
            size: Samples, or tokens, of a micro-batch; ``None`` where they are not counted.
        """
        rows = summed.reshape(-1, 4)
        rows = rows[rows[:, 0] == self.world] / self.world
        if len(rows):
            self.norm = sqrt(float(rows[:, 2].mean()))
        for _, small, big, parts in rows[rows[:, 3] > 1].tolist():
            if size:
                self.noise.add(small, big, parts, float(size))
                self.batch = parts * float(size)

    def counters(self) -> dict[str, float]:
        """Norm and noise scale for the charts, where they are known well."""
        found = {} if self.norm is None else {"gradient_norm": self.norm}
        estimate = self.noise.estimate()
        if estimate is not None and estimate.scale is not None and estimate.clear:
            found["gradient_noise_scale"] = estimate.scale
        return found

    def diagnostics(self) -> dict[str, Any]:
        """Noise scale and batch for the engine, as builtins; ``None`` where unknown."""
        names = ("noise_scale", "noise_low", "noise_high")
        estimate = None if self.batch is None else self.noise.estimate()
        if estimate is None:
            return dict.fromkeys((*names, "batch"))
        short = [None if value is None else float(f"{value:.4g}") for value in estimate]
        return {**dict(zip(names, short, strict=True)), "batch": self.batch}

    def state_dict(self) -> dict[str, Any]:
        """The averages as builtins; flush first."""
        return {"version": _STATE_VERSION, "norm": self.norm, "batch": self.batch, "noise": self.noise.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what :meth:`state_dict` returned."""
        if state.get("version") == _STATE_VERSION:
            self.norm, self.batch = state["norm"], state["batch"]
            self.noise.load_state_dict(state["noise"])


def squared_norm(tensors: list[Tensor]) -> Tensor:
    """Sum of the squares of all numbers in some tensors of one device, in single precision at least; stays there."""
    with torch.no_grad():
        if all(tensor.dtype is torch.float32 for tensor in tensors):
            norms = list(torch._foreach_norm(tensors))
        else:
            norms = [torch.linalg.vector_norm(tensor, dtype=_WIDER.get(tensor.dtype)) for tensor in tensors]
        return torch.stack(norms).square().sum()


def _plain(gradient: Tensor) -> bool:
    return gradient.layout is torch.strided and gradient.__class__ is Tensor


def _can_be_seen(trainer: Any, module: Any) -> bool:
    """Whether each rank holds whole gradients and Lightning runs one optimizer on their mean over the ranks."""
    strategy = trainer.strategy
    whole = type(strategy).__name__ in _STRATEGIES and getattr(strategy, "_ddp_comm_hook", None) is None
    return whole and bool(module.automatic_optimization) and len(trainer.optimizers) == 1
