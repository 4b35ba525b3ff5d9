"""Truths planted for laws of learning rate, batch and counting."""

import numpy as np
from planted_chinchilla import grid

_FLOPS = np.geomspace(1e17, 1e23, 40)
_BATCH = np.geomspace(1e4, 1e8, 40)

CASES = {
    "step_law_rate": (
        {"c": 1.8, "alpha": -0.71, "beta": 0.31},
        grid(params=np.geomspace(5e7, 1e10, 7), tokens=np.geomspace(1e9, 1e12, 7)),
    ),
    "step_law_batch": ({"d": 0.58, "gamma": 0.57}, {"tokens": np.geomspace(1e9, 1e13, 40)}),
    "deepseek_rate": ({"c": 0.31, "a": -0.125}, {"flops": _FLOPS}),
    "deepseek_batch": ({"c": 0.29, "a": 0.33}, {"flops": _FLOPS}),
    "kaplan_critical_batch": ({"B_star": 2e8, "alpha_B": 0.21}, {"training_loss": np.linspace(1.8, 8.0, 40)}),
    "critical_batch_tokens": ({"a": 22.0, "b": 0.47}, {"tokens": np.geomspace(1e9, 1e13, 40)}),
    "batch_tradeoff": ({"S_min": 8000.0, "B_crit": 1.2e6}, {"batch_tokens": _BATCH}),
    "rate_for_batch": ({"eta_max": 6e-3, "B_noise": 9e5}, {"batch_tokens": _BATCH}),
    "pearce_params": ({"omega": 47491.0}, {"non_embedding_params": np.geomspace(1e5, 1e11, 40)}),
}
