"""Loss from model size and training steps."""

from __future__ import annotations

from typing import Any

import numpy as np

from lightning_scaling.laws.base import Law, Parameter, Published, Source

_KAPLAN = Source("Kaplan et al.", 2020, "2001.08361", "eq. 1.6, table 3")


class KaplanParamsSteps(Law):
    """``loss = (N_c / params)^alpha_N + (S_c / steps)^alpha_S``.

    The learning curve of a model on endless data. ``steps`` counts the steps that a very large batch would need,
    ``S / (1 + B_crit / B)``; ``params`` leave out embeddings; the loss is in nats per token. Kaplan et al. 2020 (arXiv
    2001.08361), equation 1.6.
    """

    name = "kaplan_params_steps"
    title = "Kaplan: loss from parameters and steps"
    formula = "loss = (N_c/params)^alpha_N + (S_c/steps)^alpha_S"
    source = _KAPLAN
    inputs = ("params", "steps")
    parameters = (
        Parameter("N_c", "parameters at which the size term would be 1", (1e-2, 1e10), log=True, of="params"),
        Parameter("alpha_N", "size exponent", (0.02, 0.5), upper=4.0),
        Parameter("S_c", "steps at which the step term would be 1", (1e-4, 1e3), log=True, of="steps"),
        Parameter("alpha_S", "step exponent", (0.1, 1.5), upper=4.0),
    )
    tags = frozenset({"single run", "ladder"})
    published_constants = (
        Published(
            "kaplan",
            {"N_c": 6.5e13, "alpha_N": 0.077, "S_c": 2.1e3, "alpha_S": 0.76},
            _KAPLAN,
            "transcribed",
            "WebText2, nats per token; parameters without embeddings.",
            inexact={"N_c": "recalled, high confidence", "alpha_N": "recalled, high confidence"},
        ),
    )
    pitfalls = (
        "steps are those at a batch far above the critical one: correct steps taken at smaller batches first.",
        "It knows nothing of the learning-rate schedule; under a decay take multi_power or tissue.",
        "Leave the warm-up out.",
    )

    def value(self, p: Any, x: Any) -> Any:
        """``(N_c / params)^alpha_N + (S_c / steps)^alpha_S``."""
        size = np.exp(p.alpha_N * (np.log(p.N_c) - np.log(x.params)))
        return size + np.exp(p.alpha_S * (np.log(p.S_c) - np.log(x.steps)))
