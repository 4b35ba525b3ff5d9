"""Loss from model size alone, without a floor."""

from __future__ import annotations

from typing import Any

import numpy as np

from lightning_scaling.laws.base import Law, Parameter, Published, Source

_KAPLAN = Source("Kaplan et al.", 2020, "2001.08361", "eq. 1.1")


class KaplanParams(Law):
    """``loss = (N_c / params)^alpha_N``.

    Trained to convergence on enough data. ``params`` leave out embeddings; the loss is in nats per token. Kaplan et al.
    2020 (arXiv 2001.08361), equation 1.1.
    """

    name = "kaplan_params"
    title = "Kaplan: loss from parameters"
    formula = "loss = (N_c/params)^alpha_N"
    source = _KAPLAN
    inputs = ("params",)
    parameters = (
        Parameter("N_c", "parameters at which the loss would be 1", (1e-3, 1e12), log=True, of="params"),
        Parameter("alpha_N", "size exponent of the total loss", (0.02, 0.6), upper=4.0),
    )
    tags = frozenset({"ladder"})
    published_constants = (
        Published(
            "kaplan",
            {"N_c": 8.8e13, "alpha_N": 0.076},
            _KAPLAN,
            "transcribed",
            "WebText2, nats per token; parameters without embeddings.",
        ),
    )
    pitfalls = (
        "There is no irreducible loss: the exponent is the slope of the total and much smaller than Chinchilla's.",
        "Embeddings are left out of the count.",
    )

    def value(self, p: Any, x: Any) -> Any:
        """``(N_c / params)^alpha_N``."""
        return np.exp(p.alpha_N * (np.log(p.N_c) - np.log(x.params)))
