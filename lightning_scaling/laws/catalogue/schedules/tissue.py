"""Loss along a run under a known schedule: annealing with a memory."""

from __future__ import annotations

from typing import Any

import numpy as np

from lightning_scaling.laws.base import Parameter, Source
from lightning_scaling.laws.catalogue.schedules.rates import Scheduled, column


class Tissue(Scheduled):
    """``loss = L0 + A * S1^-alpha - C * S2``.

    ``S1`` is the learning rate summed over the steps so far, warm-up included. ``S2`` is the annealing area: every
    change of the rate after its first peak counts ``(1 - lambda^n) / (1 - lambda)`` with ``n`` the steps since, so its
    effect comes in over ``1 / (1 - lambda)`` steps. ``lambda_`` is the paper's lambda. Tissue et al. 2024 (arXiv
    2408.11029), equation 1; S2 in the form of a sum with momentum.

    Args:
        rates: The learning rate of every step 1..T, or a mapping from schedule name to such arrays; see
            :class:`~lightning_scaling.laws.catalogue.schedules.rates.Scheduled`. Left out, the law can be looked at but
            not evaluated.
    """

    name = "tissue"
    title = "Tissue: loss under a learning-rate schedule, annealing with momentum"
    formula = "loss = L0 + A*S1^-alpha - C*S2, S1 = sum of rates, S2 = sum of falls*(1 - lambda_^n)/(1 - lambda_)"
    source = Source("Tissue et al.", 2024, "2408.11029", "eq. 1")
    by = "steps"
    parameters = (
        Parameter("L0", "loss of endless training", (0.0, 1.0), of="loss"),
        Parameter("A", "coefficient of the power law", (1e-4, 1e4), log=True),
        Parameter("alpha", "exponent of the power law", (0.05, 1.5), upper=4.0),
        Parameter("C", "gain per annealing area", (1e-6, 1e4), log=True),
        Parameter("lambda_", "memory of a fall of the rate, per step", (0.9, 0.9999), upper=0.999999),
    )
    linear = ("L0", "A", "C")
    tags = frozenset({"single run", "schedule"})
    pitfalls = (
        "C and lambda_ are not determined by a run that has not decayed yet: take them from its siblings.",
        "S2 grows without bound, so long decays look too good; multi_power saturates.",
        "Rates are counted as they are: A and C belong to their unit.",
    )

    def value(self, p: Any, x: Any) -> Any:
        """``L0 + A S1^-alpha - C S2``."""
        memory = column(p.lambda_)
        area = np.sum(x.fall * np.expm1(x.distance * np.log(memory)) / (memory - 1.0), axis=-1)
        return p.L0 + p.A * x.summed**-p.alpha - p.C * area
