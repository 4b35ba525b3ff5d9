"""One loss from another."""

from __future__ import annotations

from types import MappingProxyType
from typing import Any

import numpy as np

from lightning_scaling.laws.base import Law, Parameter, Source


class LossToLoss(Law):
    """``loss = K (other_loss - E_0)^kappa + E_1``.

    Pairs runs of equal compute on two data sets (or two losses of one run): both fall towards their own floors,
    ``E_0`` and ``E_1``, and the reducible parts are powers of each other. A law fitted on one data set can so be
    carried to another.

    Brandfonbrener et al. 2024 (arXiv 2411.12925): train to train, train to test, test to test.
    """

    name = "loss_to_loss"
    title = "Loss to loss"
    formula = "loss = K*(other_loss - E_0)^kappa + E_1"
    source = Source("Brandfonbrener et al.", 2024, "2411.12925")
    inputs = ("other_loss",)
    units = MappingProxyType({"other_loss": "the loss that is known"})
    parameters = (
        Parameter("K", "coefficient", (1e-2, 1e2), log=True),
        Parameter("E_0", "floor of the known loss", (0.05, 0.98), of="other_loss"),
        Parameter("kappa", "exponent", (0.3, 3.0), 0.02, 10.0),
        Parameter("E_1", "floor of the predicted loss", (0.0, 1.0), of="loss"),
    )
    linear = ("K", "E_1")
    tags = frozenset({"fine-tuning", "downstream", "ladder"})
    pitfalls = (
        "Take the floors from laws fitted on each data set where there are such: three of the four parameters trade "
        "off.",
        "Pair runs by compute and by size, not by step.",
        "Test losses must be losses: accuracies do not follow it.",
    )

    def value(self, p: Any, x: Any) -> Any:
        """``K (other_loss - E_0)^kappa + E_1``; at or below ``E_0`` just above ``E_1``."""
        return p.K * np.maximum(x.other_loss - p.E_0, 1e-9 * x.other_loss) ** p.kappa + p.E_1
