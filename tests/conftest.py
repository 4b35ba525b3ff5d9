from __future__ import annotations

import numpy as np
import pytest

from lightning_scaling import Run
from lightning_scaling.schedule import Plan
from lightning_scaling.schedule.progress import ANNEAL_RATES, Progress


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory):
    """No test reads or writes the cache of whoever runs the tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LIGHTNING_SCALING_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
        yield


def schedule(kind: str, total: int, warmup: int) -> Plan:
    steps = np.arange(1, total + 1)
    rate = np.minimum(steps / warmup, 1.0)
    after = np.clip((steps - warmup) / (total - warmup), 0, 1)
    if kind == "cosine":
        rate = rate * (0.1 + 0.45 * (1 + np.cos(np.pi * after)))
    elif kind == "wsd":
        rate = rate * np.clip((1 - after) / 0.2, 0, 1)
    return Plan(steps, 3e-4 * rate, total_steps=total)


@pytest.fixture
def make_run():
    """A run that follows the multi-power law with given shape, with independent noise on every recorded point."""

    def make(
        kind="cosine",
        total=4000,
        alpha=0.45,
        kappa=1.2,
        floor=2.5,
        drop=0.4,
        noise=0.003,
        every=10,
        seed=0,
        warmup=0.02,
        **known,
    ):
        plan = schedule(kind, total, warmup=int(warmup * total))
        steps = np.arange(every, total + 1, every)
        progress = Progress(plan, total)
        gain = progress.annealing(steps)[ANNEAL_RATES.index(0.03)]
        loss = floor + drop * (progress.progress(steps) ** -alpha - kappa * alpha * gain)
        loss = loss + np.random.default_rng(seed).normal(0, noise, steps.size)
        return Run(steps, loss, plan.at(steps), total_steps=total, planned_lr=(plan.steps, plan.lr), **known)

    return make
