from __future__ import annotations

import numpy as np
import pytest

from lightning_scaling import Monitor, Run, RunHistory, replay
from lightning_scaling.schedule import Plan


def final(run):
    return run.loss[-5:].mean()


def with_loss(run, loss):
    return Run(run.step, loss, run.lr, total_steps=run.total_steps, planned_lr=run.planned_lr)


@pytest.mark.parametrize("kind", ["cosine", "wsd", "constant"])
def test_the_forecast_is_close_and_a_healthy_run_raises_nothing(make_run, kind):
    run = make_run(kind)
    updates = replay(run, at=[0.25, 0.5, 0.75])
    for update, bound in zip(updates, (0.015, 0.01, 0.006), strict=True):
        assert update.forecast.final == pytest.approx(final(run), rel=bound)
    assert all(update.advice.action == "continue" for update in replay(run))


def test_the_schedule_is_used(make_run):
    run = make_run("wsd")
    forecast = replay(run, at=[0.5])[0].forecast
    no_decay = forecast.at(0.79 * run.total_steps)
    assert forecast.final < no_decay - 0.5 * (no_decay - final(run))


def test_before_any_decay_the_trust_is_low_and_both_outcomes_are_inside(make_run):
    weak, strong = make_run("wsd", kappa=0.4), make_run("wsd", kappa=2.0)
    forecast = replay(weak, at=[0.5])[0].forecast
    assert forecast.trust == "low"
    assert "hardly begun to fall" in forecast.why
    lower, upper = forecast.interval(0.9)
    assert lower < final(strong) < final(weak) < upper


def test_intervals_cover_the_outcome(make_run):
    inside = [
        lower <= final(run) <= upper
        for seed in range(30)
        for run in [make_run("cosine", alpha=0.3 + 0.02 * (seed % 10), kappa=0.8 + 0.1 * (seed % 7), seed=seed)]
        for lower, upper in [replay(run, at=[0.5])[0].forecast.interval(0.9)]
    ]
    assert sum(inside) >= 26


def test_updates_do_not_depend_on_blocks(make_run):
    run = make_run("cosine", every=1, total=3000)
    whole = replay(run)
    for size in (1, 97):
        monitor = Monitor(run.plan)
        updates = []
        for start in range(0, len(run), size):
            part = slice(start, start + size)
            updates += monitor.observe(run.step[part], run.loss[part], lr=run.lr[part])
        updates += monitor.finish()
        assert [u.step for u in updates] == [u.step for u in whole]
        np.testing.assert_allclose(
            [u.forecast.final for u in updates], [u.forecast.final for u in whole], rtol=1e-9, equal_nan=True
        )


def test_it_never_looks_ahead(make_run):
    run = make_run("cosine")
    half = len(run) // 2
    other = with_loss(run, np.where(np.arange(len(run)) < half, run.loss, 9.0))
    fraction = run.step[half - 1] / run.total_steps
    first, second = (replay(r, at=[fraction])[0].forecast for r in (run, other))
    assert first.final == second.final


@pytest.mark.parametrize("share", [0.02, 0.05, -0.03])
def test_a_lasting_change_is_found_within_a_tenth_of_the_run(make_run, share):
    run = make_run("cosine")
    at = run.step / run.total_steps
    updates = replay(with_loss(run, np.where(at >= 0.4, run.loss * (1 + share), run.loss)))
    alarms = [u for u in updates if u.deviation.alarm]
    assert 0.4 <= alarms[0].fraction <= 0.5
    assert alarms[0].deviation.direction == ("above" if share > 0 else "below")
    assert alarms[0].deviation.since_step <= 0.42 * run.total_steps
    assert updates[-1].deviation.alarm, "the damage must not be absorbed"
    assert alarms[0].forecast.trust == "low"
    assert alarms[0].advice.action == "investigate"
    assert f"{abs(share):.0%}"[:-1] in alarms[-1].advice.reason or "%" in alarms[0].advice.reason


def test_a_spike_that_recovers_is_no_alarm(make_run):
    run = make_run("cosine")
    loss = run.loss.copy()
    loss[len(run) // 2] *= 2
    assert not any(u.deviation.alarm or u.advice.action == "stop" for u in replay(with_loss(run, loss)))


def test_losses_that_stay_nonfinite_mean_stop_at_once(make_run):
    run = make_run("cosine", every=1, total=2000)
    loss = run.loss.copy()
    loss[1001:] = np.inf
    stop = next(u for u in replay(with_loss(run, loss)) if u.advice.action == "stop")
    assert stop.step == 1021
    assert "not finite" in stop.advice.reason
    assert stop.advice.saving == pytest.approx(1 - 1021 / 2000)


def test_one_nonfinite_loss_is_reported_and_then_forgotten(make_run):
    run = make_run("cosine", every=1, total=2000)
    loss = run.loss.copy()
    loss[1001] = np.inf
    updates = replay(with_loss(run, loss))
    actions = [u.advice.action for u in updates]
    assert actions.count("investigate") in (1, 2)
    assert actions[-1] == "continue"


def test_a_blow_up_is_flagged_and_when_it_stays_means_stop(make_run):
    run = make_run("cosine", floor=2.0, drop=1.0)
    at = run.step / run.total_steps
    updates = replay(with_loss(run, np.where(at >= 0.5, run.loss[0], run.loss)))
    first = next(u for u in updates if u.advice.action != "continue")
    assert first.fraction <= 0.53
    stop = next(u for u in updates if u.advice.action == "stop")
    assert stop.fraction <= 0.6
    assert "stays there" in stop.advice.reason


def test_another_learning_rate_than_planned_is_said_first(make_run):
    run = make_run("cosine")
    at = run.step / run.total_steps
    lr = np.where(at >= 0.5, run.lr * 3, run.lr)
    loss = np.where(at >= 0.5, run.loss * 1.1, run.loss)
    other = Run(run.step, loss, lr, total_steps=run.total_steps, planned_lr=run.planned_lr)
    first = next(u for u in replay(other) if u.advice.action != "continue")
    assert "learning rate used is 3 times the planned one" in first.advice.reason


def test_announced_rates_are_followed(make_run):
    run = make_run("cosine")
    half = len(run) // 2
    monitor = Monitor(run.plan)
    monitor.observe(run.step[:half], run.loss[:half], lr=run.lr[:half])
    monitor.mark("learning rate halved by hand", follow_rates=True)
    updates = monitor.observe(run.step[half:], run.loss[half:], lr=run.lr[half:] / 2)
    assert not any("times the planned one" in update.advice.reason for update in updates)
    assert monitor.forecast.trust == "low"
    assert monitor.curve.segments[0][1] == "learning rate halved by hand"


def test_rates_set_by_hand_without_a_schedule_are_followed_with_low_trust():
    steps = np.arange(1, 1001)
    lr = np.where(steps <= 600, 1e-3, 2e-4)
    loss = 2 + steps**-0.4 - np.where(steps > 600, 0.02, 0)
    monitor = Monitor(Plan.constant(1e-3, total_steps=1000))
    monitor.observe(steps, loss, lr=lr)
    assert monitor.forecast.trust == "low"
    assert "by hand" in monitor.forecast.why
    assert monitor.plan.at(900) == pytest.approx(2e-4)


def test_a_target_out_of_reach_means_stop_with_its_saving(make_run):
    run = make_run("cosine")
    missed = [u for u in replay(run, target=2.0) if u.advice.action == "stop"]
    assert missed
    assert missed[0].forecast.trust == "ok"
    assert missed[0].advice.saving == pytest.approx(1 - missed[0].fraction)
    assert "misses the target 2" in missed[0].advice.reason
    assert not [u for u in replay(run, target=4.0) if u.advice.action == "stop"]


def test_without_a_planned_end_forecasts_are_for_twice_the_progress():
    steps = np.arange(1, 2001)
    monitor = Monitor(Plan.constant(1e-3, why="the run has no planned end"))
    updates = monitor.observe(steps, 2 + steps**-0.4)
    last = updates[-1]
    assert last.fraction is None
    assert last.forecast.trust == "low"
    assert last.forecast.horizon == 2 * last.step
    assert last.forecast.final == pytest.approx(2 + (2 * last.step) ** -0.4, rel=0.01)
    assert last.forecast.at(4 * last.step) == pytest.approx(2 + (4 * last.step) ** -0.4, rel=0.02)


def test_past_runs_give_the_gain_of_annealing(make_run):
    history = RunHistory(make_run("wsd", kappa=2.0, total=3000, seed=s) for s in range(4))
    run = make_run("wsd", kappa=2.0, seed=9)
    alone = replay(run, at=[0.5])[0].forecast
    family = replay(run, history=history, at=[0.5])[0].forecast
    assert abs(family.final - final(run)) < 0.5 * abs(alone.final - final(run))
    assert "relatives" in family.why or family.trust == "ok" or "finished runs" in family.why


def test_state_round_trip_continues_with_the_same_forecasts(make_run):
    run = make_run("cosine", every=1, total=2000)
    whole = replay(run)[-1]
    first = Monitor(run.plan)
    first.observe(run.step[:1100], run.loss[:1100], lr=run.lr[:1100])
    second = Monitor(run.plan)
    second.load_state_dict(first.state_dict())
    assert second.forecast.final == first.forecast.final
    second.mark("resumed at step 1100", resumed=True)
    updates = second.observe(run.step[1100:], run.loss[1100:], lr=run.lr[1100:]) + second.finish()
    assert updates[-1].forecast.final == pytest.approx(whole.forecast.final, rel=1e-4)
    assert len(second.forecast_log) == len(replay(run))
    assert second.forecast_log[-1]["error"] == pytest.approx(0, abs=0.01)


def test_the_forecast_log_holds_outcomes(make_run):
    run = make_run("cosine")
    monitor = Monitor(run.plan)
    monitor.observe(run.step, run.loss)
    monitor.finish()
    rows = [row for row in monitor.forecast_log if row["final"] is not None]
    assert all(row["outcome"] == pytest.approx(final(run), rel=0.01) for row in rows)
    assert rows[-1]["lower"] <= rows[-1]["outcome"] <= rows[-1]["upper"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"alpha": -1}, "`alpha` is a probability"),
        ({"alpha": 1.0}, "`alpha` is a probability"),
        ({"target": float("nan")}, "`target` must be a finite loss"),
        ({"at": [0.0]}, "fractions of the run"),
        ({"at": [25]}, "fractions of the run"),
    ],
)
def test_bad_arguments_are_refused(make_run, arguments, message):
    with pytest.raises(ValueError, match=message):
        replay(make_run(), **arguments)


def test_an_unknown_setting_is_refused_by_name():
    with pytest.raises(TypeError, match="tarjet"):
        Monitor(None, tarjet=2.0)


@pytest.mark.parametrize("loss", [[1.0], [1.0, 1.0, 1.0], [0.0] * 200, [-3 + (i + 1) ** -0.4 for i in range(200)]])
def test_short_constant_zero_and_negative_curves_end_without_an_error(loss):
    steps = range(1, len(loss) + 1)
    updates = replay(Run(steps, loss, total_steps=max(len(loss), 2)))
    assert all(u.advice.action == "continue" for u in updates)


def test_a_rising_metric_gets_low_trust():
    steps = np.arange(1, 501)
    update = replay(Run(steps, np.log(steps), [1e-3] * 500, total_steps=500), at=[0.5])[0]
    assert update.forecast.trust == "low"
    assert "not falling" in update.forecast.why


def test_a_blow_up_is_not_waited_out_until_the_next_update(make_run):
    run = make_run("constant", every=1, total=2000)
    loss = run.loss.copy()
    loss[1204] = 400.0
    updates = replay(Run(run.step, loss, run.lr, total_steps=2000, planned_lr=run.planned_lr))
    spoke = next(u for u in updates if u.advice.action != "continue")
    assert spoke.step == 1205
    assert spoke.advice.action == "investigate"
    assert updates[-1].advice.action == "continue", "one bad batch is no broken run"


def test_losses_that_look_wrong_are_looked_at_before_the_next_update(make_run):
    healthy = make_run(total=4000, every=1, noise=0.01)
    loss = healthy.loss * np.where(healthy.step > 2000, 1.03, 1.0)
    broken = Run(healthy.step, loss, healthy.lr, total_steps=4000)
    updates = replay(broken)
    alarm = next(update for update in updates if update.deviation.alarm)
    assert 2040 < alarm.step < 2080
    regular = {update.step for update in replay(healthy)}
    assert alarm.step not in regular
    assert {update.step for update in updates} - regular == {alarm.step}
    monitor = Monitor(broken.plan, params=broken.params)
    fed = []
    for start in range(0, 4000, 37):
        part = slice(start, start + 37)
        fed += monitor.observe(broken.step[part], broken.loss[part], lr=broken.lr[part])
    fed += monitor.finish()
    assert [(u.step, u.deviation.alarm) for u in fed] == [(u.step, u.deviation.alarm) for u in updates]
