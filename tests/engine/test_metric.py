import numpy as np
import pytest

from lightning_scaling.engine.metric import FollowedMetric
from lightning_scaling.engine.monitor import Monitor
from lightning_scaling.runs.history import RunHistory
from lightning_scaling.runs.run import Run
from lightning_scaling.schedule import Plan

TOTAL = 1000
STEPS = np.arange(10, TOTAL + 1, 10)
RATES = 0.5 * (1 + np.cos(np.pi * np.arange(1, TOTAL + 1) / TOTAL))


def accuracy(seed=0, drop=0.0):
    """Accuracies of a validation set of 1,000 images, approaching .95."""
    share = (0.2 + 0.75 * (STEPS / TOTAL) ** -0.5 * 0.1) ** 2
    noise = np.random.default_rng(seed).normal(0, 0.001, STEPS.size)
    return np.round(1 - share + noise - drop * (STEPS > 600), 3)


def drive(values, upto=TOTAL, **settings):
    monitor = Monitor(Plan(np.arange(1, TOTAL + 1), RATES, total_steps=TOTAL), **settings)
    seen = upto >= STEPS
    updates = monitor.observe(STEPS[seen], values[seen], lr=RATES[STEPS[seen] - 1])
    return monitor, updates + monitor.finish()


def at(updates, fraction):
    return next(update for update in updates if update.fraction == fraction)


def test_an_accuracy_ends_inside_its_interval_and_its_bounds():
    monitor, updates = drive(accuracy(), monitor="val_acc")
    for fraction in (0.5, 0.75):
        made = at(updates, fraction).forecast
        lower, upper = made.interval(0.9)
        assert 0 <= lower <= accuracy()[-1] <= upper <= 1
        assert made.final == pytest.approx(accuracy()[-1], abs=0.01)
    assert not any(update.deviation.alarm for update in updates)
    assert monitor.forecast_log[-1]["outcome"] == pytest.approx(accuracy()[-1])
    assert "`val_acc` at step 1,000 is forecast at 0.9" in updates[-1].advice.reason


def test_up_and_down_are_mirror_images():
    up, down = drive(accuracy(), monitor="val_acc")[1], drive(1 - accuracy(), monitor="val_error")[1]
    for one, other in zip(up, down, strict=True):
        assert one.forecast.final == pytest.approx(1 - other.forecast.final, nan_ok=True)
        assert one.forecast.interval() == pytest.approx([1 - x for x in other.forecast.interval()[::-1]], nan_ok=True)
        assert one.forecast.trust == other.forecast.trust


def test_percentages_are_found_out_from_the_values():
    shares, percentages = drive(accuracy(), monitor="val_acc"), drive(100 * accuracy(), monitor="val_acc")
    assert (shares[0].metric.scale.bounds, percentages[0].metric.scale.bounds) == ((0, 1), (0, 100))
    for one, other in zip(shares[1], percentages[1], strict=True):
        assert other.forecast.final == pytest.approx(100 * one.forecast.final, nan_ok=True)


def test_percentages_that_begin_below_one():
    values = 100 * accuracy()
    values[:5] = 0.7
    monitor, updates = drive(values, monitor="val_acc")
    assert monitor.metric.scale.bounds == (0, 100)
    assert updates[-1].forecast.final == pytest.approx(values[-1], abs=1)


def test_a_fall_below_the_forecast_is_the_bad_side():
    updates = drive(accuracy(drop=0.06), monitor="val_acc")[1]
    alarm = next(update for update in updates if update.deviation.alarm)
    assert alarm.deviation.direction == "below"
    assert alarm.deviation.excess == pytest.approx(alarm.loss - alarm.deviation.expected)
    assert alarm.deviation.excess < -0.03
    assert 600 < alarm.step <= 700
    assert alarm.advice.action == "investigate"
    assert "`val_acc` is 0." in alarm.advice.reason
    assert "below its path" in alarm.advice.reason
    assert "learning rate" in alarm.advice.reason


def test_a_jump_above_the_forecast_is_better_than_forecast():
    alarm = next(u for u in drive(accuracy(drop=-0.04), monitor="val_acc")[1] if u.deviation.alarm)
    assert alarm.deviation.direction == "above"
    assert "leak" in alarm.advice.reason


def test_a_collapse_is_reported_in_the_units_of_the_metric():
    values = accuracy()
    values[60:] = 0.1
    stop = next(update for update in drive(values, monitor="val_acc")[1] if update.advice.action == "stop")
    assert "back down to 0.1 since step" in stop.advice.reason


def test_a_target_is_at_least_that_much():
    reached = drive(accuracy(), monitor="val_acc", target=0.9)[1]
    missed = drive(accuracy(), monitor="val_acc", target=0.995)[1]
    assert all(update.advice.action == "continue" for update in reached)
    stop = next(update for update in missed if update.advice.action == "stop")
    assert stop.forecast.trust == "ok"
    assert "The final `val_acc` is forecast at 0.9" in stop.advice.reason
    assert "misses the target 0.995" in stop.advice.reason


def test_of_a_loss_nothing_is_converted():
    loss = 2 + 3 * STEPS**-0.5 + np.random.default_rng(1).normal(0, 0.01, STEPS.size)
    plain, named = drive(loss)[1], drive(loss, monitor="val_loss")[1]
    assert [u.to_dict() for u in plain] == [u.to_dict() for u in named]
    assert FollowedMetric("val_loss").sentence == ""


def test_a_loss_known_not_to_be_negative_is_not_forecast_so():
    loss = 2 * (STEPS / 10) ** -1.6
    unbounded, bounded = drive(loss)[1], drive(loss, bounds=(0, None))[1]
    assert at(unbounded, 0.25).forecast.interval()[0] < 0
    assert all(u.forecast.interval()[0] >= 0 for u in bounded if u.forecast.path is not None)
    assert abs(at(bounded, 0.25).forecast.final - loss[-1]) < abs(at(unbounded, 0.25).forecast.final - loss[-1])


def test_values_that_never_change_are_no_trouble():
    for value in (1.0, 0.1):
        updates = drive(np.full(STEPS.size, value), monitor="val_acc")[1]
        assert updates[-1].forecast.final == pytest.approx(value, abs=0.01)
        assert not any(update.deviation.alarm for update in updates)


def test_a_metric_without_bounds_that_rises():
    reward = 500 - 800 * (STEPS / 10) ** -0.4
    updates = drive(reward, monitor="reward")[1]
    assert updates[-1].forecast.final == pytest.approx(reward[-1], rel=0.02)
    assert at(updates, 0.5).forecast.final > reward[49]


def test_a_resumed_run_goes_on_as_if_nothing_had_been():
    whole = drive(100 * accuracy(), monitor="val_acc")[1]
    first = drive(100 * accuracy(), upto=500, monitor="val_acc")[0]
    second = Monitor(Plan(np.arange(1, TOTAL + 1), RATES, total_steps=TOTAL), monitor="val_acc")
    second.load_state_dict(first.state_dict())
    assert second.metric.scale.bounds == (0, 100)
    rest = STEPS > 500
    later = second.observe(STEPS[rest], 100 * accuracy()[rest], lr=RATES[STEPS[rest] - 1])
    for one in later:
        assert one.forecast.final == next(u for u in whole if u.step == one.step).forecast.final


def test_past_runs_count_by_the_same_metric():
    past = RunHistory(
        [Run(STEPS, accuracy(seed), RATES[STEPS - 1], total_steps=TOTAL, params=10**6) for seed in (1, 2, 3)]
    )
    alone = drive(accuracy(), upto=250, monitor="val_acc")[0].forecast
    informed = drive(accuracy(), upto=250, monitor="val_acc", history=past, params=10**6)[0].forecast
    assert informed.final == pytest.approx(accuracy()[-1], abs=0.01)
    assert np.ptp(informed.interval()) < np.ptp(alone.interval())
    late = Monitor(Plan(np.arange(1, TOTAL + 1), RATES, total_steps=TOTAL), monitor="val_acc", params=10**6)
    late.learn(RunHistory([Run(r.step, 100 * r.loss, r.lr, total_steps=TOTAL, params=10**6) for r in past]))
    assert late.metric.scale.bounds == (0, 100)


def test_a_record_keeps_the_settings_of_its_metric():
    run = drive(accuracy(), monitor="val_acc")[0].run(name="one", meta={"unit": "samples"})
    assert run.meta == {"unit": "samples", "metric": "val_acc", "mode": "max", "bounds": None}
    assert drive(accuracy())[0].run().meta == {}
