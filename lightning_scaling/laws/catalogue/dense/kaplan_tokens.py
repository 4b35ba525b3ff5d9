"""Loss from the data set alone, without a floor."""

from __future__ import annotations

from typing import Any

import numpy as np

from lightning_scaling.laws.base import Law, Parameter, Published, Source

_KAPLAN = Source("Kaplan et al.", 2020, "2001.08361", "eq. 1.2")


class KaplanTokens(Law):
    """``loss = (D_c / tokens)^alpha_D``.

    Large models stopped early. ``tokens`` is the size of the data set, which is seen more than once; the loss is in
    nats per token. Kaplan et al. 2020 (arXiv 2001.08361), equation 1.2.
    """

    name = "kaplan_tokens"
    title = "Kaplan: loss from the data set"
    formula = "loss = (D_c/tokens)^alpha_D"
    source = _KAPLAN
    inputs = ("tokens",)
    parameters = (
        Parameter("D_c", "tokens at which the loss would be 1", (1e-3, 1e12), log=True, of="tokens"),
        Parameter("alpha_D", "data exponent of the total loss", (0.02, 0.6), upper=4.0),
    )
    tags = frozenset({"ladder"})
    published_constants = (
        Published(
            "kaplan",
            {"D_c": 5.4e13, "alpha_D": 0.095},
            _KAPLAN,
            "transcribed",
            "WebText2, nats per token; several epochs, stopped early.",
        ),
    )
    pitfalls = (
        "There is no irreducible loss: the exponent is the slope of the total.",
        "tokens is the data set, not what was seen of it.",
    )

    def value(self, p: Any, x: Any) -> Any:
        """``(D_c / tokens)^alpha_D``."""
        return np.exp(p.alpha_D * (np.log(p.D_c) - np.log(x.tokens)))
