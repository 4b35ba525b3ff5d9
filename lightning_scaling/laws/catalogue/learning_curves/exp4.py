"""Learning curve: a stretched exponential to a ceiling."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from lightning_scaling.laws.base import Parameter
from lightning_scaling.laws.catalogue.learning_curves.rising import Rising


class Exponential4(Rising):
    """``performance = c - exp(-a*steps^alpha + b)``.

    ``c`` is the ceiling, ``a`` the coefficient, ``b`` the logarithm of what is missing at the start, ``alpha`` the
    stretching. Domhan et al. 2015 (IJCAI), table 1.
    """

    name = "exp4"
    title = "exp4: a stretched exponential to a ceiling"
    formula = "performance = c - exp(-a*steps^alpha + b)"
    parameters = (
        Parameter("c", "ceiling", (0.3, 1.5), -math.inf),
        Parameter("a", "coefficient", (1e-6, 10.0), log=True),
        Parameter("b", "logarithm of what is missing at the start", (-4.0, 1.0), -40.0, 40.0),
        Parameter("alpha", "stretching", (0.1, 2.0), 0.01, 20.0),
    )
    linear = ("c",)
    pitfalls = ("It reaches its ceiling sooner than losses of large models do.",)

    def value(self, p: Any, x: Any) -> Any:
        """``c - exp(-a*steps^alpha + b)``."""
        return p.c - np.exp(p.b - p.a * x.steps**p.alpha)
