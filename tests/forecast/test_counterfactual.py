from __future__ import annotations

import numpy as np
import pytest

from lightning_scaling.engine.monitor import Monitor
from lightning_scaling.forecast import Forecaster, family_prior, what_if, what_ifs
from lightning_scaling.runs.curve import Curve
from lightning_scaling.runs.history import RunHistory
from lightning_scaling.schedule import Plan
from lightning_scaling.schedule.changes import decay_now, lengthen, wsd
from lightning_scaling.schedule.progress import ANNEAL_RATES, Progress

TOTAL = 4000


class Asked:
    """The forecast of a run at a step, and questions about it."""

    def __init__(self, run, step, history=None):
        self.plan = run.plan
        self.prior = family_prior(history)
        curve = Curve(run.plan)
        seen = run.step <= step
        curve.add(run.step[seen], run.loss[seen])
        self.points = curve.points
        self.forecast = Forecaster(run.plan, self.prior).fit(self.points, step)

    def __call__(self, change="carry on", **options):
        return what_if(self.forecast, self.plan, change, points=self.points, prior=self.prior, **options)


def truth(plan, of, alpha=0.45, kappa=1.2, floor=2.5, drop=0.4):
    """The end of a plan under the law of ``make_run``, in the units of the plan ``of``."""
    unit = Progress(of, TOTAL)
    there = Progress(plan, plan.total_steps, unit=unit)
    end = [plan.total_steps]
    gain = there.annealing(end)[ANNEAL_RATES.index(0.03)]
    return float((floor + drop * (there.progress(end) ** -alpha - kappa * alpha * gain))[0])


@pytest.mark.parametrize("kind", ["constant", "cosine", "wsd"])
def test_no_change_is_the_forecast_itself(make_run, kind):
    asked = Asked(make_run(kind), 2400)
    for answer in (asked(), asked(asked.plan)):
        assert answer.final == asked.forecast.final
        assert answer.interval(0.8) == asked.forecast.interval(0.8)
        assert answer.difference.interval() == (0.0, 0.0)
        assert answer.extra_steps == 0
        assert (answer.trust, answer.why) == (asked.forecast.trust, asked.forecast.why)


def test_stopping_reads_the_present_level(make_run):
    run = make_run("wsd")
    asked = Asked(run, 2400)
    now = asked("stop")
    assert now.final == float(asked.forecast.at(2400))
    assert now.final == pytest.approx(run.loss[run.step <= 2400][-5:].mean(), rel=2e-3)
    assert now.trust == "ok"
    assert asked.forecast.trust == "low"
    assert now.extra_steps == -1600
    assert now.extra_compute == pytest.approx(-0.4)
    assert "saves 1,600 steps, 40% of the planned compute" in now.reason
    later = asked("stop", at=3000)
    assert later.final == float(asked.forecast.at(3000))
    assert asked.forecast.final < later.final < now.final


@pytest.mark.parametrize("step", [1600, 2800])
def test_what_a_known_law_does_lies_inside_the_interval(make_run, step):
    run = make_run("constant", noise=0.001)
    asked = Asked(run, step)
    changes = {
        "stop": asked.plan,
        "decay": decay_now(asked.plan, step),
        "wsd": wsd(asked.plan, step),
        "longer": lengthen(asked.plan, step),
    }
    for kind, plan in changes.items():
        answer = asked(kind)
        outcome = float(run.loss[run.step == step][0]) if kind == "stop" else truth(plan, asked.plan)
        lower, upper = answer.interval(0.9)
        assert lower - 0.003 < outcome < upper + 0.003, kind
        assert answer.final == pytest.approx(outcome, rel=0.012), kind
        least, most = answer.difference.interval(0.9)
        assert least - 0.003 < outcome - truth(asked.plan, asked.plan) < most + 0.003, kind


def test_a_decay_lowers_the_loss_and_its_gain_is_said_to_be_borrowed(make_run):
    asked = Asked(make_run("constant"), 2000)
    answer = asked("decay", over=0.2, shape="sqrt")
    assert answer.final < float(asked.forecast.at(2000))
    assert answer.final < asked("stop").final
    assert answer.trust == "low"
    assert "published language-model runs" in answer.why
    assert "published language-model runs" in answer.reason
    assert asked("longer").final < asked.forecast.final


def test_a_decay_that_has_been_seen_is_trusted(make_run):
    asked = Asked(make_run("cosine", noise=0.001), 3000)
    answer = asked("decay", over=0.1)
    assert answer.trust == "ok"
    assert answer.why == ""
    assert "taken from" not in answer.reason


def test_the_error_shared_with_carrying_on_cancels(make_run):
    asked = Asked(make_run("wsd"), 2000)
    answer = asked("longer", factor=1.2)
    width = np.diff(answer.interval())[0]
    assert np.diff(answer.difference.interval())[0] < 0.5 * width
    assert answer.difference == pytest.approx(answer.final - asked.forecast.final, abs=1e-9)


def test_a_rate_that_rises_again_is_not_trusted(make_run):
    asked = Asked(make_run("cosine", noise=0.001), 3000)
    higher = asked(Plan([3000, 4000], [6e-4, 6e-4]))
    assert higher.trust == "low"
    assert "rise again" in higher.why
    assert higher.final > asked.forecast.final
    assert np.isfinite(higher.difference.scale)


def test_past_runs_inform_the_other_plan(make_run):
    history = RunHistory(
        [make_run("wsd", kappa=2.2, floor=2.5 + 0.02 * seed, seed=seed, total=1000 * (2 + seed)) for seed in range(4)]
    )
    run = make_run("constant", kappa=2.2, seed=9)
    alone, informed = Asked(run, 2400), Asked(run, 2400, history)
    outcome = truth(wsd(run.plan, 2400), run.plan, kappa=2.2)
    assert abs(informed("wsd").final - outcome) < abs(alone("wsd").final - outcome)
    assert np.diff(informed("wsd").interval())[0] < np.diff(alone("wsd").interval())[0]
    assert "runs of the family" in informed("wsd").reason


def test_the_usual_ones_are_those_that_the_plan_allows(make_run):
    asked = Asked(make_run("cosine"), 2000)
    answers = what_ifs(asked.forecast, asked.plan, points=asked.points)
    assert [answer.total_steps for answer in answers] == [4000, 2000, 2800, 8000, 4000]
    assert answers[0].name == "carry on"
    open_end = Monitor(Plan([1, 2], [1e-3, 1e-3]))
    open_end.observe(range(1, 301), [3 + s**-0.5 for s in range(1, 301)])
    assert [answer.name for answer in open_end.what_ifs()] == ["carry on", "stop now", "decay now over 20%"]
    unknown = Monitor(None)
    unknown.observe(range(1, 301), [3 + s**-0.5 for s in range(1, 301)])
    assert [answer.name for answer in unknown.what_ifs()] == ["carry on"]
    with pytest.raises(ValueError, match="learning rates are known, but"):
        unknown.what_if("stop")


def test_the_monitor_answers_and_passes_on_its_doubts(make_run):
    run = make_run("cosine", noise=0.001)
    monitor = Monitor(run.plan)
    seen = run.step <= 2800
    monitor.observe(run.step[seen], run.loss[seen], lr=run.lr[seen])
    answer = monitor.what_if("decay", over=0.1)
    assert answer.step == monitor.forecast.step == 2800
    assert answer.trust == "ok"
    late = (run.step > 2800) & (run.step <= 3200)
    monitor.observe(run.step[late], run.loss[late] * 1.3, lr=run.lr[late])
    assert monitor.deviation.alarm
    assert monitor.what_if("decay", over=0.1).trust == "low"
    assert "has left the path" in monitor.what_if("decay", over=0.1).why


def test_a_run_without_losses_gets_an_answer_without_numbers(make_run):
    answer = Monitor(make_run("cosine").plan).what_if("longer")
    assert np.isnan(answer.final)
    assert answer.trust == "none"
    assert answer.reason.startswith("Nothing can be said of it yet")


def test_an_accuracy_is_told_in_its_own_units():
    steps = np.arange(1, 801)
    rates = np.where(steps < 400, 1e-3, 1e-3 * (1 - (steps - 400) / 401))
    monitor = Monitor(Plan(steps, rates, total_steps=800), monitor="val_acc")
    noise = np.random.default_rng(0).normal(0, 0.002, 600)
    monitor.observe(steps[:600], 0.9 - 0.6 * steps[:600] ** -0.35 + noise)
    longer = monitor.what_if("longer")
    assert monitor.forecast.final < longer.final < 1
    assert longer.difference > 0
    assert longer.interval()[1] <= 1


def test_bad_input_is_said_in_one_sentence(make_run):
    asked = Asked(make_run("cosine"), 2000)
    with pytest.raises(ValueError, match="`change` must be one of stop, decay, longer, wsd"):
        asked("faster")
    with pytest.raises(TypeError, match="`longer` has no option `over`; it takes `factor`"):
        asked("longer", over=2)
    with pytest.raises(ValueError, match="can no longer stop"):
        asked("stop", at=1000)
    with pytest.raises(TypeError, match="takes no options"):
        asked(Plan([1, 5000], [1e-3, 1e-4]), factor=2)
