"""Numbers that carry their derivatives (forward mode), understood by numpy's own functions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.lib.mixins import NDArrayOperatorsMixin

from lightning_scaling.laws.arrays import Array


def plain(value: Any) -> Array:
    """The value without its derivatives, as a float array."""
    return value.val if isinstance(value, Dual) else np.asarray(value, dtype=np.float64)


class Dual(NDArrayOperatorsMixin):
    """An array and its derivatives with respect to some parameters.

    Forward-mode automatic differentiation (Wengert, Comm. ACM 7(8), 1964): exact derivatives at the price of a few
    operations each. Only the parameters on which a value depends are carried along.

    Attributes:
        val: The value, any shape.
        der: Derivative by index of the parameter, each broadcastable to the shape of `val`.
    """

    __slots__ = ("der", "val")
    __hash__ = None  # type: ignore[assignment]

    def __init__(self, val: Any, der: dict[int, Any]) -> None:
        self.val = val
        self.der = der

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **options: Any) -> Any:
        if method != "__call__" or options:
            return NotImplemented
        if ufunc in _COMPOSED:
            return _COMPOSED[ufunc](*inputs)
        if ufunc not in _SLOPES:
            return NotImplemented
        values = [value.val if isinstance(value, Dual) else value for value in inputs]
        result = ufunc(*values)
        der: dict[int, Any] = {}
        for value, slope in zip(inputs, _SLOPES[ufunc](result, *values), strict=True):
            if isinstance(value, Dual):
                for k, d in value.der.items():
                    term = d if slope is None else d * slope
                    der[k] = der[k] + term if k in der else term
        return Dual(result, der)

    def __array_function__(self, func: Any, types: Any, args: Any, kwargs: Any) -> Any:
        if func is np.sum and isinstance(args[0], Dual):
            return args[0].sum(*args[1:], **kwargs)
        return NotImplemented

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the value."""
        return np.shape(self.val)

    def _each(self, apply: Callable[[Any], Any]) -> Dual:
        return Dual(apply(self.val), {k: apply(np.broadcast_to(d, self.shape)) for k, d in self.der.items()})

    def __getitem__(self, key: Any) -> Dual:
        return self._each(lambda array: array[key])

    def sum(self, axis: int | None = None) -> Dual:
        """Sum over an axis."""
        return self._each(lambda array: np.sum(array, axis=axis))


def _chained(a: Any, value: Array, slope: Any) -> Dual:
    return Dual(value, {k: d * slope for k, d in a.der.items()})


def _divide(a: Any, b: Any) -> Any:
    inverse = 1.0 / plain(b)
    if not isinstance(b, Dual):
        return a * inverse
    if isinstance(a, Dual):
        return a * _chained(b, inverse, -1.0 / (b.val * b.val))
    return _chained(b, a * inverse, -a * inverse * inverse)


def _power(a: Any, b: Any) -> Any:
    if not isinstance(b, Dual):
        return _chained(a, a.val**b, b * a.val ** (b - 1.0))
    log = np.log(a)
    if isinstance(a, Dual):
        return np.exp(b * log)
    value = np.exp(b.val * log)
    return _chained(b, value, value * log)


_COMPOSED: dict[Any, Callable[..., Any]] = {np.true_divide: _divide, np.power: _power}

# Derivatives of the result z by each argument, given z and the arguments; None for 1.
_SLOPES: dict[Any, Callable[..., tuple[Any, ...]]] = {
    np.add: lambda z, a, b: (None, None),
    np.subtract: lambda z, a, b: (None, -1.0),
    np.multiply: lambda z, a, b: (b, a),
    np.negative: lambda z, a: (-1.0,),
    np.square: lambda z, a: (2.0 * a,),
    np.exp: lambda z, a: (z,),
    np.log: lambda z, a: (1.0 / a,),
    np.log1p: lambda z, a: (1.0 / (1.0 + a),),
    np.expm1: lambda z, a: (np.exp(a),),
    np.sqrt: lambda z, a: (0.5 / z,),
    np.tanh: lambda z, a: (1.0 - z * z,),
    np.absolute: lambda z, a: (np.sign(a),),
    np.logaddexp: lambda z, a, b: (np.exp(a - z), np.exp(b - z)),
    np.maximum: lambda z, a, b: (a >= b, ~(a >= b)),
    np.minimum: lambda z, a, b: (a <= b, ~(a <= b)),
}
