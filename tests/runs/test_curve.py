from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_scaling.runs.curve import Curve, bin_edges
from lightning_scaling.schedule import Plan

COSINE = Plan(np.arange(1, 1001), 0.5 * (1 + np.cos(np.pi * np.arange(1000) / 1000)), total_steps=1000)


def feed(curve, steps, losses, cuts):
    for start, end in zip([0, *cuts], [*cuts, len(steps)], strict=True):
        curve.add(steps[start:end], losses[start:end], lr=steps[start:end] * 1e-3, tokens=steps[start:end] * 7)
    return curve


@settings(max_examples=40, deadline=None)
@given(cuts=st.lists(st.integers(1, 899), max_size=8, unique=True).map(sorted))
def test_the_curve_does_not_depend_on_how_it_is_cut(cuts):
    steps = np.arange(1, 901)
    losses = 3 + steps**-0.4
    whole, parts = feed(Curve(COSINE), steps, losses, []).points, feed(Curve(COSINE), steps, losses, cuts).points
    for name in ("step", "loss", "count", "spread", "lr", "tokens", "last"):
        np.testing.assert_allclose(getattr(parts, name), getattr(whole, name), rtol=1e-9, equal_nan=True)


def test_sums_are_exact_and_nothing_is_lost():
    steps = np.arange(1, 1001)
    losses = np.random.default_rng(0).normal(3, 0.1, 1000)
    points = feed(Curve(COSINE), steps, losses, []).points
    assert points.count.sum() == 1000
    assert (points.loss * points.count).sum() == pytest.approx(losses.sum())
    assert points.tokens[-1] == 7000


def test_losses_that_are_not_finite_are_counted_and_never_averaged():
    curve = Curve(COSINE)
    curve.add([1, 2, 3, 4], [2.0, np.nan, np.inf, 2.0])
    assert curve.nonfinite == 2
    assert curve.nonfinite_tail == 0
    curve.add([5, 6], [np.nan, np.nan])
    curve.add([7], [np.inf])
    assert curve.nonfinite_tail == 3
    assert curve.last_nonfinite_step == 7
    assert np.all(curve.points.loss == 2.0)


def test_ten_million_steps_stay_small():
    plan = Plan([1, 10_000_000], [1.0, 0.0], total_steps=10_000_000)
    assert len(bin_edges(plan)) < 1400
    curve = Curve(plan)
    block = 100_000
    for start in range(0, 10_000_000, block):
        steps = np.arange(start + 1, start + block + 1)
        curve.add(steps, 2 + steps**-0.3)
    assert len(curve) < 1200
    assert len(json.dumps(curve.state_dict())) < 400_000


def test_bins_are_finer_where_the_rate_moves():
    steps = np.arange(1, 100_001)
    wsd = Plan([1, 95_000, 100_000], [1.0, 1.0, 0.0], total_steps=100_000)
    flat = Plan.constant(1.0, total_steps=100_000)

    def bins_in_the_decay(plan):
        curve = Curve(plan)
        curve.add(steps, np.ones(100_000))
        return int((curve.points.step > 95_000).sum())

    assert bins_in_the_decay(wsd) > 3 * bins_in_the_decay(flat)


def test_a_segment_breaks_the_bin():
    curve = Curve(Plan.constant(total_steps=100_000))
    curve.add([50_001], [1.0])
    curve.mark("new data")
    curve.add([50_002], [2.0])
    assert curve.points.loss.tolist() == [1.0, 2.0]
    assert curve.segments == [(50_001, "new data")]


def test_state_round_trip_continues_as_if_uninterrupted():
    steps = np.arange(1, 901)
    losses = 3 + steps**-0.4
    whole = feed(Curve(COSINE), steps, losses, [])
    first = feed(Curve(COSINE), steps[:333], losses[:333], [])
    second = Curve(COSINE)
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    feed(second, steps[333:], losses[333:], [])
    np.testing.assert_allclose(second.points.loss, whole.points.loss)
    np.testing.assert_array_equal(second.recent[0], whole.recent[0])


@pytest.mark.parametrize(
    ("step", "loss", "message"),
    [([3, 2], [1, 1], "increase strictly"), ([1, 2], [1], "one equal length"), ([0, 0], [1, 1], "increase strictly")],
)
def test_bad_points_are_refused(step, loss, message):
    with pytest.raises(ValueError, match=message):
        Curve().add(step, loss)
