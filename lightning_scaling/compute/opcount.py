"""Counting the FLOPs of operations as they are dispatched.

Uses the formulas of ``torch.utils.flop_counter`` and adds those it lacks: fused attention on the CPU, fused recurrent
layers, matrix-vector and grouped products, distances and Fourier transforms. One multiply-add is two FLOPs, eight for
complex numbers. The backward pass of fused attention counts four products, not the five that kernels do to build the
scores again, so that every attention kernel on every device counts alike.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils import flop_counter
from torch.utils._python_dispatch import TorchDispatchMode

Formula = Callable[..., int]

_CHEAP_SPACES = frozenset(("aten", "prim", "prims", "profiler", "c10d", "_c10d_functional", "inductor"))
_LOOKUPS = frozenset(("embedding", "_embedding_bag", "index", "index_select", "gather", "_unsafe_index"))
_HEAVY_PREFIXES = ("linalg_", "_linalg_", "cholesky", "_sparse_mm", "triangular_solve", "ormqr", "histogram")


class OpCounter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Adds up the FLOPs of all operations inside the context, on any device, on fake and on real tensors.

    Args:
        weights: Parameters to keep track of, by identity.
        forbidden: Tensors that no operation may take: those of the live module, while its copy runs.
        alone: Refuse operations that talk to other ranks, which would wait for them for ever.
        without_values: Answer reads of floating-point numbers that are not there with 1.

    Attributes:
        flops: FLOPs so far.
        again: The part of ``flops`` done in backward passes with gradients enabled: recomputed activations, or second
            derivatives.
        uncounted: Operations that may do much but have no formula.
        stand_ins: Reads of numbers that were answered with 1.
        made: References to the tensors made, where there are no values.
    """

    supports_higher_order_operators = True

    def __init__(
        self,
        weights: Iterable[Tensor] = (),
        *,
        forbidden: Container[int] = (),
        alone: bool = False,
        without_values: bool = False,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.flops: int = 0
        self.again: int = 0
        self.uncounted: set[str] = set()
        self.stand_ins: int = 0
        self.made: list[weakref.ref[Tensor]] = []
        self._weights = {id(weight): weight for weight in weights}
        self._used: set[int] = set()
        self._multiplied: set[int] = set()
        self._storages = {_storage(weight): id(weight) for weight in self._weights.values()}
        self._forbidden = forbidden
        self._alone = alone
        self._without_values = without_values
        self._formulas = _formulas()

    def used(self) -> list[Tensor]:
        """The weights that went into something other than a table lookup, in no particular order."""
        return [self._weights[key] for key in self._used]

    def multiplied(self) -> list[Tensor]:
        """The weights that went into an operation that is counted, themselves or as views or casts."""
        return [self._weights[key] for key in self._multiplied if key in self._weights]

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        packet = getattr(func, "_overloadpacket", func)
        if packet is torch.ops.prim.device:
            return func(*args, **kwargs)
        if self._alone:
            self._refuse(func, args)
        if self._without_values and packet is torch.ops.aten._local_scalar_dense and args[0].dtype.is_floating_point:
            try:
                return func(*args, **kwargs)
            except Exception:
                self.stand_ins += 1
                return 1.0
        formula = self._formulas.get(packet)
        if formula is None and torch.is_inference_mode_enabled() and hasattr(func, "decompose"):
            with self:  # composite operations reach this place whole under inference mode
                result = func.decompose(*args, **kwargs)
            if result is not NotImplemented:
                return result
        result = func(*args, **kwargs)
        if self._without_values:
            self.made.extend(weakref.ref(value) for value in _tensors(result if type(result) is tuple else (result,)))
        self._follow(func, args, result)
        if formula is not None:
            self._add(packet, lambda: formula(*args, **kwargs, out_val=result), result)
        return result

    def _refuse(self, func: Any, args: tuple[Any, ...]) -> None:
        if func.namespace in ("c10d", "_c10d_functional"):
            raise RuntimeError("its training step talks to other ranks")
        if any(id(value) in self._forbidden for value in _tensors(args)):
            raise RuntimeError("its training step reaches the live module through a closure")

    def _follow(self, func: Any, args: tuple[Any, ...], result: Any) -> None:
        packet = getattr(func, "_overloadpacket", func)
        name = _name(packet)
        if self._weights and name not in _LOOKUPS:
            self._used.update(id(value) for value in _tensors(args) if id(value) in self._weights)
        if packet in self._formulas:
            self._multiplied.update(self._storages.get(_storage(value), 0) for value in _tensors(args))
        elif packet is torch.ops.aten._to_copy:
            if (cast := self._storages.get(_storage(args[0]))) is not None:
                self._storages[_storage(result)] = cast
        else:
            space = getattr(func, "namespace", "aten")
            heavy = name.startswith(_HEAVY_PREFIXES) and "norm" not in name and "cross" not in name
            if space not in _CHEAP_SPACES or (space == "aten" and heavy):
                self.uncounted.add(f"{space}::{name}")

    def _add(self, packet: Any, formula: Callable[[], int], result: Any) -> None:
        try:
            flops = int(formula())
        except Exception:  # a formula must never break the step it looks at
            self.uncounted.add(_name(packet))
            return
        if isinstance(result, Tensor) and result.is_complex():
            flops *= 4
        self.flops += flops
        if torch._C._current_graph_task_id() != -1 and torch.is_grad_enabled():
            self.again += flops


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


def _formulas() -> dict[Any, Formula]:
    torchs: dict[Any, Formula] = getattr(flop_counter, "flop_registry", {})
    if not torchs:  # torch before 2.2
        torchs = vars(flop_counter)["flop_mapping"]
    found = {getattr(torch.ops.aten, name): formula for name, formula in _OURS.items() if hasattr(torch.ops.aten, name)}
    found.update(torchs)
    for packet, formula in torchs.items():
        name = _name(packet)
        if "attention" in name and "backward" in name:
            found[packet] = _without_rebuilding(formula)
    return found


def _without_rebuilding(formula: Formula) -> Formula:
    return lambda *args, **kwargs: int(formula(*args, **kwargs) * 4 // 5)


def _attention(query: Tensor, key: Tensor, value: Tensor, *args: Any, **kwargs: Any) -> int:
    rows = math.prod(query.shape[:-1])
    return 2 * rows * key.shape[-2] * (query.shape[-1] + value.shape[-1])


def _attention_backward(grad: Tensor, query: Tensor, key: Tensor, value: Tensor, *args: Any, **kwargs: Any) -> int:
    return 2 * _attention(query, key, value)


def _recurrent(steps: Tensor, weights: Iterable[Any]) -> int:
    matrices = sum(weight.numel() for weight in weights if isinstance(weight, Tensor) and weight.ndim == 2)
    return 2 * math.prod(steps.shape[:-1]) * matrices


def _mkldnn_rnn(steps: Tensor, w0: Tensor, w1: Tensor, *args: Any, **kwargs: Any) -> int:
    return _recurrent(steps, (w0, w1))


def _listed_rnn(steps: Tensor, weights: Sequence[Tensor], *args: Any, **kwargs: Any) -> int:
    return _recurrent(steps, weights)


def _lstm_mps(steps: Tensor, state: Sequence[Tensor], weights: Sequence[Tensor], *args: Any, **kwargs: Any) -> int:
    return _recurrent(steps, weights)


def _twice(formula: Formula) -> Formula:
    return lambda *args, **kwargs: 2 * formula(*args, **kwargs)


def _lstm_mps_backward(*args: Any, **kwargs: Any) -> int:
    steps, weights = args[5], args[8]
    return 2 * _recurrent(steps, weights)


def _mv(matrix: Tensor, vector: Tensor, **kwargs: Any) -> int:
    return 2 * matrix.numel()


def _addmv(bias: Tensor, matrix: Tensor, vector: Tensor, **kwargs: Any) -> int:
    return 2 * matrix.numel()


def _dot(left: Tensor, right: Tensor, **kwargs: Any) -> int:
    return 2 * left.numel()


def _addbmm(bias: Tensor, left: Tensor, right: Tensor, **kwargs: Any) -> int:
    return 2 * left.numel() * right.shape[-1]


def _grouped(left: Tensor, right: Tensor, *args: Any, **kwargs: Any) -> int:
    groups = left.shape[0] if left.ndim == 3 and right.ndim == 3 else 1
    return 2 * groups * left.shape[-2] * left.shape[-1] * right.shape[-1]


def _distance(left: Tensor, right: Tensor, *args: Any, **kwargs: Any) -> int:
    return 2 * left.numel() * right.shape[-2]


def _trilinear(*args: Any, **kwargs: Any) -> int:
    shapes = []
    for tensor, dims in zip(args[:3], args[3:6], strict=True):
        shape = list(tensor.shape)
        for dim in sorted(dims):
            shape.insert(dim, 1)
        shapes.append(shape)
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
    "_scaled_dot_product_flash_attention_for_cpu_backward": _attention_backward,
    "_scaled_dot_product_fused_attention_overrideable": _attention,
    "_scaled_dot_product_fused_attention_overrideable_backward": _attention_backward,
    "_scaled_dot_product_attention_math_for_mps": _attention,
    "mkldnn_rnn_layer": _mkldnn_rnn,
    "mkldnn_rnn_layer_backward": _twice(_mkldnn_rnn),
    "_cudnn_rnn": _listed_rnn,
    "_cudnn_rnn_backward": _twice(_listed_rnn),
    "miopen_rnn": _listed_rnn,
    "miopen_rnn_backward": _twice(_listed_rnn),
    "_lstm_mps": _lstm_mps,
    "lstm_mps_backward": _lstm_mps_backward,
    "mv": _mv,
    "addmv": _addmv,
    "dot": _dot,
    "vdot": _dot,
    "addbmm": _addbmm,
    "_grouped_mm": _grouped,
    "_scaled_grouped_mm": _grouped,
    "_cdist_forward": _distance,
    "_euclidean_dist": _distance,
    "_cdist_backward": lambda grad, left, right, *args, **kwargs: _distance(left, right),
    "_trilinear": _trilinear,
    "_fft_c2c": _fourier,
    "_fft_r2c": _fourier,
    "_fft_c2r": _fourier,
}
