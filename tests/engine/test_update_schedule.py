from __future__ import annotations

import math

import numpy as np
import pytest

from lightning_scaling.engine.update_schedule import count_until_update, next_update_after
from lightning_scaling.schedule import Plan


@pytest.mark.parametrize(
    ("total", "step", "due"),
    [(10_000, 0, 100), (10_000, 99, 100), (10_000, 100, 200), (10_000, 9_999, 10_000), (50, 0, 4), (None, 1000, 1050)],
)
def test_updates_fall_due_at_fixed_steps(total, step, due):
    assert next_update_after(Plan.constant(total_steps=total), step) == due


def test_a_run_beyond_its_plan_goes_on_as_one_without_an_end():
    assert next_update_after(Plan.constant(total_steps=1000), 1000) == next_update_after(Plan.constant(), 1000)


@pytest.mark.parametrize(
    ("bad", "value", "tail", "expected"),
    [
        ([], 1.0, 0, 11),
        ([4], 99.0, 0, 5),
        ([4], math.inf, 0, 11),
        (range(20), math.nan, 0, 11),
        (range(20), math.nan, 12, 8),
    ],
)
def test_losses_that_cannot_wait_end_the_part(bad, value, tail, expected):
    losses = np.ones(20)
    losses[list(bad)] = value
    assert count_until_update(np.arange(20.0), losses, 10, 50.0, tail, 20) == expected
