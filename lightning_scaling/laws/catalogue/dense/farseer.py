"""Loss from parameters and tokens, with a data exponent that depends on size."""

from __future__ import annotations

from typing import Any

import numpy as np

from lightning_scaling.laws.base import Law, Parameter, Source


class Farseer(Law):
    """``loss = exp(a_3 params^gamma + b_3) + exp(a_2 params^beta + b_2) * tokens^-exp(a_1 params^alpha + b_1)``.

    The first term is what endless data leave to a model of that size, the second how data reach it: its coefficient and
    its exponent are stretched exponentials of size. ``gamma`` and ``alpha`` are positive, ``beta`` negative; ``a_3``
    and ``a_1`` negative, ``a_2`` positive. Li et al. 2025 (arXiv 2506.10972); their losses are in bits per character.
    """

    name = "farseer"
    title = "Farseer: loss from parameters and tokens, the data exponent changing with size"
    formula = "loss = exp(a_3*params^gamma + b_3) + exp(a_2*params^beta + b_2)*tokens^-exp(a_1*params^alpha + b_1)"
    source = Source("Li et al.", 2025, "2506.10972", "Farseer")
    inputs = ("params", "tokens")
    parameters = (
        Parameter("a_1", "fall of the data exponent with size", (-0.6, -0.02), lower=-10.0, upper=0.0),
        Parameter("b_1", "logarithm of the data exponent of the least model", (0.05, 1.5), lower=-5.0, upper=5.0),
        Parameter("alpha", "power of size in the data exponent", (0.06, 0.25), upper=1.0),
        Parameter("a_2", "fall of the data coefficient with size", (15.0, 200.0), upper=1e4),
        Parameter(
            "b_2", "logarithm of the data coefficient of an endless model", (-12.0, 8.0), lower=-60.0, upper=60.0
        ),
        Parameter("beta", "power of size in the data coefficient", (-0.2, -0.05), lower=-1.0, upper=0.0),
        Parameter("a_3", "fall of the floor with size", (-0.2, -0.004), lower=-10.0, upper=0.0),
        Parameter("b_3", "logarithm of the floor of the least model", (-1.0, 2.0), lower=-10.0, upper=10.0),
        Parameter("gamma", "power of size in the floor", (0.05, 0.4), upper=1.0),
    )
    tags = frozenset({"ladder", "allocation"})
    pitfalls = (
        "Nine parameters: it wants a full grid of sizes and data, not a thin ladder.",
        "Each triple (a, b, power) is tightly linked; constants rounded to three digits no longer give the published "
        "allocation, so none are carried.",
        "Beyond the largest fitted size the data exponent runs to zero and the law prefers endless models: allocate "
        "inside the fitted range only.",
    )

    def value(self, p: Any, x: Any) -> Any:
        """The floor of that size plus the data term."""
        size, data = np.log(x.params), np.log(x.tokens)
        floor = p.a_3 * np.exp(p.gamma * size) + p.b_3
        exponent = np.exp(p.a_1 * np.exp(p.alpha * size) + p.b_1)
        return np.exp(floor) + np.exp(p.a_2 * np.exp(p.beta * size) + p.b_2 - exponent * data)
