"""The two plain parts of a simulated plan: when schedulers tick, and how few knots hold a schedule."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_scaling.schedule.clock import EpochGrid, ticks
from lightning_scaling.schedule.knots import compress, thin


def walked(batches, factors, interval, frequency, epochs):
    """Lightning's loop, batch by batch: steps after which the scheduler is stepped; epoch and batch of every step."""
    step, found, places = 0, [], []
    for epoch in range(epochs):
        factor = [f for first, f in factors if first <= epoch][-1]
        for batch in range(1, batches + 1):
            if batch % factor == 0 or batch == batches:
                step += 1
                places.append((epoch, batch))
                if interval == "step" and batch % frequency == 0:
                    found.append(step)
            if batch == batches and interval == "epoch" and (epoch + 1) % frequency == 0:
                found.append(step)
    return found, places


@settings(max_examples=200, deadline=None, derandomize=True)
@given(
    st.integers(1, 13),
    st.tuples(st.integers(1, 5), st.lists(st.tuples(st.integers(1, 4), st.integers(1, 5)), max_size=2)),
    st.sampled_from(["step", "epoch"]),
    st.integers(1, 4),
    st.data(),
)
def test_ticks_fall_where_the_loop_puts_them(batches, accumulation, interval, frequency, data):
    factor, later = accumulation
    factors, first = [(0, factor)], 0
    for gap, other in later:
        first += gap
        factors.append((first, other))
    found, places = walked(batches, factors, interval, frequency, 12)
    grid = EpochGrid(batches, tuple(factors))
    assert ticks(interval, frequency, grid, 1, len(places) + 1).tolist() == found

    made = data.draw(st.integers(0, len(places) - 1))
    epoch, batch = places[made - 1] if made else (0, 0)
    now = EpochGrid(batches, tuple(factors), made, epoch, batch)
    assert now.regular
    assert ticks(interval, frequency, now, made + 1, len(places) + 1).tolist() == [s for s in found if s > made]
    steps = np.arange(made + 1, len(places) + 1)
    assert list(zip(*(part.tolist() for part in now.place(steps)), strict=True)) == places[made:]


def test_an_anchor_off_the_regular_course_says_so():
    assert not EpochGrid(10, step=7, epoch=1, batch=2).regular
    assert not EpochGrid(None, step=7, epoch=1, batch=2).regular


@pytest.mark.parametrize("shape", [lambda t: 1 - t, lambda t: 0.5 + 0.5 * np.cos(np.pi * t), lambda t: np.exp(-5 * t)])
def test_a_smooth_schedule_takes_few_knots(shape):
    x = np.arange(1.0, 50_001.0)
    y = shape(x / x[-1])
    knots, values, note = compress(x, y)
    assert note == ""
    assert len(knots) <= 256
    assert np.abs(np.interp(x, knots, values) - y).max() < 1e-4


def test_a_short_schedule_is_kept_whole():
    x = np.arange(1.0, 201.0)
    y = np.sin(x) ** 2
    knots, values, _ = compress(x, y)
    np.testing.assert_allclose(np.interp(x, knots, values), y, atol=1e-8)


def test_jumps_keep_both_ends():
    x = np.arange(1.0, 10_001.0)
    y = np.where(x < 3000, 1.0, np.where(x < 7001, 0.5, 0.25))
    knots, values, _ = compress(x, y)
    assert knots.tolist() == [1, 2999, 3000, 7000, 7001, 10000]
    assert values.tolist() == [1, 1, 0.5, 0.5, 0.25, 0.25]


def test_a_rate_that_swings_often_is_followed_less_closely():
    x = np.arange(1.0, 3001.0)
    y = 0.5 + 0.4 * np.cos(x / 7)
    knots, values, note = compress(x, y)
    assert len(knots) <= 1000
    assert np.abs(np.interp(x, knots, values) - y).max() < 0.02
    assert "so often that the plan is within" in note


def test_noise_becomes_its_mean():
    x = np.arange(1.0, 300_001.0)
    y = np.tile([0.2, 1.0], 150_000)
    knots, values, note = compress(x, y, max_knots=300)
    assert len(knots) <= 300
    assert "follows it up to step 200, then its mean" in note
    early = x <= 200
    np.testing.assert_allclose(np.interp(x[early], knots, values), y[early])
    assert np.interp(x[~early], knots, values).mean() == pytest.approx(0.6, rel=0.01)


def test_constant_and_single_points():
    assert compress(np.array([5.0]), np.array([0.1]))[0].tolist() == [5.0]
    knots, values, note = compress(np.arange(1.0, 1001.0), np.zeros(1000))
    assert (knots.tolist(), values.tolist(), note) == ([1, 1000], [0, 0], "")


def test_thinning_keeps_what_bends():
    x = np.arange(0.0, 10_000.0)
    y = np.where(x < 5000, x, 5000.0)
    fewer, values = thin(x, y, 1e-9)
    assert len(fewer) < 700
    np.testing.assert_allclose(np.interp(x, fewer, values), y)
