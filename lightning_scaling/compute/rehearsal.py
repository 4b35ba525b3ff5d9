"""Running one training step on a copy, to count its operations without touching the run."""

from __future__ import annotations

import contextlib
import inspect
import io
import random
import sys
import warnings
import weakref
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lightning_scaling.compute.leaks import take_back
from lightning_scaling.compute.opcount import OpCounter
from lightning_scaling.compute.replica import CannotCopyError, Replica
from lightning_scaling.compute.standins import detach_from_loop

_SMALL_BYTES = 256_000_000


@dataclass(frozen=True)
class Tally:
    """What one training step does.

    Attributes:
        flops: FLOPs, forward and backward.
        again: The part of them that recomputes activations, or takes second derivatives.
        uncounted: Operations without a formula that may do much.
        blind: Autograd functions written in Python, which may do work that no counter sees.
        trainable: Weights in matrices that the step used and trains.
        frozen: Weights in matrices that the step used and does not train.
        unseen: Those weights of both that went into nothing that is counted.
        stand_ins: Times the step read a number that a rehearsal does not have.
        how: Where the step was run.
    """

    flops: int
    again: int
    uncounted: tuple[str, ...]
    blind: tuple[str, ...]
    trainable: int
    frozen: int
    unseen: int
    stand_ins: int
    how: str


def tally(counter: OpCounter, how: str, blind: set[str] | None = None) -> Tally:
    """What a counter has seen."""
    matrices = [weight for weight in counter.used() if weight.ndim >= 2]
    seen = {id(weight) for weight in counter.multiplied()}
    return Tally(
        flops=counter.flops,
        again=counter.again,
        uncounted=tuple(sorted(counter.uncounted)),
        blind=tuple(sorted(blind or ())),
        trainable=sum(weight.numel() for weight in matrices if weight.requires_grad),
        frozen=sum(weight.numel() for weight in matrices if not weight.requires_grad),
        unseen=sum(weight.numel() for weight in matrices if id(weight) not in seen),
        stand_ins=counter.stand_ins,
        how=how,
    )


def rehearse(module: nn.Module, batch: Any, batch_idx: int = 0) -> Tally:
    """Count the operations of one training step on a copy that has shapes but no values and takes no memory.

    A step that cannot do without values is run on a true copy instead, if the module is on the CPU, is smaller than
    256 MB and trains on one rank.

    Args:
        module: The module; a LightningModule runs its ``training_step``, any other its ``forward``. Unchanged
            afterwards, as are the random number generators.
        batch: A batch as the training step gets it.
        batch_idx: Its index.

    Returns:
        The tally.

    Raises:
        CannotCopyError: If the step could not be run; the message says why.
    """
    from torch._subclasses.fake_tensor import FakeTensorMode

    made: list[weakref.ref[Tensor]] = []
    reason = ""
    seen: Tally | None = None
    with _quietly():
        try:
            # Made inside the mode: a tensor that slipped through to `deepcopy` fails there instead of taking memory.
            with FakeTensorMode():
                seen = _run(module, batch, batch_idx, _shape_of, made)
        except Exception as error:
            reason = _said(error)
        take_back(made)
        if seen is not None:
            return seen
        if not _small_and_alone(module):
            raise CannotCopyError(reason)
        try:
            return _run(module, batch, batch_idx, _value_of)
        except Exception as error:
            raise CannotCopyError(_said(error)) from error


def _shape_of(tensor: Tensor) -> Tensor:
    return torch.empty_strided(tensor.size(), tensor.stride(), dtype=tensor.dtype, device=tensor.device)


def _value_of(tensor: Tensor) -> Tensor:
    return tensor.detach().clone()


def _said(error: Exception) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 160 else text[:157] + "..."


def _small_and_alone(module: nn.Module) -> bool:
    tensors = [*module.parameters(), *module.buffers()]
    if any(tensor.device.type != "cpu" for tensor in tensors):
        return False
    distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
    if distributed and torch.distributed.get_world_size() > 1:
        return False
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors) <= _SMALL_BYTES


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Put back every random state; keep the warnings and prints of the copied step to ourselves."""
    numpy = getattr(sys.modules.get("numpy"), "random", None)
    python, numpys = random.getstate(), numpy.get_state() if numpy is not None else None
    torchs = torch.get_rng_state()
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []  # type: ignore[no-untyped-call]
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        random.setstate(python)
        if numpy is not None:
            numpy.set_state(numpys)
        torch.set_rng_state(torchs)
        if cuda:
            torch.cuda.set_rng_state_all(cuda)


def _run(
    module: nn.Module,
    batch: Any,
    batch_idx: int,
    new: Callable[[Tensor], Tensor],
    made: list[weakref.ref[Tensor]] | None = None,
) -> Tally:
    """Run the step on a copy; ``made`` collects the tensors if they have no values."""
    replica = Replica(module, batch, new)
    blind: set[str] = set()

    def look(loss: Tensor) -> None:
        blind.update(_python_functions(loss))

    detach_from_loop(replica.module, replica.optimizers, replica.schedulers, replica.ranks, look)
    counter = OpCounter(
        replica.module.parameters(), forbidden=replica.originals, alone=True, without_values=made is not None
    )
    if made is not None:
        counter.made = made
    step = _step
    if "torch._dynamo" in sys.modules:
        # Compiled functions inside run as written.
        step = torch.compiler.disable(_step)  # type: ignore[no-untyped-call]
    try:
        with torch.inference_mode(False), torch.enable_grad(), _precision(module), counter:
            step(replica.module, replica.batch, batch_idx, look)
        return tally(counter, "on a full copy" if made is None else "on a copy without values", blind)
    finally:
        replica.dissolve()


def _precision(module: nn.Module) -> contextlib.AbstractContextManager[Any]:
    plugin = getattr(vars(module).get("_trainer"), "precision_plugin", None)
    context = getattr(plugin, "train_step_context", None)
    return context() if context is not None else contextlib.nullcontext()


def _step(module: nn.Module, batch: Any, batch_idx: int, look: Callable[[Tensor], None]) -> None:
    training_step: Callable[..., Any] | None = getattr(module, "training_step", None)
    if training_step is None:
        total = _any_loss(_forward(module, batch))
        look(total)
        total.backward()  # type: ignore[no-untyped-call]
        return
    parameters = inspect.signature(training_step).parameters
    if "dataloader_iter" in parameters:
        raise CannotCopyError("its training_step draws batches from `dataloader_iter`")
    takes_index = "batch_idx" in parameters or len(parameters) >= 2
    outputs = training_step(batch, batch_idx) if takes_index else training_step(batch)
    if not getattr(module, "automatic_optimization", True) or outputs is None:
        return
    loss = outputs.get("loss") if isinstance(outputs, Mapping) else outputs
    if not isinstance(loss, Tensor):
        raise CannotCopyError("its training_step returned no loss tensor")
    look(loss)
    backward = getattr(module, "backward", None)
    if backward is not None:
        backward(loss)
    else:
        loss.backward()  # type: ignore[no-untyped-call]


def _forward(module: nn.Module, batch: Any) -> Any:
    if isinstance(batch, Mapping):
        return module(**batch)
    return module(batch[0] if isinstance(batch, (tuple, list)) else batch)


def _any_loss(outputs: Any) -> Tensor:
    """The loss of a plain module: the one it returns, else the sum of everything that has a gradient."""
    loss = outputs.get("loss") if isinstance(outputs, Mapping) else getattr(outputs, "loss", None)
    if isinstance(loss, Tensor):
        return loss
    total: Tensor | None = None
    stack = [outputs]
    while stack:
        value = stack.pop()
        if isinstance(value, Mapping):
            stack.extend(value.values())
        elif isinstance(value, (tuple, list)):
            stack.extend(value)
        elif isinstance(value, Tensor) and value.requires_grad:
            total = value.sum() if total is None else total + value.sum()
    if total is None:
        raise CannotCopyError("its forward returned nothing that has a gradient")
    return total


def _python_functions(loss: Tensor) -> set[str]:
    names: set[str] = set()
    seen: set[Any] = set()
    stack = [loss.grad_fn]
    while stack:
        node = stack.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        written = getattr(type(node), "_forward_cls", None)
        if written is not None and not written.__module__.startswith("torch."):
            names.add(written.__qualname__)
        stack.extend(below for below, _ in node.next_functions)
    return names
