"""Learning curve: a sigmoid from one level to another."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from lightning_scaling.laws.base import Parameter
from lightning_scaling.laws.catalogue.learning_curves.rising import Rising, rest


class MorganMercerFlodin(Rising):
    """``performance = alpha - (alpha - beta)/(1 + (kappa*steps)^delta)``.

    ``alpha`` is the ceiling, ``beta`` the level before training, ``kappa`` the rate and ``delta`` the steepness.
    Domhan et al. 2015 (IJCAI), table 1.
    """

    name = "mmf"
    title = "mmf: a sigmoid from one level to another"
    formula = "performance = alpha - (alpha - beta)/(1 + (kappa*steps)^delta)"
    parameters = (
        Parameter("alpha", "ceiling", (0.3, 1.5), -math.inf),
        Parameter("beta", "level before training", (-0.5, 1.0), -math.inf),
        Parameter("kappa", "rate, per step", (1e-6, 1e2), log=True),
        Parameter("delta", "steepness", (0.1, 5.0), 0.01, 50.0),
    )
    linear = ("alpha", "beta")
    pitfalls = ("Before half the rise the ceiling is a guess.",)

    def value(self, p: Any, x: Any) -> Any:
        """``alpha - (alpha - beta)/(1 + (kappa*steps)^delta)``."""
        return p.alpha - (p.alpha - p.beta) * rest(p.delta * np.log(p.kappa * x.steps))
