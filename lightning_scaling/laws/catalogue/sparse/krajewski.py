"""Loss of a fine-grained mixture of experts."""

from __future__ import annotations

from typing import Any

from lightning_scaling.laws.base import Law, Parameter, Published, Source

_TABLE = Source("Krajewski et al.", 2024, "2402.07871", "table 1")


class Krajewski(Law):
    """``loss = c + (g / granularity^gamma + a) / params^alpha + b / tokens^beta``.

    Finer experts (a larger ``granularity``) lower the size term towards ``a``; ``g`` and ``gamma`` say by how much
    and how soon. Granularity is by how many times an expert is smaller than the dense feed-forward layer; ``params``
    count every expert.

    Krajewski et al. 2024 (arXiv 2402.07871), equation 9. That ``params`` are the total is recalled with medium
    confidence.
    """

    name = "krajewski"
    title = "Krajewski: fine-grained experts"
    formula = "loss = c + (g/granularity^gamma + a)/params^alpha + b/tokens^beta"
    source = Source("Krajewski et al.", 2024, "2402.07871", "eq. 9")
    inputs = ("params", "tokens", "granularity")
    parameters = (
        Parameter("c", "irreducible loss", (0.0, 1.0), of="loss"),
        Parameter("g", "what coarse experts cost", (1e-2, 1e6), log=True),
        Parameter("gamma", "exponent of the granularity", (0.1, 2.0), upper=6.0),
        Parameter("a", "size coefficient with the finest experts", (1e-2, 1e7), log=True),
        Parameter("alpha", "size exponent", (0.04, 1.2), upper=4.0),
        Parameter("b", "data coefficient", (1e-2, 1e7), log=True),
        Parameter("beta", "data exponent", (0.04, 1.2), upper=4.0),
    )
    linear = ("c", "g", "a", "b")
    tags = frozenset({"ladder", "allocation", "sparse"})
    published_constants = (
        Published(
            "moe",
            {"c": 0.47, "g": 2.1, "gamma": 0.58, "a": 18.1, "alpha": 0.115, "b": 30.8, "beta": 0.147},
            _TABLE,
            "transcribed",
            "C4, nats per token; 64 times the feed-forward parameters, granularity 1 to 16, 129M to 3.7B parameters, "
            "16e9 to 130e9 tokens; Huber with delta 0.1; error of the fit .015, of validation .019. Two sources give "
            "the same digits.",
        ),
    )
    pitfalls = (
        "Fitted at one expansion (64): another one needs its own constants.",
        "Dense models have constants of their own (a 16.3, alpha .126, b 26.7, beta .127, c .47); they are not "
        "granularity 1.",
        "Exponents this small come from the low floor .47 and are not comparable with Chinchilla's.",
        "It ignores the cost of routing, which grows with the granularity.",
    )

    def value(self, p: Any, x: Any) -> Any:
        """``c + (g granularity^-gamma + a) params^-alpha + b tokens^-beta``."""
        size = p.g * x.granularity**-p.gamma + p.a
        return p.c + size * x.params**-p.alpha + p.b * x.tokens**-p.beta
