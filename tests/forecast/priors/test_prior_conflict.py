"""Prior-data conflict: past runs of another kind bias a forecast, but raise no alarm."""

import numpy as np
import pytest

from lightning_scaling import Run, RunHistory, replay
from lightning_scaling.schedule.plan import Plan

TOTAL = 4000
STEPS = np.arange(20, TOTAL + 1, 20)


def run(floor, seed):
    plan = Plan([1, 100, TOTAL], [1e-6, 1e-3, 1e-3], total_steps=TOTAL)
    noise = np.random.default_rng(seed).standard_normal(len(STEPS))
    loss = (floor + 8.0 * STEPS**-0.35) * np.exp(0.003 * noise)
    return Run(STEPS, loss, plan.at(STEPS), total_steps=TOTAL, planned_lr=(plan.steps, plan.lr), params=10**7)


@pytest.mark.parametrize("floor", [1.5, 2.6])
def test_a_healthy_run_with_unlike_past_runs_raises_no_alarm(floor):
    unlike = RunHistory([run(floor + 0.001 * i, i) for i in range(6)])
    updates = replay(run(2.0, 99), history=unlike)
    assert not any(update.deviation.alarm for update in updates)
