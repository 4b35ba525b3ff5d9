"""Loss from parameters and tokens, the two terms coupled."""

from __future__ import annotations

from typing import Any

import numpy as np

from lightning_scaling.laws.base import Law, Parameter, Source


class Coupled(Law):
    """``loss = E + (A / params^alpha + B / tokens^beta)^gamma``.

    An irreducible loss and what a finite model and finite data add to it, joined under one exponent: with ``gamma``
    below 1 the scarcer of the two rules more than in the Chinchilla form (``gamma = 1``). The compute-optimal size
    depends on ``A``, ``alpha``, ``B`` and ``beta`` only. ``params`` and ``tokens`` count as the ladder counts them; the
    loss is in nats per token. The form in which Busbridge et al. 2025 (arXiv 2502.08606) write the loss of models
    trained without a teacher.
    """

    name = "coupled"
    title = "Coupled: loss from parameters and tokens"
    formula = "loss = E + (A/params^alpha + B/tokens^beta)^gamma"
    source = Source("Busbridge et al.", 2025, "2502.08606", "supervised law")
    inputs = ("params", "tokens")
    parameters = (
        Parameter("E", "irreducible loss", (0.0, 1.0), of="loss", prior=(0.68, 0.125)),
        Parameter("A", "size coefficient", (1e-1, 1e7), log=True),
        Parameter("alpha", "size exponent inside the bracket", (0.1, 1.5), upper=6.0, prior=(0.56, 0.25)),
        Parameter("B", "data coefficient", (1e-1, 1e7), log=True),
        Parameter("beta", "data exponent inside the bracket", (0.1, 1.5), upper=6.0, prior=(0.56, 0.25)),
        Parameter("gamma", "exponent of the bracket", (0.3, 1.5), 0.01, 6.0, prior=(0.62, 0.2)),
    )
    linear = ("E",)
    tags = frozenset({"ladder", "allocation"})
    siblings = ("chinchilla", "over_training")
    pitfalls = (
        "One parameter more than Chinchilla: with few sizes or few token counts use priors or frontier weights.",
        "Exponents are those inside the bracket; multiply by gamma to compare them with Chinchilla's.",
    )

    def value(self, p: Any, x: Any) -> Any:
        """``E + (A params^-alpha + B tokens^-beta)^gamma``, the bracket in logarithms."""
        size = np.log(p.A) - p.alpha * np.log(x.params)
        data = np.log(p.B) - p.beta * np.log(x.tokens)
        return p.E + np.exp(p.gamma * np.logaddexp(size, data))
