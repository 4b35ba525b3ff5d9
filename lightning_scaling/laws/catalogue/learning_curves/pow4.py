"""Learning curve: a shifted power law to a ceiling."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from lightning_scaling.laws.base import Parameter
from lightning_scaling.laws.catalogue.learning_curves.rising import Rising


class Power4(Rising):
    """``performance = c - (a*steps + b)^-alpha``.

    ``c`` is the ceiling, ``a`` the rate, ``b`` the shift and ``alpha`` the exponent. Domhan et al. 2015 (IJCAI),
    table 1.
    """

    name = "pow4"
    title = "pow4: a shifted power law to a ceiling"
    formula = "performance = c - (a*steps + b)^-alpha"
    parameters = (
        Parameter("c", "ceiling", (0.3, 1.5), -math.inf),
        Parameter("a", "rate", (1e-4, 10.0), 1e-12, 1e9),
        Parameter("b", "shift", (0.3, 30.0), 1e-9, 1e9),
        Parameter("alpha", "exponent", (0.02, 3.0), 1e-4, 20.0),
    )
    pitfalls = ("Four shape parameters that trade off on smooth curves.",)

    def value(self, p: Any, x: Any) -> Any:
        """``c - (a*steps + b)^-alpha``."""
        return p.c - np.exp(-p.alpha * np.log(p.a * x.steps + p.b))
