"""The law of live runs: the same in the catalogue, in the monitor and in the file it leaves behind."""

import numpy as np
import pytest

from lightning_scaling import Monitor, Run, laws
from lightning_scaling.schedule.plan import Plan

TOTAL = 4000
PLAN = Plan([1, 200, 3000, 4000], [1e-6, 1e-3, 1e-3, 1e-5], total_steps=TOTAL)


def recorded(alpha=0.4, kappa=1.4, noise=0.002, end=TOTAL, plan=PLAN):
    steps = np.arange(20, end + 1, 20)
    law = laws.get("relative_multi_power", plan=plan)
    loss = law.evaluate({"L0": 1.5, "A": 1.0, "alpha": alpha, "kappa": kappa}, steps=steps)
    loss = loss * np.exp(noise * np.random.default_rng(0).standard_normal(len(steps)))
    return Run(steps, loss, plan.at(steps), total_steps=TOTAL, planned_lr=(plan.steps, plan.lr), name="planted")


def test_the_monitor_forecasts_with_a_law_of_the_catalogue():
    run = recorded()
    monitor = Monitor(PLAN)
    monitor.observe(run.step, run.loss)
    assert monitor.forecast.law in laws.names()
    assert set(laws.get(monitor.forecast.law).published) == set()
    shape = {name: monitor.forecast.params[name] for name in ("L0", "A", "alpha", "kappa")}
    law = laws.get(monitor.forecast.law, plan=PLAN, speed=monitor.forecast.params["C"])
    assert float(law.evaluate(shape, steps=TOTAL)) == pytest.approx(monitor.forecast.final, rel=0.01)


def test_a_finished_run_gives_its_shape_back():
    fit = laws.fit_run(recorded(noise=0.0005))
    assert fit.law.speed == 0.03
    assert fit.params["alpha"] == pytest.approx(0.4, rel=0.1)
    assert fit.params["kappa"] == pytest.approx(1.4, rel=0.1)
    assert fit.predict(steps=TOTAL) == pytest.approx(recorded(noise=0.0).loss[-1], rel=0.002)


def test_before_the_rate_falls_the_gain_is_given_not_claimed():
    fit = laws.fit_run(recorded(end=2500))
    assert fit.settings.fixed == {"kappa": 1.2}
    assert "given" in fit.summary()


def test_a_steep_short_run_keeps_its_law_positive():
    steps = np.arange(1, 47)
    loss = 2.3 - 1.25 * (steps / 46) ** 1.5
    plan = Plan([1, 5, 46], [1e-3, 1e-2, 1e-5], total_steps=46)
    fit = laws.fit_run(Run(steps, loss, plan.at(steps), total_steps=46, planned_lr=(plan.steps, plan.lr)))
    assert np.all(fit.predict(steps=steps[6:]) > 0)
    assert np.isfinite(fit.diagnostics["rms_residual"])


def test_the_file_of_a_run_can_be_read_and_asked(tmp_path):
    fit = laws.fit_run(recorded())
    loaded = laws.load(fit.save(tmp_path / "fit.json"))
    assert loaded.predict(steps=[1000, TOTAL]) == pytest.approx(fit.predict(steps=[1000, TOTAL]))
    assert loaded.law.plan.total_steps == TOTAL


def test_what_it_cannot_do_it_says():
    with pytest.raises(ValueError, match="needs the plan of the run"):
        laws.get("relative_multi_power").evaluate({"L0": 1, "A": 1, "alpha": 0.3, "kappa": 1}, steps=5)
    with pytest.raises(ValueError, match="lies beyond the plan, which ends at 4000"):
        laws.fit_run(recorded()).predict(steps=5000)
    with pytest.raises(ValueError, match="`speed` must be positive"):
        laws.get("relative_multi_power", speed=0)
    short = Run([1, 2, 3], [5.0, 4.9, 4.8], total_steps=TOTAL, planned_lr=(PLAN.steps, PLAN.lr), name="short")
    with pytest.raises(ValueError, match="Run short has no losses after its warm-up"):
        laws.fit_run(short)
