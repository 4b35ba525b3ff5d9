"""Compute to loss, loss to performance."""

from __future__ import annotations

import math
from types import MappingProxyType
from typing import Any

import numpy as np

from lightning_scaling.laws.base import Law, Parameter, Source

_PAPER = Source("Chen et al.", 2024, "2410.08527")


class FLPLoss(Law):
    """``loss = (C_N / flops)^alpha_N``.

    First of two steps: the pre-training loss of fully trained models from compute.

    Chen et al. 2024 (arXiv 2410.08527).
    """

    name = "flp_loss"
    title = "FLP: loss from compute"
    formula = "loss = (C_N/flops)^alpha_N"
    source = _PAPER
    inputs = ("flops",)
    parameters = (
        Parameter("C_N", "compute at a loss of one", (1e-2, 1e30), 0.0, math.inf, log=True, of="flops"),
        Parameter("alpha_N", "exponent", (0.01, 0.4), 1e-4, 4.0),
    )
    tags = frozenset({"downstream", "ladder"})
    pitfalls = (
        "It has no floor: over many decades of compute prefer one that has.",
        "Points are final losses of models with their own schedule, not checkpoints.",
    )

    def value(self, p: Any, x: Any) -> Any:
        """``(C_N / flops)^alpha_N``, in logarithms."""
        return np.exp(p.alpha_N * (np.log(p.C_N) - np.log(x.flops)))


class FLPPerformance(Law):
    """``performance = w_0 + w_1 pretraining_loss``, with ``w_1`` below zero.

    Second of two steps: a straight line, for the losses at which the task is above chance.

    Chen et al. 2024 (arXiv 2410.08527).
    """

    name = "flp_performance"
    title = "FLP: performance from loss"
    formula = "performance = w_0 + w_1*pretraining_loss"
    source = _PAPER
    inputs = ("pretraining_loss",)
    units = MappingProxyType({"pretraining_loss": "pre-training loss"})
    output = "performance"
    space = "linear"
    parameters = (
        Parameter("w_0", "performance at no loss", (0.1, 4.0), -math.inf, math.inf),
        Parameter("w_1", "change per unit of loss", (-2.0, -0.01), -math.inf, math.inf),
    )
    linear = ("w_0", "w_1")
    tags = frozenset({"downstream"})
    pitfalls = (
        "Only points above chance may enter; checkpoints of the runs can.",
        "A line leaves the range from chance to one at both ends: sigmoid_accuracy does not.",
    )

    def value(self, p: Any, x: Any) -> Any:
        """``w_0 + w_1 pretraining_loss``."""
        return p.w_0 + p.w_1 * x.pretraining_loss
