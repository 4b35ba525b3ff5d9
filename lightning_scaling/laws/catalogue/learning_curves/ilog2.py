"""Learning curve: an inverse logarithm."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from lightning_scaling.laws.base import Parameter
from lightning_scaling.laws.catalogue.learning_curves.rising import Rising


class InverseLogarithm(Rising):
    """``performance = c - a/log(steps + 1)``.

    ``c`` is the ceiling and ``a`` what is missing from it; one step is added so that the first can be used. Domhan et
    al. 2015 (IJCAI), table 1.
    """

    name = "ilog2"
    title = "ilog2: an inverse logarithm"
    formula = "performance = c - a/log(steps + 1)"
    parameters = (
        Parameter("c", "ceiling", (0.0, 2.0), -math.inf),
        Parameter("a", "what is missing", (-2.0, 2.0), -math.inf),
    )
    linear = ("c", "a")
    pitfalls = ("It nears its ceiling more slowly than any power law.",)

    def value(self, p: Any, x: Any) -> Any:
        """``c - a/log(steps + 1)``."""
        return p.c - p.a / np.log(x.steps + 1.0)
