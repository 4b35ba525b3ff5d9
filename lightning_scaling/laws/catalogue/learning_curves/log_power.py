"""Learning curve: a logistic in the logarithm of steps."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from lightning_scaling.laws.base import Parameter
from lightning_scaling.laws.catalogue.learning_curves.rising import Rising, rest


class LogPower(Rising):
    """``performance = a/(1 + (steps/exp(b))^c)``.

    ``a`` is the ceiling, ``b`` the logarithm of the steps of half of it, ``c`` minus the steepness. Domhan et al.
    2015 (IJCAI), table 1.
    """

    name = "log_power"
    title = "log_power: a logistic in the logarithm of steps"
    formula = "performance = a/(1 + (steps/exp(b))^c)"
    parameters = (
        Parameter("a", "ceiling", (0.3, 1.5), -math.inf),
        Parameter("b", "logarithm of the steps of half the ceiling", (0.0, 14.0), -60.0, 60.0),
        Parameter("c", "minus the steepness", (-5.0, -0.1), -50.0, -0.01),
    )
    linear = ("a",)
    pitfalls = ("The same curves as hill3, in other parameters.",)

    def value(self, p: Any, x: Any) -> Any:
        """``a/(1 + (steps/exp(b))^c)``."""
        return p.a * rest(p.c * (np.log(x.steps) - p.b))
