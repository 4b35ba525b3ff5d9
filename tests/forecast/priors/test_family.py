from __future__ import annotations

import math
import pickle

import numpy as np
import pytest

from lightning_scaling.forecast import PUBLISHED, Family, Forecaster, family_prior
from lightning_scaling.runs.curve import Curve
from lightning_scaling.runs.history import RunHistory
from lightning_scaling.runs.run import Run
from lightning_scaling.schedule import Plan


def fitted(run, fraction, prior=PUBLISHED):
    curve = Curve(run.plan)
    part = run.step <= fraction * run.total_steps
    curve.add(run.step[part], run.loss[part])
    return Forecaster(run.plan, prior).fit(curve.points, int(fraction * run.total_steps))


@pytest.fixture
def past_runs(make_run):
    """Histories of six runs of three lengths, without and with decay at the end."""

    def make(kappa, kinds=("cosine", "wsd"), **known):
        return RunHistory(
            make_run(kind, total=total, kappa=kappa, seed=seed, params=10_000_000, **known)
            for seed, (kind, total) in enumerate((k, t) for t in (2000, 3000, 6000) for k in kinds)
        )

    return make


@pytest.mark.parametrize("kappa", [0.6, 0.9, 1.3, 1.9, 2.6])
def test_planted_annealing_is_recovered_within_its_interval(past_runs, make_run, kappa):
    family = family_prior(past_runs(kappa), 10_000_000)
    shape = family.for_plan(make_run("cosine").plan).shape
    assert shape.source == "6 finished runs of the family"
    assert abs(math.log(shape.kappa / kappa)) <= 1.645 * shape.kappa_spread
    assert shape.kappa_spread < PUBLISHED.kappa_spread


def test_past_runs_that_never_decayed_say_nothing_of_the_gain(make_run):
    history = RunHistory(make_run("constant", total=t, seed=t, params=10_000_000) for t in range(2000, 8000, 1000))
    shape = family_prior(history, 10_000_000).for_plan(make_run("wsd").plan).shape
    assert shape.kappa_spread > 0.9 * PUBLISHED.kappa_spread
    run = make_run("wsd", params=10_000_000, kappa=2.0)
    forecast = fitted(run, 0.5, family_prior(history, 10_000_000))
    low, high = forecast.interval()
    assert forecast.trust == "low"
    assert "hardly begun to fall" in forecast.why
    assert low < run.loss[-5:].mean() < high


def test_a_family_predicts_the_gain_of_the_decay(past_runs, make_run):
    run = make_run("wsd", kappa=2.4, seed=9, params=10_000_000)
    end = run.loss[-5:].mean()
    alone, informed = fitted(run, 0.5), fitted(run, 0.5, family_prior(past_runs(2.4), 10_000_000))
    assert abs(informed.final - end) < 0.5 * abs(alone.final - end)
    assert np.diff(informed.interval())[0] < np.diff(alone.interval())[0]
    low, high = informed.interval()
    assert low <= end <= high


def test_before_any_decay_and_without_history_the_interval_admits_no_gain_and_full_gain(make_run):
    run = make_run("wsd", kappa=1.2)
    low, high = fitted(run, 0.5).interval()
    for gain in (0.0, 1.2):
        assert low <= make_run("wsd", kappa=gain, noise=0.0).loss[-1] <= high


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("fraction", [0.2, 0.5, 0.75])
def test_a_decay_that_gains_nothing_or_twice_the_usual_is_inside_the_interval(make_run, fraction, seed):
    low, high = fitted(make_run("wsd", kappa=1.0, seed=seed), fraction).interval()
    for gain in (0.0, 2 * PUBLISHED.kappa):
        assert low <= make_run("wsd", kappa=gain, noise=0.0).loss[-1] <= high


def test_past_runs_predict_the_end_before_the_first_step(past_runs, make_run):
    run = make_run("wsd", kappa=1.2, seed=9, params=10_000_000)
    forecaster = Forecaster(run.plan, family_prior(past_runs(1.2), 10_000_000))
    before, later = forecaster.before(), fitted(run, 0.75, family_prior(past_runs(1.2), 10_000_000))
    end = run.loss[-5:].mean()
    low, high = before.interval()
    assert before.trust == "low"
    assert "no losses yet; it rests on 6 finished runs of the family" in before.why
    assert low <= end <= high
    assert before.final == pytest.approx(end, rel=0.02)
    assert np.diff(later.interval())[0] < high - low
    medians, scales = before.curve([200, 2000, 4000])
    assert np.all(np.diff(medians) < 0)
    assert scales[0] > scales[-1]


def test_in_a_conflict_of_run_and_family_the_run_prevails(past_runs, make_run):
    run = make_run("cosine", floor=3.5, seed=9, params=10_000_000)
    forecast = fitted(run, 0.75, family_prior(past_runs(1.2, ("cosine",)), 10_000_000))
    assert forecast.final == pytest.approx(run.loss[-5:].mean(), rel=0.01)


def test_the_path_begins_at_the_present_and_ends_at_the_final_loss(past_runs, make_run):
    run = make_run("wsd", kappa=2.4, params=10_000_000)
    forecast = fitted(run, 0.5, family_prior(past_runs(2.4), 10_000_000))
    forecast = pickle.loads(pickle.dumps(forecast))
    medians, scales = forecast.curve(np.linspace(2000, 4000, 50))
    assert medians[0] == pytest.approx(fitted(run, 0.5).at(2000), rel=2e-3)
    assert medians[-1] == pytest.approx(forecast.final)
    assert np.all(np.diff(medians) < 1e-9)
    assert np.all(scales > 0)


def test_unfinished_past_runs_count_and_are_counted(past_runs, make_run):
    half = make_run("cosine", total=5000, params=10_000_000, seed=20)
    part = half.step <= 2500
    begun = Run(
        half.step[part], half.loss[part], half.lr[part], total_steps=5000, planned_lr=half.planned_lr, params=10_000_000
    )
    family = family_prior(RunHistory([*past_runs(1.2), begun]), 10_000_000)
    assert family.source == "6 finished and 1 unfinished runs of the family"


def test_past_runs_without_rates_or_sizes_inform_the_final_loss_alone(make_run):
    runs = [make_run("cosine", total=t, seed=s) for s, t in enumerate((2000, 3000, 6000))]
    blind = RunHistory(Run(r.step, r.loss, total_steps=r.total_steps) for r in runs)
    family = family_prior(blind)
    assert isinstance(family, Family)
    run_prior = family.for_plan(make_run("cosine").plan)
    assert run_prior.shape == PUBLISHED.for_plan(make_run("cosine").plan).shape
    assert run_prior.log_final_loss is not None
    assert run_prior.correction is None


def test_a_plan_without_an_end_takes_only_the_shape(past_runs, make_run):
    run_prior = family_prior(past_runs(1.2), 10_000_000).for_plan(Plan.constant(1e-3))
    assert run_prior.log_final_loss is None
    assert run_prior.shape.source == "6 finished runs of the family"
