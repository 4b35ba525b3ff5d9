"""Learning curve: a vapour-pressure curve."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from lightning_scaling.laws.base import Parameter
from lightning_scaling.laws.catalogue.learning_curves.rising import Rising


class VapourPressure(Rising):
    """``performance = exp(a + b/steps + c*log(steps))``.

    ``a`` is the level, ``b`` how the curve starts and ``c`` how it goes on; it has no ceiling unless ``c`` is 0.
    Domhan et al. 2015 (IJCAI), table 1.
    """

    name = "vap"
    title = "vap: a vapour-pressure curve"
    formula = "performance = exp(a + b/steps + c*log(steps))"
    link = "log"
    space = "log"
    parameters = (
        Parameter("a", "level", (-3.0, 3.0), -math.inf),
        Parameter("b", "how it starts", (-20.0, 20.0), -math.inf),
        Parameter("c", "how it goes on", (-0.5, 0.5), -math.inf),
    )
    linear = ("a", "b", "c")
    pitfalls = ("It has no ceiling: with c above 0 it rises for ever.",)

    def value(self, p: Any, x: Any) -> Any:
        """``exp(a + b/steps + c*log(steps))``."""
        return np.exp(p.a + p.b / x.steps + p.c * np.log(x.steps))
