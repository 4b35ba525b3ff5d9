"""Learning curve: a power law to a ceiling."""

from __future__ import annotations

import math
from typing import Any

from lightning_scaling.laws.base import Parameter
from lightning_scaling.laws.catalogue.learning_curves.rising import Rising


class Power3(Rising):
    """``performance = c - a*steps^-alpha``.

    ``c`` is the ceiling, ``a`` what is missing at the first step, ``alpha`` the exponent. Domhan et al. 2015 (IJCAI),
    table 1.
    """

    name = "pow3"
    title = "pow3: a power law to a ceiling"
    formula = "performance = c - a*steps^-alpha"
    parameters = (
        Parameter("c", "ceiling", (0.0, 2.0), -math.inf),
        Parameter("a", "what is missing at the first step", (-2.0, 2.0), -math.inf),
        Parameter("alpha", "exponent", (0.02, 2.0), 0.0, 10.0),
    )
    linear = ("c", "a")
    pitfalls = ("With a short curve ceiling and exponent trade off.",)

    def value(self, p: Any, x: Any) -> Any:
        """``c - a*steps^-alpha``."""
        return p.c - p.a * x.steps**-p.alpha
