"""Reward of reinforcement learning on a language model from its compute."""

from __future__ import annotations

import math
from types import MappingProxyType
from typing import Any

import numpy as np

from lightning_scaling.laws.base import Law, Parameter, Source


class ScaleRL(Law):
    """``reward = R_0 + (A - R_0) / (1 + (C_mid / compute)^B)``.

    A rise from ``R_0`` before training to the ceiling ``A``; ``C_mid`` is the compute of half the gain and ``B`` how
    steep it is. Choices of method mostly move ``C_mid`` and ``B``; few move ``A``.

    Khatri et al. 2025 (arXiv 2510.13786), equation 1.
    """

    name = "scale_rl"
    title = "ScaleRL: a bounded rise"
    formula = "reward = R_0 + (A - R_0)/(1 + (C_mid/compute)^B)"
    source = Source("Khatri et al.", 2025, "2510.13786", "eq. 1")
    inputs = ("compute",)
    units = MappingProxyType({"compute": "compute of reinforcement learning, in any one unit (GPU-hours in the paper)"})
    output = "reward"
    space = "linear"
    parameters = (
        Parameter("R_0", "reward before training", (0.0, 1.0), -math.inf, math.inf, of="loss"),
        Parameter("A", "ceiling", (1.0, 4.0), -math.inf, math.inf, of="loss"),
        Parameter("C_mid", "compute of half the gain", (1e-2, 1e2), log=True, of="compute"),
        Parameter("B", "steepness", (0.2, 6.0), 0.01, 40.0),
    )
    linear = ("R_0", "A")
    tags = frozenset({"RL", "single run"})
    pitfalls = (
        "Leave out the first noisy part (about 1,500 GPU-hours in the paper), and fix R_0 at the reward measured "
        "before training.",
        "Before half the gain the ceiling is a guess.",
        "Fit a held-out pass rate, not the reward of the training batches.",
    )

    def value(self, p: Any, x: Any) -> Any:
        """The two levels, weighed by a logistic in log compute."""
        gained = 0.5 * (1.0 + np.tanh(0.5 * p.B * (np.log(x.compute) - np.log(p.C_mid))))
        return p.R_0 * (1.0 - gained) + p.A * gained
