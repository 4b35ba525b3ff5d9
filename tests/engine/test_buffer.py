from __future__ import annotations

import numpy as np

from lightning_scaling.engine.buffer import LossBuffer


def test_the_mean_of_a_million_losses_is_kept_in_few_chunks_however_they_are_cut():
    losses = np.random.default_rng(1).normal(2, 0.5, 100_000)
    steps = np.arange(1.0, 100_001)
    whole, parts = LossBuffer(), LossBuffer()
    whole.add(steps, losses)
    for start in range(0, 100_000, 777):
        parts.add(steps[start : start + 777], losses[start : start + 777])
    np.testing.assert_allclose(whole.means, parts.means)
    assert whole.means[1].size <= 4096
    assert len(whole) == 100_000


def test_a_buffer_restored_goes_on_as_the_one_that_was_saved():
    pending, again = LossBuffer(), LossBuffer()
    pending.add(np.arange(1.0, 10_001), np.arange(10_000.0))
    again.load_state_dict(pending.state_dict())
    for one in (pending, again):
        one.add(np.array([10_001.0]), np.array([10_000.0]))
    np.testing.assert_array_equal(again.means, pending.means)
    assert len(again) == 10_001


def test_what_is_not_finite_is_only_counted():
    pending = LossBuffer()
    pending.add(np.array([1.0, 2.0]), np.array([np.nan, 3.0]))
    assert pending.nonfinite == 1
    assert pending.means[1].tolist() == [3.0]
