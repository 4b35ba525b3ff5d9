"""Learning curve: a rise from zero to a ceiling."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from lightning_scaling.laws.base import Parameter
from lightning_scaling.laws.catalogue.learning_curves.rising import Rising, rest


class Hill3(Rising):
    """``performance = y_max*steps^eta/(kappa^eta + steps^eta)``.

    ``y_max`` is the ceiling, ``kappa`` the steps of half of it, ``eta`` the steepness. Domhan et al. 2015 (IJCAI),
    table 1.
    """

    name = "hill3"
    title = "hill3: a rise from zero to a ceiling"
    formula = "performance = y_max*steps^eta/(kappa^eta + steps^eta)"
    parameters = (
        Parameter("y_max", "ceiling", (0.3, 1.5), -math.inf),
        Parameter("kappa", "steps of half the ceiling", (1e-3, 1e3), log=True, of="steps"),
        Parameter("eta", "steepness", (0.1, 5.0), 0.01, 50.0),
    )
    linear = ("y_max",)
    pitfalls = ("It starts from zero: subtract chance level first.",)

    def value(self, p: Any, x: Any) -> Any:
        """``y_max*steps^eta/(kappa^eta + steps^eta)``."""
        return p.y_max * rest(p.eta * np.log(p.kappa / x.steps))
