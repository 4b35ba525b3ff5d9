"""Derivatives carried along are those of the function."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightning_scaling.laws.solvers.dual import Dual, plain

X = np.linspace(0.5, 3, 6)
positive = st.floats(0.2, 3.0)

FUNCTIONS = {
    "sum": lambda a, b: a + b + X - 2.0 - a,
    "reflected": lambda a, b: 3.0 - a + (1.0 - b) / 2.0,
    "product": lambda a, b: a * X * b * a,
    "quotient": lambda a, b: X / a + a / b + b / X,
    "power of data": lambda a, b: X**-a * b,
    "power of parameter": lambda a, b: a**2 + b**X,
    "power of both": lambda a, b: (a * X) ** (b / a),
    "number to a power": lambda a, b: 2.0**a + 0.5**b,
    "exponentials": lambda a, b: np.exp(-a * X) + np.expm1(b * X / 3) + np.exp(np.float64(0.3) * a),
    "logarithms": lambda a, b: np.log(a * X) + np.log1p(b * X),
    "roots": lambda a, b: np.sqrt(a + X) + np.tanh(b * X) + np.abs(a - 10.0) + np.square(b),
    "log of sums": lambda a, b: np.logaddexp(a * X, -b) + np.logaddexp(X, b) + np.logaddexp(a, X),
    "larger and smaller": lambda a, b: np.maximum(a * X, b) + np.minimum(a, b * X) + np.maximum(X, a),
    "numpy calls": lambda a, b: np.add(X, a) + np.subtract(X, b) - np.multiply(X, a) + np.divide(X, b) + np.negative(a),
    "over an axis": lambda a, b: np.sum(a[..., None] * np.exp(-b[..., None] * X[:, None] * X), axis=-1),
}


@pytest.mark.parametrize("name", FUNCTIONS)
@given(a=positive, b=positive)
def test_derivatives_agree_with_differences(name, a, b):
    f = FUNCTIONS[name]
    if (
        name == "larger and smaller"
        and min(np.min(np.abs(a * X - b)), np.min(np.abs(b * X - a)), np.min(np.abs(X - a))) < 1e-4
    ):
        return
    a_, b_ = np.array([[a]]), np.array([[b]])
    out = f(Dual(a_, {0: np.ones((1, 1))}), Dual(b_, {1: np.ones((1, 1))}))
    value = f(a_, b_)
    np.testing.assert_allclose(plain(out), value, rtol=1e-12, atol=1e-14)
    h = 1e-6
    slopes = {0: (f(a_ + h, b_) - f(a_ - h, b_)) / (2 * h), 1: (f(a_, b_ + h) - f(a_, b_ - h)) / (2 * h)}
    for k, slope in slopes.items():
        found = np.broadcast_to(out.der.get(k, 0.0), np.shape(value))
        np.testing.assert_allclose(found, slope, rtol=1e-5, atol=1e-5 * (1 + np.max(np.abs(value))))


def test_what_it_cannot_differentiate_it_refuses():
    a = Dual(np.array([[1.0]]), {0: np.ones((1, 1))})
    with pytest.raises(TypeError):
        np.sin(a)
    with pytest.raises(TypeError):
        np.mean(a)
