"""Numbers as text for people."""

from __future__ import annotations

import math

import pytest

from lightning_scaling._utils.formatting import count, percent, plural, significant


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (12, "12"),
        (0.5, "0.5"),
        (999, "999"),
        (1000, "1k"),
        (999_499, "999k"),
        (999_500, "1M"),
        (2.83e9, "2.83B"),
        (-2.83e9, "-2.83B"),
        (1.5e12, "1.5T"),
        (1e15, "1e15"),
        (6.5e21, "6.5e21"),
        (2e-5, "2e-5"),
        (math.inf, "inf"),
        (math.nan, "nan"),
    ],
)
def test_counts_have_a_prefix(value, text):
    assert count(value) == text


def test_counts_with_other_digits_and_powers():
    assert count(1.2345e9, digits=2) == "1.2B"
    assert count(6.5e21, power=" x 10^{}") == "6.5 x 10^21"


def test_significant_digits_are_kept():
    assert significant(2) == "2.000"
    assert significant(3.14159, 3) == "3.14"
    assert significant(1234.4) == "1234"
    assert significant(-0.5) == "-0.5000"


def test_percentages():
    assert percent(0.0123) == "1.2%"
    assert percent(-0.0123, 2, signed=True) == "-1.23%"
    assert percent(math.nan) == ""


def test_nouns():
    assert [plural(number, "step") for number in (0, 1, 2, 12_000)] == ["0 steps", "1 step", "2 steps", "12,000 steps"]
