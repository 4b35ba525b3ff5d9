"""Performance of an agent from its size and its experience."""

from __future__ import annotations

import math
from types import MappingProxyType
from typing import Any

import numpy as np

from lightning_scaling.laws.base import Law, Parameter, Source


class Hilton(Law):
    """``I^-beta = (N_c/params)^alpha_N + (E_c/interactions)^alpha_E``, ``1/beta = 1/alpha_N + 1/alpha_E``.

    ``I``, the intrinsic performance, is the least compute with which any size reaches the same return; by that
    definition ``beta`` follows from the two exponents. The optimal size grows as compute to the power ``1/(1 +
    alpha_N/alpha_E)``.

    Hilton, Tang and Schulman 2023 (arXiv 2301.13442); the power law is confirmed by secondary sources, this form
    recalled with high confidence.
    """

    name = "hilton"
    title = "Hilton: single-agent reinforcement learning"
    formula = "intrinsic_performance = ((N_c/params)^alpha_N + (E_c/interactions)^alpha_E)^-(1/alpha_N + 1/alpha_E)"
    source = Source("Hilton et al.", 2023, "2301.13442")
    inputs = ("params", "interactions")
    units = MappingProxyType({"interactions": "interactions with the environment"})
    output = "intrinsic_performance"
    parameters = (
        Parameter("N_c", "size scale", (1e-10, 1e6), 0.0, math.inf, log=True, of="params"),
        Parameter("alpha_N", "size exponent", (0.1, 3.0), 0.01, 20.0),
        Parameter("E_c", "experience scale", (1e-10, 1e6), 0.0, math.inf, log=True, of="interactions"),
        Parameter("alpha_E", "experience exponent", (0.1, 3.0), 0.01, 20.0),
    )
    tags = frozenset({"RL", "ladder", "allocation"})
    pitfalls = (
        "The return itself is not smooth: turn it into intrinsic performance first, which takes a ladder of sizes.",
        "A longer horizon changes the coefficients and hardly the exponents.",
        "Exponents of the optimal size lay between about .4 and .8 over environments; no constants are carried.",
    )

    def value(self, p: Any, x: Any) -> Any:
        """In logarithms, so that large powers do not overflow."""
        size = p.alpha_N * (np.log(p.N_c) - np.log(x.params))
        experience = p.alpha_E * (np.log(p.E_c) - np.log(x.interactions))
        return np.exp(-(1.0 / p.alpha_N + 1.0 / p.alpha_E) * np.logaddexp(size, experience))
