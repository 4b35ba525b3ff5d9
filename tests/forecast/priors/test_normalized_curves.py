"""Runs under one schedule as the measure of each other's curves."""

from __future__ import annotations

import numpy as np
import pytest

from lightning_scaling import Run, RunHistory, replay
from lightning_scaling.forecast.law_grid import before
from lightning_scaling.forecast.priors.features import RunFeatures
from lightning_scaling.forecast.priors.normalized_curves import NormalizedCurves
from lightning_scaling.forecast.priors.past_run import PastRun
from lightning_scaling.runs.curve import Curve

NOW, TOTAL = 1600, 4000


def curve_of(run):
    curve = Curve(run.plan)
    curve.add(run.step, run.loss)
    return curve.points


def curves_for(runs, run):
    features = RunFeatures.of(run.plan, run.params, run.tokens_per_step)
    return NormalizedCurves.among([PastRun(other) for other in runs], run.plan, features)


LENGTHS = (1500, 2000, 3000, 3500, 5000, 6000)


@pytest.fixture
def family(make_run):
    """Runs of one shape and of many lengths and levels."""
    return [
        make_run(total=total, floor=2.7 - 0.07 * i, drop=0.5 - 0.03 * i, seed=i, params=(i + 1) * 10**7)
        for i, total in enumerate(LENGTHS)
    ]


def test_normalized_curves_predict_how_a_run_goes_on(make_run, family):
    errors = []
    for seed in range(8):
        new = make_run(total=TOTAL, floor=2.43, drop=0.39, seed=50 + seed, params=45 * 10**6)
        path = curves_for(family, new).path(before(curve_of(new), NOW), NOW, TOTAL)
        for ahead in (100, 400, 1000):
            seen = (new.step > NOW + ahead - 100) & (new.step <= NOW + ahead)
            median, scale = path(np.array([NOW + ahead - 45.0]))
            errors.append((new.loss[seen].mean() - median[0]) / np.hypot(scale[0], 0.001))
            assert scale[0] < 0.01 * median[0]
    assert np.abs(errors).max() < 3.5


def test_runs_under_another_schedule_unfinished_or_too_few_are_no_measure(make_run, family):
    new = make_run(total=TOTAL, seed=50, params=45 * 10**6)
    assert curves_for(family, new).count == 6
    assert curves_for(family[:3], new) is None
    assert curves_for(family, make_run("wsd", total=TOTAL, seed=50)) is None
    halves = [
        Run(r.step[: r.step.size // 2], r.loss[: r.step.size // 2], total_steps=r.total_steps, planned_lr=r.planned_lr)
        for r in family[3:]
    ]
    assert curves_for(family[:3] + halves, new) is None


def test_nothing_is_predicted_at_the_start_after_a_gap_or_below_the_floor(make_run, family):
    new = make_run(total=TOTAL, floor=2.43, drop=0.39, seed=50, params=45 * 10**6)
    curves = curves_for(family, new)
    points = curve_of(new)
    assert curves.path(before(points, 300), 300, TOTAL) is None
    assert curves.path(before(points, 600), 600, TOTAL) is not None
    assert curves.floor > 0
    assert curves.path(before(points, 600), 2000, TOTAL) is None
    low = make_run(total=TOTAL, floor=-1.0, drop=0.39, seed=50, params=45 * 10**6)
    assert curves.path(before(curve_of(low), NOW), NOW, TOTAL) is None


def test_where_the_curves_have_not_coincided_little_is_made_of_it(make_run, family):
    alike = make_run(total=TOTAL, floor=2.43, drop=0.39, seed=50, params=45 * 10**6)
    other = make_run(total=TOTAL, floor=1.2, drop=1.2, alpha=0.8, seed=50, params=45 * 10**6)
    one, two = (curves_for(family, run).path(before(curve_of(run), NOW), NOW, TOTAL) for run in (alike, other))
    assert one.divergence_ratio < 1.2
    assert two.divergence_ratio > 3 * one.divergence_ratio


def with_drift(run, begins, per_part):
    """The loss drifts up by a share of itself per 5 % of the run from a part of it on."""
    at = run.step / run.total_steps
    loss = run.loss * (1 + per_part * np.maximum(at - begins, 0) / 0.05)
    return Run(run.step, loss, run.lr, total_steps=run.total_steps, planned_lr=run.planned_lr, params=run.params)


@pytest.fixture
def late(make_run):
    """A family whose warm-up takes a third of the run, so that no law of its own holds before two fifths."""
    return [
        make_run(total=total, floor=2.7 - 0.07 * i, drop=0.3, noise=0.002, seed=i, params=(i + 1) * 10**7, warmup=0.33)
        for i, total in enumerate(LENGTHS)
    ]


def test_past_runs_show_trouble_where_the_law_of_the_run_is_still_vague(make_run, late):
    new = make_run(total=TOTAL, floor=2.43, drop=0.3, noise=0.002, seed=50, params=45 * 10**6, warmup=0.33)
    broken = with_drift(new, 0.38, 0.01)
    informed = replay(broken, history=RunHistory(late))
    alone = replay(broken)
    first = next(update for update in informed if update.deviation.alarm)
    assert first.fraction < 0.45
    assert first.deviation.basis == "past_runs"
    assert "from how past runs under this schedule went on" in first.advice.reason
    assert not any(update.deviation.alarm for update in alone if update.fraction < 0.48)
    assert not any(update.deviation.alarm for update in replay(new, history=RunHistory(late)))


def test_a_spike_that_recovers_is_not_taken_for_the_level_of_the_run(make_run, family):
    new = make_run(total=TOTAL, floor=2.43, drop=0.39, seed=50, params=45 * 10**6, every=20)
    loss = new.loss.copy()
    loss[np.searchsorted(new.step, 0.4 * TOTAL)] *= 1.5
    spiked = Run(new.step, loss, new.lr, total_steps=TOTAL, planned_lr=new.planned_lr, params=new.params)
    assert not any(update.deviation.alarm for update in replay(spiked, history=RunHistory(family)))
