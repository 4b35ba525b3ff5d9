"""Learning curve: a line in the logarithm of steps, in a logarithm."""

from __future__ import annotations

from typing import Any

import numpy as np

from lightning_scaling.laws.base import Parameter
from lightning_scaling.laws.catalogue.learning_curves.rising import Rising


class LogLogLinear(Rising):
    """``performance = log(a*log(steps) + b)``.

    ``a`` is the slope and ``b`` the level at the first step. Domhan et al. 2015 (IJCAI), table 1.
    """

    name = "loglog_linear"
    title = "loglog_linear: a line in the logarithm of steps, in a logarithm"
    formula = "performance = log(a*log(steps) + b)"
    parameters = (
        Parameter("a", "slope", (1e-3, 2.0), 1e-12, 1e6),
        Parameter("b", "level at the first step", (0.5, 5.0), 1e-9, 1e6),
    )
    pitfalls = ("It has no ceiling.",)

    def value(self, p: Any, x: Any) -> Any:
        """``log(a*log(steps) + b)``."""
        return np.log(p.a * np.log(x.steps) + p.b)
