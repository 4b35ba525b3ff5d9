"""Loss of a weight-sparse network."""

from __future__ import annotations

from types import MappingProxyType
from typing import Any

from lightning_scaling.laws.base import Law, Parameter, Published, Source

_PAPER = Source("Frantar et al.", 2023, "2309.08520", "table of fitted coefficients")


class Frantar(Law):
    """``loss = (a_S (1 - sparsity)^b_S + c_S) / params^b_N + (a_D / tokens)^b_D + c``.

    ``params`` are the weights that are not zero, so sparsity at a fixed cost makes the network larger: the bracket, the
    capacity of a non-zero weight, falls from ``a_S + c_S`` (dense) to ``c_S``. It multiplies the size term only.

    Frantar et al. 2023 (arXiv 2309.08520), equation 1.
    """

    name = "frantar"
    title = "Frantar: sparse weights"
    formula = "loss = (a_S*(1 - sparsity)^b_S + c_S)/params^b_N + (a_D/tokens)^b_D + c"
    source = Source("Frantar et al.", 2023, "2309.08520", "eq. 1")
    inputs = ("params", "sparsity", "tokens")
    units = MappingProxyType({"params": "non-zero model parameters"})
    parameters = (
        Parameter("a_S", "size coefficient lost to sparsity", (1e-2, 1e7), log=True),
        Parameter("b_S", "exponent of the density", (0.1, 3.0), upper=8.0),
        Parameter("c_S", "size coefficient at full sparsity", (1e-2, 1e7), log=True),
        Parameter("b_N", "size exponent", (0.08, 1.0), upper=4.0),
        Parameter("a_D", "data scale", (1e-8, 1e1), of="tokens", log=True),
        Parameter("b_D", "data exponent", (0.08, 1.5), upper=4.0),
        Parameter("c", "irreducible loss", (0.0, 1.0), of="loss"),
    )
    zero_allowed = ("sparsity",)
    tags = frozenset({"ladder", "allocation", "sparse"})
    published_constants = (
        Published(
            "t5_c4",
            {"a_S": 16.8, "b_S": 0.722, "c_S": 45.0, "b_N": 0.245, "a_D": 6.90e8, "b_D": 0.203, "c": 0.651},
            _PAPER,
            "transcribed",
            "T5 on C4, span corruption; params are the non-zero encoder and decoder weights.",
        ),
        Published(
            "vit_jft",
            {"a_S": 294.0, "b_S": 0.821, "c_S": 468.0, "b_N": 0.392, "a_D": 2.37e8, "b_D": 0.890, "c": 4.517},
            _PAPER,
            "recalled",
            "ViT on JFT-4B, medium confidence; data are images. Refit before relying on it.",
        ),
    )
    pitfalls = (
        "Secondary sources print the sparsity factor on both terms; the original has it on the size term.",
        "Unstructured sparsity up to 7/8 only, reached by gradual pruning during training.",
        "Counting all weights instead of the non-zero ones turns a gain into a loss.",
    )

    def value(self, p: Any, x: Any) -> Any:
        """Capacity over size, plus data, plus floor."""
        capacity = p.a_S * (1.0 - x.sparsity) ** p.b_S + p.c_S
        return capacity * x.params**-p.b_N + (p.a_D / x.tokens) ** p.b_D + p.c
