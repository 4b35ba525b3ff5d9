"""Checks of arguments."""

from __future__ import annotations

import math

import numpy as np
import pytest

from lightning_scaling._utils.validation import is_count, is_number, one_of, positive, probability


@pytest.mark.parametrize("value", [1, 2.5, np.float32(1.5), np.int64(3), np.array(2.0)])
def test_positive_numbers_become_floats(value):
    assert type(positive("flops", value)) is float
    assert positive("flops", value) == float(value)


@pytest.mark.parametrize("value", [0, -1, math.nan, math.inf, True, "3", b"3", None, [1], np.array([1.0])])
def test_what_is_not_positive_is_refused_by_name(value):
    with pytest.raises(ValueError, match="`flops` must be a positive finite number"):
        positive("flops", value)


def test_zero_can_be_allowed():
    assert positive("inference_tokens", 0, zero=True) == 0.0
    with pytest.raises(ValueError, match="not negative, counted in units of one, but got -1"):
        positive("inference_tokens", -1, zero=True)


def test_probabilities():
    assert probability("level", 0.9) == 0.9
    for value in (0, 1, -0.5, 1.5, math.nan, True, "0.5", None):
        with pytest.raises(ValueError, match="`level` must lie strictly between 0 and 1, but got"):
            probability("level", value)


def test_choices():
    assert one_of("shape", "cosine", ("linear", "cosine")) == "cosine"
    with pytest.raises(ValueError, match="`shape` must be one of 'linear', 'cosine', but got 'square'"):
        one_of("shape", "square", ("linear", "cosine"))


def test_numbers_and_counts():
    assert [is_number(value) for value in (1, -0.5, np.float64(2))] == [True] * 3
    assert [is_number(value) for value in (True, math.nan, math.inf, "1", None)] == [False] * 5
    assert [is_count(value) for value in (1, 10**9)] == [True] * 2
    assert [is_count(value) for value in (0, -1, 1.0, True, "1", None)] == [False] * 6
