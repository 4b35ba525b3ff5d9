"""Numbers that carry their derivatives (forward mode), understood by numpy's own functions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def plain(value: Any) -> Array:
    """The value without its derivatives, as a float array."""
    return value.val if isinstance(value, Dual) else np.asarray(value, dtype=np.float64)


class Dual:
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

    def _map(self, val: Array, slope: Any) -> Dual:
        return Dual(val, {k: d * slope for k, d in self.der.items()})

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the value."""
        return np.shape(self.val)

    def __getitem__(self, key: Any) -> Dual:
        shape = np.shape(self.val)
        return Dual(self.val[key], {k: np.broadcast_to(d, shape)[key] for k, d in self.der.items()})

    def sum(self, axis: int | None = None) -> Dual:
        """Sum over an axis."""
        shape = np.shape(self.val)
        return Dual(
            np.sum(self.val, axis=axis), {k: np.sum(np.broadcast_to(d, shape), axis=axis) for k, d in self.der.items()}
        )

    def __add__(self, other: Any) -> Dual:
        if not isinstance(other, Dual):
            return Dual(self.val + other, self.der)
        der = dict(self.der)
        for k, d in other.der.items():
            der[k] = der[k] + d if k in der else d
        return Dual(self.val + other.val, der)

    __radd__ = __add__

    def __neg__(self) -> Dual:
        return Dual(-self.val, {k: -d for k, d in self.der.items()})

    def __sub__(self, other: Any) -> Dual:
        return self.__add__(-other)

    def __rsub__(self, other: Any) -> Dual:
        return self.__neg__().__add__(other)

    def __mul__(self, other: Any) -> Dual:
        if not isinstance(other, Dual):
            return self._map(self.val * other, other)
        der = {k: d * other.val for k, d in self.der.items()}
        for k, d in other.der.items():
            term = d * self.val
            der[k] = der[k] + term if k in der else term
        return Dual(self.val * other.val, der)

    __rmul__ = __mul__

    def __truediv__(self, other: Any) -> Dual:
        if isinstance(other, Dual):
            return self * other._map(1.0 / other.val, -1.0 / (other.val * other.val))
        return self * (1.0 / np.asarray(other, dtype=np.float64))

    def __rtruediv__(self, other: Any) -> Dual:
        inverse = 1.0 / self.val
        return self._map(other * inverse, -other * inverse * inverse)

    def __pow__(self, other: Any) -> Dual:
        if isinstance(other, Dual):
            return _exp(other * _log(self))
        return self._map(self.val**other, other * self.val ** (other - 1.0))

    def __rpow__(self, other: Any) -> Dual:
        log = np.log(other)
        val = np.exp(self.val * log)
        return self._map(val, val * log)

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **options: Any) -> Any:
        rule = _RULES.get(ufunc)
        if method != "__call__" or options or rule is None:
            return NotImplemented
        return rule(*inputs)

    def __array_function__(self, func: Any, types: Any, args: Any, kwargs: Any) -> Any:
        if func is np.sum and isinstance(args[0], Dual):
            return args[0].sum(*args[1:], **kwargs)
        return NotImplemented


def _exp(a: Dual) -> Dual:
    val = np.exp(a.val)
    return a._map(val, val)


def _log(a: Dual) -> Dual:
    return a._map(np.log(a.val), 1.0 / a.val)


def _sqrt(a: Dual) -> Dual:
    val = np.sqrt(a.val)
    return a._map(val, 0.5 / val)


def _tanh(a: Dual) -> Dual:
    val = np.tanh(a.val)
    return a._map(val, 1.0 - val * val)


def _swap(rule: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    def apply(a: Any, b: Any) -> Any:
        return rule(a, b) if isinstance(a, Dual) else getattr(b, _REFLECTED[rule])(a)

    return apply


def _logaddexp(a: Any, b: Any) -> Dual:
    val = np.logaddexp(plain(a), plain(b))
    return _weigh(a, b, val, np.exp(plain(a) - val), np.exp(plain(b) - val))


def _maximum(a: Any, b: Any) -> Dual:
    first = plain(a) >= plain(b)
    return _weigh(a, b, np.maximum(plain(a), plain(b)), first, ~first)


def _minimum(a: Any, b: Any) -> Dual:
    first = plain(a) <= plain(b)
    return _weigh(a, b, np.minimum(plain(a), plain(b)), first, ~first)


def _weigh(a: Any, b: Any, val: Array, by_a: Any, by_b: Any) -> Dual:
    der: dict[int, Any] = {}
    for value, slope in ((a, by_a), (b, by_b)):
        if isinstance(value, Dual):
            for k, d in value.der.items():
                der[k] = der[k] + d * slope if k in der else d * slope
    return Dual(val, der)


_REFLECTED: dict[Any, str] = {
    Dual.__add__: "__radd__",
    Dual.__sub__: "__rsub__",
    Dual.__mul__: "__rmul__",
    Dual.__truediv__: "__rtruediv__",
    Dual.__pow__: "__rpow__",
}

_RULES: dict[Any, Callable[..., Any]] = {
    np.add: _swap(Dual.__add__),
    np.subtract: _swap(Dual.__sub__),
    np.multiply: _swap(Dual.__mul__),
    np.true_divide: _swap(Dual.__truediv__),
    np.power: _swap(Dual.__pow__),
    np.negative: lambda a: -a,
    np.square: lambda a: a * a,
    np.exp: _exp,
    np.log: _log,
    np.log1p: lambda a: a._map(np.log1p(a.val), 1.0 / (1.0 + a.val)),
    np.expm1: lambda a: a._map(np.expm1(a.val), np.exp(a.val)),
    np.sqrt: _sqrt,
    np.tanh: _tanh,
    np.absolute: lambda a: a._map(np.abs(a.val), np.sign(a.val)),
    np.logaddexp: _logaddexp,
    np.maximum: _maximum,
    np.minimum: _minimum,
}
