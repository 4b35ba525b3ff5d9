"""The one definition of a finished run, of its final loss, and of replicates."""

import numpy as np
import pytest

from lightning_scaling import Run
from lightning_scaling.runs.curve import Curve
from lightning_scaling.runs.final_loss import final_loss, is_finished
from lightning_scaling.runs.replicates import replicate_matrix, same_schedule, same_size
from lightning_scaling.schedule.plan import Plan


def run(seed=0, *, params=1000, total=1000, peak=1e-3, end=0.1):
    step = np.arange(10, total + 1, 10)
    loss = 2 + step**-0.5 + 0.01 * np.random.default_rng(seed).standard_normal(step.size)
    lr = peak * np.interp(step / total, [0, 0.1, 1], [0, 1, end])
    return Run(step, loss, lr, total_steps=total, params=params)


def test_the_mean_of_the_last_percent_or_of_two_where_points_are_few():
    every = np.arange(1, 1001)
    assert final_loss(every, every, 1000) == np.mean(np.arange(991, 1001))
    tenth = np.arange(10, 1001, 10)
    assert final_loss(tenth, tenth, 1000) == 995
    assert final_loss([500, 1000], [3.0, 2.0], 1000) == 2.0


def test_a_run_that_ended_early_has_no_final_loss():
    every = np.arange(1, 981)
    assert final_loss(every, every, 1000) == 980
    assert final_loss(every[:-1], every[:-1], 1000) is None
    assert not is_finished(5, None)


def test_losses_that_are_not_finite_are_no_end():
    every = np.arange(1.0, 1001)
    assert final_loss(every, np.where(every > 900, np.inf, 2.0), 1000) is None
    assert final_loss(every, np.where(every == 995, np.nan, 2.0), 1000) == 2.0


def test_bins_count_by_their_losses():
    curve = Curve(Plan.constant(total_steps=20_000))
    step = np.arange(1, 20_001)
    loss = 2 + step**-0.5
    curve.add(step, loss)
    assert curve.points.final_loss(20_000) == pytest.approx(loss[-200:].mean(), rel=1e-5)
    assert final_loss([1, 2, 3], [1.0, 2.0, 4.0], 3, count=[1, 1, 5], reached=3) == 4.0
    assert curve.points.final_loss(10_000) == pytest.approx(loss[9_899:10_100].mean(), rel=1e-4)


def test_a_run_knows_its_end():
    whole = run()
    assert whole.finished
    assert whole.reached == 1000
    assert whole.final_loss == pytest.approx(whole.loss[-2:].mean())


def are_replicates(one, other):
    return bool(replicate_matrix([one.plan, other.plan], [one.params, other.params])[0, 1])


def test_replicates_share_size_length_and_schedule():
    assert are_replicates(run(0), run(1))
    assert are_replicates(run(0), run(1, params=1040))
    assert are_replicates(run(0), run(1, peak=2e-3))
    assert not are_replicates(run(0), run(1, params=1100))
    assert not are_replicates(run(0), run(1, total=1200))
    assert not are_replicates(run(0), run(1, end=1.0))
    assert not same_schedule(run().plan, run(end=0.0).plan)


def test_what_neither_run_knows_is_shared():
    one, other = run(params=None), run(params=None)
    assert are_replicates(one, other)
    assert not are_replicates(one, run(1))
    plans = [one.plan, other.plan, Plan.constant(total_steps=1000, known=False)]
    assert replicate_matrix(plans, [None] * 3).tolist() == [
        [True, True, False],
        [True, True, False],
        [False, False, True],
    ]
    assert not same_size(None, 3)
    assert not same_size(3, 0)
    assert replicate_matrix([], []).shape == (0, 0)
