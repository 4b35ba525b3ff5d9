from __future__ import annotations

import pickle

import numpy as np
import pytest

from lightning_scaling.forecast import PUBLISHED, Forecast, Forecaster, Prediction, family_prior
from lightning_scaling.runs.curve import Curve
from lightning_scaling.runs.history import RunHistory
from lightning_scaling.runs.run import Run
from lightning_scaling.schedule import Plan
from lightning_scaling.schedule.progress import ANNEAL_RATES, Progress


def fitted(run, fraction):
    curve = Curve(run.plan)
    part = run.step <= fraction * run.total_steps
    curve.add(run.step[part], run.loss[part])
    return Forecaster(run.plan).fit(curve.points, int(fraction * run.total_steps))


def test_a_noiseless_curve_is_followed_to_its_end(make_run):
    run = make_run("cosine", noise=0.0)
    ahead = run.step > 2000
    medians, _ = fitted(run, 0.5).curve(run.step[ahead])
    np.testing.assert_allclose(medians, run.loss[ahead], rtol=0.005)


def test_the_interval_narrows_as_losses_arrive(make_run):
    run = make_run("cosine")
    widths = [np.diff(fitted(run, f).interval(0.9))[0] for f in (0.15, 0.3, 0.6, 0.9)]
    assert widths == sorted(widths, reverse=True)


def test_trust_says_what_is_missing(make_run):
    run = make_run("wsd")
    assert fitted(run, 0.001).trust == "none"
    assert "hardly begun to fall" in fitted(run, 0.5).why
    early = fitted(make_run("constant", noise=0.02), 0.12)
    assert early.trust == "low"
    assert "the 90% interval still reaches" in early.why
    assert fitted(run, 0.95).trust == "ok"
    warming = fitted(make_run("wsd"), 0.019)
    assert warming.trust == "none"
    assert "warm-up" in warming.why


def test_a_level_alone_gives_a_wide_forecast_that_is_not_to_be_used(make_run):
    run = make_run("cosine", total=3000)
    forecast = fitted(run, 0.02)
    low, high = forecast.interval()
    assert forecast.trust == "none"
    assert "points" in forecast.why
    assert low < run.loss[-1] < high
    assert high - low > 5 * np.diff(fitted(run, 0.5).interval())[0]


def test_without_losses_and_past_runs_nothing_is_claimed(make_run):
    forecast = Forecaster(make_run("cosine").plan).before()
    assert forecast.trust == "none"
    assert np.isnan(forecast.final)
    assert forecast.why == "no losses yet"


def test_a_spike_at_the_end_of_the_warm_up_is_no_flat_curve(make_run):
    run = make_run("cosine", total=3000, warmup=0.2)
    loss = run.loss.copy()
    begun = (run.step > 0.2 * 3000) & (run.step <= 0.25 * 3000)
    loss[begun] *= np.linspace(1.0, 1.6, int(begun.sum()))
    spiked = Run(run.step, loss, run.lr, total_steps=run.total_steps, planned_lr=run.planned_lr)
    assert fitted(spiked, 0.25).final < 0.97 * fitted(spiked, 0.25).at(750)


def test_longer_runs_are_believed_to_end_flatter():
    slopes = [PUBLISHED.for_plan(Plan.constant(total_steps=n)).shape.slope for n in (1_000, 13_000, 130_000, 10**12)]
    assert slopes == sorted(slopes, reverse=True)
    assert slopes[1] == PUBLISHED.slope
    assert slopes[-1] > 0


def test_an_isolated_spike_does_not_move_the_forecast(make_run):
    run = make_run("cosine")
    loss = run.loss.copy()
    loss[len(run) // 2 - 1] *= 1.5
    spiked = Run(run.step, loss, run.lr, total_steps=run.total_steps, planned_lr=run.planned_lr)
    assert fitted(spiked, 0.5).final == pytest.approx(fitted(run, 0.5).final, rel=2e-3)


def test_a_forecast_can_be_read_at_any_step_and_pickled(make_run):
    forecast = pickle.loads(pickle.dumps(fitted(make_run("cosine"), 0.5)))
    at = forecast.at(3000)
    assert forecast.final < at < forecast.at(2100)
    assert at.interval(0.5)[0] > at.interval(0.9)[0]
    assert at.quantile(0.5) == pytest.approx(float(at))
    assert at.below(float(at)) == pytest.approx(0.5)
    medians, scales = forecast.curve([2100, 3000])
    assert medians[1] == pytest.approx(float(at))
    assert scales[1] == pytest.approx(at.scale)
    assert pickle.loads(pickle.dumps(at)).interval() == at.interval()


@pytest.mark.parametrize("bad", [0, 1, -0.1])
def test_levels_outside_the_unit_interval_are_refused(bad):
    with pytest.raises(ValueError, match="strictly between 0 and 1"):
        Prediction(1.0, 0.1, 4).interval(bad)
    with pytest.raises(ValueError, match="strictly between 0 and 1"):
        Prediction(1.0, 0.1, 4).quantile(bad)


def test_a_step_that_is_no_step_is_refused():
    with pytest.raises(ValueError, match="positive number of optimizer steps"):
        Forecast(1, 10, "relative_multi_power", "none", "").at(-3)


def test_progress_counts_low_rates_less_and_annealing_follows_the_fall():
    plan = Plan([1, 800, 1000], [1.0, 1.0, 0.0], total_steps=1000)
    progress = Progress(plan, 1000)
    assert progress.progress(1000) == pytest.approx(1)
    assert progress.progress(900) - progress.progress(800) > progress.progress(1000) - progress.progress(900)
    gain = progress.annealing([700, 900, 1000])
    assert gain.shape == (len(ANNEAL_RATES), 3)
    assert np.all(gain[:, 0] == 0)
    assert np.all(np.diff(gain[:, 1:], axis=1) > 0)
    assert progress.fallen(800) == pytest.approx(0, abs=1e-9)
    assert progress.fallen(1000) == pytest.approx(1)
    assert progress.rate(900) == pytest.approx(0.5, abs=0.01)


def test_warm_up_is_no_annealing():
    progress = Progress(Plan([1, 100, 1000], [0.0, 1.0, 1.0], total_steps=1000), 1000)
    assert np.all(progress.annealing([50, 1000]) == 0)


def test_too_few_or_unfinished_past_runs_leave_the_published_prior(make_run):
    assert family_prior(None) is PUBLISHED
    assert family_prior(RunHistory([make_run()])) is PUBLISHED
    run = make_run()
    half = run.step <= 2000
    unfinished = Run(run.step[half], run.loss[half], run.lr[half], total_steps=4000, planned_lr=run.planned_lr)
    assert family_prior(RunHistory([unfinished] * 5)) is PUBLISHED


def test_a_forecast_survives_pickling_and_stays_small(make_run):
    run = make_run("cosine", total=2000)
    made = fitted(run, 0.4)
    text = pickle.dumps(made)
    again = pickle.loads(text)
    assert len(text) < 50_000
    assert (again, hash(again), again.interval(), again.at(1500)) == (made, hash(made), made.interval(), made.at(1500))
    assert pickle.loads(pickle.dumps(again)).final == made.final


def test_a_forecast_shows_its_final_loss_and_interval(make_run):
    made = fitted(make_run("cosine", total=2000), 0.4)
    lower, upper = made.interval()
    assert repr(made) == (
        f"Forecast(step=800/2,000, final={made.final:#.4g}, 90% [{lower:#.4g}, {upper:#.4g}], trust={made.trust})"
    )
    assert Forecast.from_dict(made.to_dict()).interval() == made.interval()
