"""Compute at inference for which a size is the best."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from lightning_scaling.laws.base import Law, Parameter, Published, Source

_LN10 = math.log(10.0)


class WuInference(Law):
    """``log10(flops) = slope log10(params) + intercept``.

    The budget of inference FLOPs per question at which a model of that size is the best choice, sampling and voting
    as often as the budget allows: small budgets want small models.

    Wu et al. 2024 (arXiv 2408.00724).
    """

    name = "wu_inference"
    title = "Wu: best size for a budget at inference"
    formula = "flops = 10^(slope*log10(params) + intercept)"
    source = Source("Wu et al.", 2024, "2408.00724")
    inputs = ("params",)
    output = "flops"
    parameters = (
        Parameter("slope", "exponent", (0.3, 3.0), -math.inf, math.inf),
        Parameter("intercept", "decimal logarithm of the coefficient", (-5.0, 20.0), -math.inf, math.inf),
    )
    linear = ("slope", "intercept")
    link = "log"
    tags = frozenset({"inference", "allocation"})
    published_constants = (
        Published(
            "math",
            {"slope": 1.19, "intercept": 2.03},
            Source("Wu et al.", 2024, "2408.00724"),
            "transcribed",
            "Llemma and Pythia models on mathematics problems, FLOPs per question.",
        ),
    )
    pitfalls = (
        "Voting saturates: past a point no budget makes a small model the best.",
        "It depends on the task, the length of answers and the way of sampling.",
    )

    def value(self, p: Any, x: Any) -> Any:
        """``10^intercept params^slope``."""
        return np.exp(p.slope * np.log(x.params) + p.intercept * _LN10)
