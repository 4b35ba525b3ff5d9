"""Counting the FLOPs of operations as they are dispatched.

Uses the formulas of ``torch.utils.flop_counter`` and adds those it lacks: fused attention on the CPU, fused recurrent
layers, matrix-vector and grouped products, distances and Fourier transforms. One multiply-add is two FLOPs, eight for
complex numbers. The backward pass of fused attention counts four products, not the five that kernels do to build the
scores again, so that every attention kernel on every device counts alike.
"""

from __future__ import annotations

import contextlib
import functools
import math
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from time import perf_counter
from types import FunctionType
from typing import Any

import torch
from torch import Tensor
from torch.utils import flop_counter
from torch.utils._python_dispatch import TorchDispatchMode, _get_current_dispatch_mode, _pop_mode, _push_mode
from torch.utils._pytree import tree_map

Formula = Callable[..., int]

_CHEAP_SPACES = frozenset(("aten", "prim", "prims", "profiler", "c10d", "_c10d_functional", "fsdp", "inductor"))
_LOOKUPS = frozenset(("embedding", "_embedding_bag", "index", "index_select", "gather", "_unsafe_index"))
_HEAVY_PREFIXES = ("linalg_", "_linalg_", "cholesky", "_sparse_mm", "triangular_solve", "ormqr", "histogram")
_CHECKPOINT_FILES = ("checkpoint.py", "checkpointing.py", "checkpoint_activations.py")
_NO_FORMULA, _LOOKUP, _CAST, _HEAVY, _COMPOSITE = range(5)
_rules: dict[Any, Formula | int] = {}


class OpCounter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Adds up the FLOPs of the operations of one real training step, which runs as it would without.

    Code made by ``torch.compile`` is neither compiled anew nor skipped: the mode is off while torch compiles, and sees
    the products that compiled code hands to libraries. Each operation costs one dictionary lookup in Python; which
    formula belongs to it is looked up once per process.

    Args:
        weights: Parameters to keep track of, by identity; none makes counting cheaper.

    Attributes:
        flops: FLOPs so far, recomputation not included.
        recomputed: FLOPs of activations that checkpointing computed again in the backward pass.
        uncounted: Operations that may do much but have no formula.
        operations: Operations dispatched so far.
        updating: Whether an optimizer is updating the parameters, whose products are not counted; a product with
            gradients on, as in the next closure of LBFGS, ends it.
    """

    supports_higher_order_operators = True

    def __init__(self, weights: Iterable[Tensor] = ()) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.flops: int = 0
        self.recomputed: int = 0
        self.operations: int = 0
        self.uncounted: set[str] = set()
        self.updating = False
        self._weights = {id(weight): weight for weight in weights}
        self._used: set[int] = set()
        self._multiplied: set[int] = set()
        self._storages = {_storage(weight): id(weight) for weight in self._weights.values()}

    @classmethod
    def ignore_compile_internals(cls) -> bool:
        """Let ``torch.compile`` do as without a mode; else it would leave a function it meets uncompiled for good."""
        return True

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # `leave_to_python` does the same at a third of the cost

    def used(self) -> list[Tensor]:
        """The weights that went into something other than a table lookup, in no particular order."""
        return [self._weights[key] for key in self._used | self._multiplied if key in self._weights]

    def multiplied(self) -> list[Tensor]:
        """The weights that went into an operation that is counted, themselves or as views or casts."""
        return [self._weights[key] for key in self._multiplied if key in self._weights]

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        self.operations += 1
        rule = _rules.get(func)
        if rule == _NO_FORMULA and not self._weights:
            return func(*args, **kwargs) if kwargs else func(*args)
        kwargs = kwargs or {}
        if rule is None:
            try:
                rule = _rule(func)
            except Exception:
                rule = _HEAVY
        if rule == _COMPOSITE and torch.is_inference_mode_enabled():
            with self:  # composite operations reach this place whole under inference mode
                result = func.decompose(*args, **kwargs)
            if result is not NotImplemented:
                return result
        result = func(*args, **kwargs)
        try:
            self._note(func, rule, args, kwargs, result)
        except Exception:  # the operation is the user's and has been done: only its count is lost
            self.uncounted.add("an operation that could not be counted")
        return result

    def _note(self, func: Any, rule: Formula | int, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> None:
        if self._weights and rule != _LOOKUP and not self.updating:
            self._used.update(id(value) for value in args if id(value) in self._weights)
        if callable(rule):
            self._count(rule, args, kwargs, result)
        elif rule == _CAST and (cast := self._storages.get(_storage(args[0]))) is not None:
            self._storages[_storage(result)] = cast
        elif rule == _HEAVY:
            self.uncounted.add(f"{getattr(func, 'namespace', 'aten')}::{_name(getattr(func, '_overloadpacket', func))}")
            self._used.update(id(value) for value in _tensors(args) if id(value) in self._weights)

    def _count(self, formula: Formula, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> None:
        in_backward = torch._C._current_graph_task_id() != -1
        with_grad = torch.is_grad_enabled()
        if self.updating:
            if not (in_backward or with_grad):
                return
            self.updating = False
        if self._weights:
            self._multiplied.update(self._storages.get(_storage(value), 0) for value in _tensors(args))
        try:
            flops = int(formula(*args, **kwargs, out_val=result))
        except Exception:  # a formula that does not know this overload must not end the step it looks at
            self.uncounted.add(getattr(formula, "__name__", "an operation"))
            return
        if isinstance(result, Tensor) and result.is_complex():
            flops *= 4
        if in_backward and with_grad and _recomputing():
            self.recomputed += flops
        else:
            self.flops += flops

    def leave(self) -> None:
        """Take the mode off the stack, also from under modes that were entered later and are still active."""
        above: list[Any] = []
        while (top := _get_current_dispatch_mode()) is not None and top is not self:
            above.append(_pop_mode())
        if top is self:
            self.__exit__(None, None, None)  # type: ignore[no-untyped-call]
        for mode in reversed(above):
            _push_mode(mode)


def leave_to_python() -> None:
    """Keep ``torch.compile``, where it is in use, from compiling the counting itself."""
    dynamo = sys.modules.get("torch._dynamo.eval_frame")
    if dynamo is not None and hasattr(dynamo, "skip_code"):
        for value in (*globals().values(), *vars(OpCounter).values(), *_OURS.values()):
            if isinstance(value, FunctionType) and value.__module__ == __name__:
                dynamo.skip_code(value.__code__)


@functools.cache
def operation_seconds() -> float:
    """What counting adds to an operation on this machine, measured once per process."""
    value, times = torch.zeros(1), []
    for mode in (contextlib.nullcontext(), OpCounter()):
        with mode:
            value.detach()
            begun = perf_counter()
            for _ in range(64):
                value.detach()
            times.append(perf_counter() - begun)
    return max(times[1] - times[0], 0.0) / 64


def _rule(func: Any) -> Formula | int:
    packet = getattr(func, "_overloadpacket", func)
    found: Formula | int | None = _formulas().get(packet)
    if found is None:
        name, space = _name(packet), getattr(func, "namespace", "aten")
        heavy = name.startswith(_HEAVY_PREFIXES) and "norm" not in name and "cross" not in name
        if space not in _CHEAP_SPACES or (space == "aten" and heavy):
            found = _HEAVY
        elif name in _LOOKUPS:
            found = _LOOKUP
        elif packet is torch.ops.aten._to_copy:
            found = _CAST
        else:
            found = _COMPOSITE if _composite(func) else _NO_FORMULA
    _rules[func] = found
    return found


def _composite(func: Any) -> bool:
    try:
        return bool(torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), "CompositeImplicitAutograd"))
    except Exception:
        return False


def _recomputing() -> bool:
    """Whether a checkpoint runs its function again, as opposed to a backward pass that is itself differentiated."""
    frame = sys._getframe(1)
    while frame is not None and frame.f_code.co_name != "_engine_run_backward":
        if frame.f_code.co_filename.endswith(_CHECKPOINT_FILES):
            return True
        frame = frame.f_back  # type: ignore[assignment]
    return False


def _storage(tensor: Tensor) -> int:
    """The identity of a tensor's memory, which its views share; zero where it has none of its own."""
    try:
        return int(tensor.untyped_storage()._cdata)
    except Exception:
        return 0


def _name(packet: Any) -> str:
    return str(getattr(packet, "__name__", packet))


def _tensors(args: Iterable[Any]) -> Iterator[Tensor]:
    for value in args:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, (list, tuple)):
            yield from (item for item in value if isinstance(item, Tensor))


@functools.cache
def _formulas() -> dict[Any, Formula]:
    torchs = _formulas_of_torch()
    found = {getattr(torch.ops.aten, name): formula for name, formula in _OURS.items() if hasattr(torch.ops.aten, name)}
    found.update(torchs)
    for packet, formula in torchs.items():
        if "attention" in (name := _name(packet)) and "backward" in name:
            found[packet] = _without_rebuilding(formula)
    return found


def _formulas_of_torch() -> dict[Any, Formula]:
    registry: dict[Any, Formula] | None = getattr(flop_counter, "flop_registry", None)
    if registry is not None:
        return registry
    # torch before 2.2 has a mapping, and the functions in it take shapes
    return {packet: _given_shapes(formula) for packet, formula in vars(flop_counter)["flop_mapping"].items()}


def _given_shapes(formula: Formula) -> Formula:
    """A formula of shapes as one of tensors."""

    @functools.wraps(formula)
    def of_tensors(*args: Any, out_val: Any = None, **kwargs: Any) -> int:
        shapes = tree_map(vars(flop_counter)["get_shape"], (args, kwargs, out_val))
        return int(formula(*shapes[0], **shapes[1], out_shape=shapes[2]))

    return of_tensors


def _without_rebuilding(formula: Formula) -> Formula:
    return lambda *args, **kwargs: int(formula(*args, **kwargs) * 4 // 5)


def _attention(query: Tensor, key: Tensor, value: Tensor, *args: Any, **kwargs: Any) -> int:
    rows = math.prod(query.shape[:-1])
    return 2 * rows * key.shape[-2] * (query.shape[-1] + value.shape[-1])


def _backward(formula: Formula, times: int = 2) -> Formula:
    """The formula of a backward pass, whose arguments begin with the gradient."""
    return lambda grad, *args, **kwargs: times * formula(*args, **kwargs)


def _recurrent(weights: slice, *, steps: int = 0, backward: bool = False) -> Formula:
    """The formula of a recurrent layer from the places of its weights and its inputs among the arguments."""

    def recurrent(*args: Any, **kwargs: Any) -> int:
        matrices = sum(weight.numel() for weight in _tensors(args[weights]) if weight.ndim == 2)
        rows: int = math.prod(args[steps].shape[:-1])
        return (4 if backward else 2) * rows * matrices

    return recurrent


def _product(left: int, *, columns: bool = False) -> Formula:
    """The formula of a product from the place of its left factor: two FLOPs a number, for each column of the right."""
    return lambda *args, **kwargs: 2 * args[left].numel() * (args[left + 1].shape[-1] if columns else 1)


def _grouped(left: Tensor, right: Tensor, *args: Any, **kwargs: Any) -> int:
    groups = left.shape[0] if left.ndim == 3 and right.ndim == 3 else 1
    return 2 * groups * left.shape[-2] * left.shape[-1] * right.shape[-1]


def _distance(left: Tensor, right: Tensor, *args: Any, **kwargs: Any) -> int:
    return 2 * left.numel() * right.shape[-2]


def _trilinear(*args: Any, **kwargs: Any) -> int:
    shapes = [list(tensor.shape) for tensor in args[:3]]
    for shape, dims in zip(shapes, args[3:6], strict=True):
        for dim in sorted(dims):
            shape.insert(dim, 1)
    return 2 * math.prod(int(max(sizes)) for sizes in zip(*shapes, strict=True))


def _fourier(values: Tensor, dims: Sequence[int], *args: Any, out_val: Any = None, **kwargs: Any) -> int:
    # 5 n log2 n per complex transform of length n, half of it if one side is real (Frigo and Johnson's convention). The
    # counter multiplies complex results by four, so that is taken out here.
    wide = max((values, out_val), key=lambda tensor: math.prod(tensor.shape[dim] for dim in dims))
    whole = 5 * wide.numel() * sum(math.log2(max(wide.shape[dim], 1)) for dim in dims)
    halved = whole if values.is_complex() and out_val.is_complex() else whole / 2
    return int(halved / 4 if out_val.is_complex() else halved)


_OURS: dict[str, Formula] = {
    "_scaled_dot_product_flash_attention_for_cpu": _attention,
    "_scaled_dot_product_flash_attention_for_cpu_backward": _backward(_attention),
    "_scaled_dot_product_fused_attention_overrideable": _attention,
    "_scaled_dot_product_fused_attention_overrideable_backward": _backward(_attention),
    "_scaled_dot_product_attention_math_for_mps": _attention,
    "mkldnn_rnn_layer": _recurrent(slice(1, 3)),
    "mkldnn_rnn_layer_backward": _recurrent(slice(1, 3), backward=True),
    "_cudnn_rnn": _recurrent(slice(1, 2)),
    "_cudnn_rnn_backward": _recurrent(slice(1, 2), backward=True),
    "miopen_rnn": _recurrent(slice(1, 2)),
    "miopen_rnn_backward": _recurrent(slice(1, 2), backward=True),
    "_lstm_mps": _recurrent(slice(2, 3)),
    "lstm_mps_backward": _recurrent(slice(8, 9), steps=5, backward=True),
    "mv": _product(0),
    "addmv": _product(1),
    "dot": _product(0),
    "vdot": _product(0),
    "addbmm": _product(1, columns=True),
    "_grouped_mm": _grouped,
    "_scaled_grouped_mm": _grouped,
    "_cdist_forward": _distance,
    "_euclidean_dist": _distance,
    "_cdist_backward": _backward(_distance, times=1),
    "_trilinear": _trilinear,
    "_fft_c2c": _fourier,
    "_fft_r2c": _fourier,
    "_fft_c2r": _fourier,
}
