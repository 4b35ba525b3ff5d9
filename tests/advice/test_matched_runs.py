from __future__ import annotations

import json

import numpy as np
import pytest

from lightning_scaling import Run, RunHistory
from lightning_scaling.advice.context import AdviceContext
from lightning_scaling.advice.matched_runs import MatchedRuns, best_rate
from lightning_scaling.detection import Deviation
from lightning_scaling.engine.monitor import Monitor
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


def told(twins, loss, until=400, batch=float("nan")):
    found = []
    for end in range(10, until + 1, 10):
        found.append(twins.compare(end - 10, end, float(loss[end - 10 : end].mean()), batch))
    return found


TWINS = [run(seed) for seed in range(5)]


@pytest.mark.parametrize("seed", range(20, 40))
def test_a_healthy_twin_is_not_behind(seed):
    assert not any(told(MatchedRuns(TWINS, plan(), 10_000), run(seed).loss))


def test_a_run_that_starts_worse_is_behind_within_a_tenth_of_the_run():
    found = told(MatchedRuns(TWINS, plan(warmup=0), 10_000), run(9, shift=0.08).loss)
    first = next(index for index, one in enumerate(found) if one)
    assert first < 10
    behind = found[first]
    assert behind.count == 5
    assert behind.share == pytest.approx(0.08, abs=0.02)
    assert (behind.warmup, behind.usual_warmup) == (0, 50)


def test_a_better_run_is_not_behind_and_with_a_metric_that_is_to_be_high_it_is():
    low = run(9, shift=-0.08).loss
    assert not any(told(MatchedRuns(TWINS, plan(), 10_000), low))
    assert any(told(MatchedRuns(TWINS, plan(), 10_000, rising=True), low))


@pytest.mark.parametrize(
    "others",
    [
        [run(seed) for seed in range(2)],
        [run(seed, params=20_000) for seed in range(5)],
        [run(seed, peak=3e-3) for seed in range(5)],
    ],
)
def test_only_runs_of_the_same_size_and_rate_are_twins_and_two_are_too_few(others):
    assert not any(told(MatchedRuns(others, plan(), 10_000), run(9, shift=0.3).loss))


def test_the_memory_of_the_twins_survives_a_round_trip():
    loss = run(9, shift=0.08).loss
    whole = told(MatchedRuns(TWINS, plan(), 10_000), loss, 200)
    first = MatchedRuns(TWINS, plan(), 10_000)
    told(first, loss, 30)
    second = MatchedRuns(TWINS, plan(), 10_000)
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    rest = [second.compare(end - 10, end, float(loss[end - 10 : end].mean())) for end in range(40, 201, 10)]
    assert rest == whole[3:]


def test_the_monitor_says_that_a_run_without_warm_up_is_behind():
    monitor = Monitor(plan(warmup=0), params=10_000, history=RunHistory(TWINS))
    bad = run(9, shift=0.1, warmup=0)
    updates = monitor.observe(bad.step[:200], bad.loss[:200], lr=bad.lr[:200])
    advice = next(update.advice for update in updates if update.advice.evidence.get("suspect") == "warm-up")
    assert "They warmed up over 50 steps, this run over none; check first the warm-up" in advice.reason


CALM = Deviation(False, 1.0, None, None, "undecidable")


def test_after_an_announced_change_earlier_runs_are_no_measure():
    background = AdviceContext(plan(), 10_000)
    background.teach(TWINS)
    background.mark("new data")
    curve, loss = Curve(), run(9, shift=0.3).loss
    for end in range(10, 300, 10):
        curve.add(STEPS[end - 10 : end], loss[end - 10 : end])
        mean = float(loss[end - 10 : end].mean())
        assert background.told(end, mean, curve, CALM, None)["behind"] is None


def valley(best=2e-3, peaks=(5e-4, 1e-3, 2e-3, 4e-3, 8e-3), curvature=0.05):
    return [
        run(seed, peak=peak, shift=curvature * np.log(peak / best) ** 2, noise=0.005) for seed, peak in enumerate(peaks)
    ]


@pytest.mark.parametrize("peak", [1e-4, 4e-2])
def test_a_rate_far_off_the_valley_of_the_family_is_told(peak):
    found = best_rate(valley(), plan(peak), 10_000)
    assert found.lower < 2e-3 < found.upper
    assert found.cost > 0.05
    assert found.count == 5


@pytest.mark.parametrize("peak", [1e-3, 2e-3, 4e-3])
def test_a_rate_near_the_valley_is_not(peak):
    assert best_rate(valley(), plan(peak), 10_000) is None


@pytest.mark.parametrize(
    "runs",
    [
        valley(peaks=(1e-3, 2e-3, 4e-3)),
        valley(peaks=(1e-3, 1.2e-3, 1.5e-3, 1.8e-3, 2e-3)),
        valley(best=1e-1),
        valley(curvature=-0.05),
        [run(seed, peak=peak, params=99) for seed, peak in enumerate((5e-4, 1e-3, 2e-3, 4e-3, 8e-3))],
        [run(seed, peak=peak, steps=500) for seed, peak in enumerate((5e-4, 1e-3, 2e-3, 4e-3, 8e-3))],
    ],
)
def test_without_a_valley_that_was_seen_nothing_is_said(runs):
    assert best_rate(runs, plan(5e-2), 10_000) is None
