"""Loss of a pruned model after further training."""

from __future__ import annotations

import math
from types import MappingProxyType
from typing import Any

from lightning_scaling.laws.base import Law, Parameter, Source


class P2(Law):
    """``loss = dense_loss + rho^-gamma params^-delta (N_C/params^alpha + D_C/tokens^beta + E)``.

    ``params`` and ``dense_loss`` are those of the model before pruning, ``rho`` the share pruned away, ``tokens``
    those of the training after it. With ``gamma`` negative, pruning more costs more; what ``tokens`` cannot heal is
    ``E``.

    Chen et al. 2024 (arXiv 2411.10272), the chosen one of three candidates, from a secondary transcription of the
    abstract page; reviews that print it without the factor ``params^-delta`` are incomplete.
    """

    name = "p2"
    title = "P2: training after pruning"
    formula = "loss = dense_loss + rho^-gamma*params^-delta*(N_C/params^alpha + D_C/tokens^beta + E)"
    source = Source("Chen et al.", 2024, "2411.10272")
    inputs = ("params", "tokens", "rho", "dense_loss")
    units = MappingProxyType(
        {
            "params": "model parameters before pruning",
            "tokens": "training tokens after pruning",
            "rho": "share of the weights (layers, channels) pruned, above 0 and below 1",
            "dense_loss": "loss of the model before pruning",
        }
    )
    parameters = (
        Parameter("N_C", "size coefficient", (1e-2, 1e6), log=True),
        Parameter("alpha", "size exponent", (0.05, 1.0), upper=4.0),
        Parameter("D_C", "data coefficient", (1.0, 1e7), log=True),
        Parameter("beta", "data exponent", (0.1, 1.0), upper=4.0),
        Parameter("E", "what further training cannot heal", (1e-2, 1e3), log=True),
        Parameter("gamma", "exponent of one over the pruned share", (-4.0, -0.3), -12.0, 4.0),
        Parameter("delta", "exponent of one over the size", (0.02, 0.5), -math.inf, 4.0),
    )
    tags = frozenset({"ladder", "sparse"})
    pitfalls = (
        "The loss before pruning must be measured on the same text as the loss after it.",
        "Each way of pruning (depth, width, 2:4) needs its own fit; at 2:4 the share is always one half, so fix gamma.",
        "With one size only, delta, alpha and N_C cannot be separated: fix delta and alpha.",
    )

    def value(self, p: Any, x: Any) -> Any:
        """The loss before pruning and what pruning adds to it."""
        damage = p.N_C * x.params**-p.alpha + p.D_C * x.tokens**-p.beta + p.E
        return x.dense_loss + x.rho**-p.gamma * x.params**-p.delta * damage
