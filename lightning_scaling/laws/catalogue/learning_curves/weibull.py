"""Learning curve: a stretched exponential between two levels."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from lightning_scaling.laws.base import Parameter
from lightning_scaling.laws.catalogue.learning_curves.rising import Rising


class Weibull(Rising):
    """``performance = alpha - (alpha - beta)*exp(-(kappa*steps)^delta)``.

    ``alpha`` is the ceiling, ``beta`` the level before training, ``kappa`` the rate and ``delta`` the stretching.
    Domhan et al. 2015 (IJCAI), table 1.
    """

    name = "weibull"
    title = "weibull: a stretched exponential between two levels"
    formula = "performance = alpha - (alpha - beta)*exp(-(kappa*steps)^delta)"
    parameters = (
        Parameter("alpha", "ceiling", (0.3, 1.5), -math.inf),
        Parameter("beta", "level before training", (-0.5, 1.0), -math.inf),
        Parameter("kappa", "rate, per step", (1e-6, 1e2), log=True),
        Parameter("delta", "stretching", (0.1, 3.0), 0.01, 20.0),
    )
    linear = ("alpha", "beta")
    pitfalls = ("It reaches its ceiling sooner than losses of large models do.",)

    def value(self, p: Any, x: Any) -> Any:
        """``alpha - (alpha - beta)*exp(-(kappa*steps)^delta)``."""
        return p.alpha - (p.alpha - p.beta) * np.exp(-np.exp(p.delta * np.log(p.kappa * x.steps)))
