"""The estimate of the gradient-noise scale, on gradients whose mean and covariance are known."""

import json

import numpy as np
import pytest

from lightning_scaling.callbacks.gradient_noise import NoiseScale

DIMENSIONS = 50


def norms(rng, count, parts, trace, signal=1.0):
    """Squared norms of the gradients of one micro-batch and of the mean of ``parts``, ``count`` times."""
    mean = np.full(DIMENSIONS, np.sqrt(signal / DIMENSIONS))
    each = mean + np.sqrt(trace / DIMENSIONS) * rng.standard_normal((count, parts, DIMENSIONS))
    return (each[:, 0] ** 2).sum(1), (each.mean(1) ** 2).sum(1)


def estimated(rng, count, parts, trace, size=1.0, signal=1.0):
    noise = NoiseScale()
    for small, big in zip(*norms(rng, count, parts, trace, signal), strict=True):
        noise.add(float(small), float(big), parts, size)
    return noise.estimate()


@pytest.mark.parametrize(("parts", "trace"), [(2, 0.5), (2, 4.0), (8, 0.3), (16, 30.0)])
def test_the_interval_holds_the_noise_scale_as_often_as_it_says(parts, trace):
    rng = np.random.default_rng(0)
    found = [estimated(rng, 60, parts, trace, size=32.0) for _ in range(300)]
    covered = [one.low <= trace * 32 and (one.high is None or trace * 32 <= one.high) for one in found]
    assert 0.91 <= np.mean(covered) <= 0.99
    ends = [one.scale for one in found if one.scale is not None]
    assert np.median(ends) == pytest.approx(trace * 32, rel=0.05)


def test_both_parts_are_unbiased():
    rng = np.random.default_rng(1)
    small, big = norms(rng, 20_000, 4, 6.0)
    assert ((4 * big - small) / 3).mean() == pytest.approx(1.0, abs=0.05)
    assert ((small - big) / (1 - 1 / 4)).mean() == pytest.approx(6.0, rel=0.01)


def test_nothing_is_said_while_it_is_vague():
    rng = np.random.default_rng(2)
    assert NoiseScale().estimate() is None
    assert estimated(rng, 7, 4, 2.0) is None
    assert not estimated(rng, 10, 2, 30.0).clear
    assert estimated(rng, 200, 8, 2.0).clear


def test_noise_that_drowns_the_gradient_leaves_a_lower_bound():
    found = estimated(np.random.default_rng(3), 200, 2, 5.0, signal=0.0)
    assert found.scale is found.high is None
    assert found.low > 20
    assert not found.clear


def test_ranks_that_see_the_same_data_show_no_noise():
    noise = NoiseScale()
    for step in range(100):
        noise.add(1.0 + step, 1.0 + step, 2, 16)
    assert noise.estimate() is None


def test_what_is_old_is_forgotten():
    rng = np.random.default_rng(4)
    noise = NoiseScale()
    for trace in (1.0, 10.0):
        for small, big in zip(*norms(rng, 300, 8, trace), strict=True):
            noise.add(float(small), float(big), 8, 1.0)
    found = noise.estimate()
    assert 5 < found.scale < 10.5


def test_it_goes_on_from_its_state():
    rng = np.random.default_rng(5)
    whole, half = NoiseScale(), NoiseScale()
    pairs = list(zip(*norms(rng, 60, 4, 2.0), strict=True))
    for small, big in pairs:
        whole.add(float(small), float(big), 4, 8.0)
    for small, big in pairs[:30]:
        half.add(float(small), float(big), 4, 8.0)
    again = NoiseScale()
    again.load_state_dict(json.loads(json.dumps(half.state_dict())))
    for small, big in pairs[30:]:
        again.add(float(small), float(big), 4, 8.0)
    assert again.estimate() == whole.estimate()
    assert len(json.dumps(whole.state_dict())) < 1000


def test_numbers_that_are_not_finite_are_left_out():
    noise = NoiseScale()
    noise.add(float("nan"), 1.0, 4, 8.0)
    noise.add(1.0, float("inf"), 4, 8.0)
    assert noise.count == 0
