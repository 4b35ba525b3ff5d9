"""Accuracy of a family of models from compute."""

from __future__ import annotations

from typing import Any

import numpy as np

from lightning_scaling.laws.base import Law, Parameter, Source


class LogitCompute(Law):
    """``accuracy = 1 / (1 + (C_0 / flops)^beta)``: the logit of accuracy is ``beta (log flops - log C_0)``.

    Capability is linear in the logarithm of compute within a family, and accuracy a logistic function of it; ``C_0``
    is the compute at one half. The observational law itself takes principal components of many benchmarks, which have
    no closed form; this is what it becomes for one family and one task.

    Ruan et al. 2024 (arXiv 2405.10938), equations 3 and 4.
    """

    name = "logit_compute"
    title = "Ruan: logit of accuracy from compute"
    formula = "accuracy = 1/(1 + (C_0/flops)^beta)"
    source = Source("Ruan et al.", 2024, "2405.10938", "eq. 3 and 4")
    inputs = ("flops",)
    output = "accuracy"
    space = "linear"
    parameters = (
        Parameter("C_0", "compute at one half", (1e-6, 1e8), log=True, of="flops"),
        Parameter("beta", "slope of the logit", (0.05, 3.0), 1e-3, 20.0),
    )
    tags = frozenset({"downstream", "ladder"})
    pitfalls = (
        "One family: others turn compute into capability at another rate.",
        "Rescale accuracies so that guessing is 0 first: (accuracy - chance)/(1 - chance).",
        "Ceilings below one (wrong labels) are not in it.",
    )

    def value(self, p: Any, x: Any) -> Any:
        """A logistic in log compute."""
        return 0.5 * (1.0 + np.tanh(0.5 * p.beta * (np.log(x.flops) - np.log(p.C_0))))
