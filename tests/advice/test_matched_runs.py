from __future__ import annotations

import json

import numpy as np
import pytest

from lightning_scaling import Run, RunHistory
from lightning_scaling.advice.context import AdviceContext
from lightning_scaling.advice.matched_runs import MatchedRuns, learning_rate_optimum
from lightning_scaling.detection import Deviation
from lightning_scaling.engine.monitor import Monitor
from lightning_scaling.forecast import Forecast
from lightning_scaling.runs.curve import Curve
from lightning_scaling.schedule import Plan

TOTAL = 1000
STEPS = np.arange(1, TOTAL + 1)


def rates(peak=1e-3, warmup=50):
    return peak * np.minimum(1.0, STEPS / max(warmup, 1))


def run(seed=0, *, peak=1e-3, warmup=50, params=10_000, shift=0.0, steps=TOTAL, noise=0.02):
    chance = np.random.default_rng(seed)
    loss = (2 + 3 * STEPS**-0.3) * (1 + shift) + noise * chance.standard_normal(TOTAL)
    loss = loss + 0.01 * chance.standard_normal()
    part = slice(0, steps)
    return Run(STEPS[part], loss[part], rates(peak, warmup)[part], total_steps=TOTAL, params=params, name=f"r{seed}")


def plan(peak=1e-3, warmup=50):
    return Plan(STEPS, rates(peak, warmup), total_steps=TOTAL)


def compared(matched, loss, until=400, batch=float("nan")):
    found = []
    for end in range(10, until + 1, 10):
        found.append(matched.compare(end - 10, end, float(loss[end - 10 : end].mean()), batch))
    return found


PAST = [run(seed) for seed in range(5)]


@pytest.mark.parametrize("seed", range(20, 40))
def test_a_healthy_replicate_does_not_lag(seed):
    assert not any(compared(MatchedRuns(PAST, plan(), 10_000), run(seed).loss))


def test_a_run_that_starts_worse_lags_within_a_tenth_of_the_run():
    found = compared(MatchedRuns(PAST, plan(warmup=0), 10_000), run(9, shift=0.08).loss)
    first = next(index for index, one in enumerate(found) if one)
    assert first < 10
    behind = found[first]
    assert behind.count == 5
    assert behind.share == pytest.approx(0.08, abs=0.02)
    assert (behind.warmup, behind.usual_warmup) == (0, 50)


def test_a_better_run_does_not_lag_and_with_a_metric_that_is_to_be_high_it_does():
    low = run(9, shift=-0.08).loss
    assert not any(compared(MatchedRuns(PAST, plan(), 10_000), low))
    assert any(compared(MatchedRuns(PAST, plan(), 10_000, rising=True), low))


@pytest.mark.parametrize(
    "others",
    [
        [run(seed) for seed in range(2)],
        [run(seed, params=20_000) for seed in range(5)],
        [run(seed, peak=3e-3) for seed in range(5)],
    ],
)
def test_only_runs_of_the_same_size_and_rate_are_matched_and_two_are_too_few(others):
    assert not any(compared(MatchedRuns(others, plan(), 10_000), run(9, shift=0.3).loss))


def test_the_memory_survives_a_round_trip():
    loss = run(9, shift=0.08).loss
    whole = compared(MatchedRuns(PAST, plan(), 10_000), loss, 200)
    first = MatchedRuns(PAST, plan(), 10_000)
    compared(first, loss, 30)
    second = MatchedRuns(PAST, plan(), 10_000)
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    rest = [second.compare(end - 10, end, float(loss[end - 10 : end].mean())) for end in range(40, 201, 10)]
    assert rest == whole[3:]


def test_the_monitor_says_that_a_run_without_warm_up_lags():
    monitor = Monitor(plan(warmup=0), params=10_000, history=RunHistory(PAST))
    bad = run(9, shift=0.1, warmup=0)
    updates = monitor.observe(bad.step[:200], bad.loss[:200], lr=bad.lr[:200])
    advice = next(update.advice for update in updates if update.advice.evidence.get("cause") == "warmup")
    assert "They warmed up over 50 steps, this run over none; check first the warm-up" in advice.reason


CALM = Deviation(False, 1.0, None, None, "undecidable")
NONE = Forecast(10, 1000, "relative_multi_power", "none", "")


def test_after_an_announced_change_earlier_runs_are_no_measure():
    context = AdviceContext(plan(), 10_000)
    context.use(PAST)
    context.mark()
    curve, loss = Curve(), run(9, shift=0.3).loss
    for end in range(10, 300, 10):
        curve.add(STEPS[end - 10 : end], loss[end - 10 : end])
        mean = float(loss[end - 10 : end].mean())
        assert (
            context.state(curve, step=end, loss=mean, deviation=CALM, divergence=None, fraction=None, forecast=NONE).lag
            is None
        )


def sweep(best=2e-3, peaks=(5e-4, 1e-3, 2e-3, 4e-3, 8e-3), curvature=0.05):
    return [
        run(seed, peak=peak, shift=curvature * np.log(peak / best) ** 2, noise=0.005) for seed, peak in enumerate(peaks)
    ]


@pytest.mark.parametrize("peak", [1e-4, 4e-2])
def test_a_rate_far_off_the_optimum_of_the_family_is_reported(peak):
    found = learning_rate_optimum(sweep(), plan(peak), 10_000)
    assert found.lower < 2e-3 < found.upper
    assert found.cost > 0.05
    assert found.count == 5


@pytest.mark.parametrize("peak", [1e-3, 2e-3, 4e-3])
def test_a_rate_near_the_optimum_is_not(peak):
    assert learning_rate_optimum(sweep(), plan(peak), 10_000) is None


@pytest.mark.parametrize(
    "runs",
    [
        sweep(peaks=(1e-3, 2e-3, 4e-3)),
        sweep(peaks=(1e-3, 1.2e-3, 1.5e-3, 1.8e-3, 2e-3)),
        sweep(best=1e-1),
        sweep(curvature=-0.05),
        [run(seed, peak=peak, params=99) for seed, peak in enumerate((5e-4, 1e-3, 2e-3, 4e-3, 8e-3))],
        [run(seed, peak=peak, steps=500) for seed, peak in enumerate((5e-4, 1e-3, 2e-3, 4e-3, 8e-3))],
    ],
)
def test_without_an_optimum_inside_nothing_is_said(runs):
    assert learning_rate_optimum(runs, plan(5e-2), 10_000) is None
