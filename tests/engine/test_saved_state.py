"""A monitor saved at any step and restored goes on as the one that was never interrupted."""

from __future__ import annotations

import json

import numpy as np
import pytest

from lightning_scaling._utils.serialization import to_builtins, with_nonfinite
from lightning_scaling.engine.monitor import Monitor
from lightning_scaling.schedule.plan import Plan

TOTAL = 2000
STEPS = np.arange(1, TOTAL + 1)
PLAN = Plan(STEPS, 1e-3 * (0.1 + 0.9 * np.cos(np.pi * STEPS / TOTAL / 2)), total_steps=TOTAL)


def losses(fault: str) -> np.ndarray:
    draw = np.random.default_rng(3)
    clean = 2 + 3 * STEPS**-0.3 + 0.02 * draw.standard_normal(TOTAL)
    shift = {
        "none": 0.0,
        "shift": 0.3 * (STEPS > 1000) * (STEPS <= 1400),
        "noise": 0.0,
        "blow-up": 9.0 * (STEPS > 1000),
    }
    noisier = 0.3 * draw.standard_normal(TOTAL) * (STEPS > 1000) if fault == "noise" else 0.0
    return clean + shift[fault] + noisier


def follow(monitor: Monitor, loss: np.ndarray, begin: int, end: int) -> None:
    for start in range(begin, end, 25):
        part = slice(start, min(start + 25, end))
        monitor.observe(STEPS[part], loss[part], lr=PLAN.at(STEPS[part]), tokens=STEPS[part] * 10.0)


def said(monitor: Monitor) -> str:
    """Forecasts, evidence and advice: all that was said at all updates, and what is said now."""
    now = [monitor.deviation.to_dict(), monitor.advice.to_dict(), [one.to_dict() for one in monitor.advice_log]]
    return json.dumps(to_builtins([monitor.forecast_log, now], nonfinite="text"))


@pytest.mark.parametrize("fault", ["none", "shift", "noise", "blow-up"])
def test_forecasts_evidence_and_advice_go_on(fault):
    loss = losses(fault)
    whole = Monitor(PLAN, params=1000)
    saved = {}
    at = [25, 300, 1125, 1475, 1725]  # a resume shortly before a fault is named in the advice
    for begin, end in zip([0, *at], [*at, TOTAL], strict=True):
        follow(whole, loss, begin, end)
        saved[end] = json.dumps(to_builtins(whole.state_dict(), nonfinite="text"))
    if fault != "none":
        assert any(one.action != "continue" for one in whole.advice_log)
    for end in at:
        resumed = Monitor(PLAN, params=1000)
        resumed.load_state_dict(with_nonfinite(json.loads(saved[end])))
        resumed.mark(f"resumed at step {end}", resumed=True)
        follow(resumed, loss, end, TOTAL)
        assert said(resumed) == said(whole)


def test_a_plan_simulated_from_the_step_of_the_resume_is_the_old_one():
    """Evidence goes on where the Trainer plans the same, and begins anew where it plans something else."""
    whole = Monitor(PLAN, params=1000)
    follow(whole, losses("none"), 0, 1000)
    ahead = STEPS[STEPS >= 1000]
    same, other = (Monitor(Plan(ahead, rate, total_steps=TOTAL)) for rate in (PLAN.at(ahead), 0.5 * PLAN.at(ahead)))
    for monitor in (same, other):
        monitor.load_state_dict(whole.state_dict())
    assert same.plan.to_dict() == PLAN.to_dict()
    assert same.deviation.verdict == "on track"
    assert other.plan.at([TOTAL])[0] == 0.5 * PLAN.at([TOTAL])[0]
    follow(same, losses("none"), 1000, 1020)
    follow(other, losses("none"), 1000, 1020)
    assert same.deviation.verdict == "on track"
    assert other.deviation.verdict == "undecidable"
