from __future__ import annotations

import numpy as np
import pytest

from lightning_scaling import laws

TRUTH = {"E": 1.8, "A": 480.0, "alpha": 0.35, "B": 2000.0, "beta": 0.37}
BUDGETS = np.geomspace(1e18, 1e20, 7)


def optimum(flops, truth=TRUTH):
    total = truth["alpha"] + truth["beta"]
    g = (truth["alpha"] * truth["A"] / (truth["beta"] * truth["B"])) ** (1 / total)
    return g * (np.asarray(flops) / 6) ** (truth["beta"] / total)


@pytest.fixture
def best_size():
    """Optimal size at a budget under the planted surface, in closed form."""
    return optimum


@pytest.fixture
def make_runs():
    """Runs of a planted surface: sizes spread around the optimum of each budget (or a shifted centre)."""

    def make(noise=0.001, seed=0, budgets=BUDGETS, span=6.0, sizes=8, shift=1.0, truth=TRUTH):
        rng = np.random.default_rng(seed)
        flops = np.repeat(budgets, sizes)
        params = np.concatenate([optimum(c, truth) * shift * np.geomspace(1 / span, span, sizes) for c in budgets])
        tokens = flops / 6 / params
        loss = laws.get("chinchilla").evaluate(truth, params=params, tokens=tokens)
        return {
            "params": params,
            "tokens": tokens,
            "flops": flops,
            "loss": loss * np.exp(noise * rng.standard_normal(len(loss))),
        }

    return make


@pytest.fixture
def besiroglu():
    return laws.get("chinchilla").known("besiroglu")


@pytest.fixture
def fitted(make_runs):
    runs = make_runs()
    return laws.get("chinchilla").fit({name: runs[name] for name in ("params", "tokens", "loss")})
