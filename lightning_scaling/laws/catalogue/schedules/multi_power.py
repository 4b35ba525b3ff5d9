"""Loss along a run under a known schedule: a power law for every fall of the rate."""

from __future__ import annotations

from typing import Any

import numpy as np

from lightning_scaling.laws.base import Parameter, Published, Source
from lightning_scaling.laws.catalogue.schedules.rates import Scheduled, column

_RELEASE = Source("Luo et al.", 2025, "2503.12811", "README of the authors' repository")
_NAMES = ("L0", "A", "alpha", "B", "C", "beta", "gamma")


class MultiPower(Scheduled):
    """``loss = L0 + A * S^-alpha - B * sum_k (eta_{k-1} - eta_k) * (1 - (1 + C eta_k^-gamma S_k)^-beta)``.

    ``S`` is the learning rate summed over the steps so far. Every fall of the rate, from ``eta_{k-1}`` to ``eta_k`` at
    step ``k``, lowers the loss by up to ``B`` times the fall, and every rise raises it likewise; how much of that has
    been realised depends on ``S_k``, the rate summed since, step ``k`` included. The warm-up counts in both: it lifts
    the loss of a constant rate ``eta`` to ``L0 + B eta`` in the end. Luo et al. 2025 (arXiv 2503.12811), the
    Multi-Power Law.

    Args:
        rates: The learning rate of every step 1..T, or a mapping from schedule name to such arrays; see
            :class:`~lightning_scaling.laws.catalogue.schedules.rates.Scheduled`. Left out, the law can be looked at but
            not evaluated.
    """

    name = "multi_power"
    title = "Multi-Power: loss under a learning-rate schedule"
    formula = "loss = L0 + A*S^-alpha - B*sum_k (eta_{k-1} - eta_k)*(1 - (1 + C*eta_k^-gamma*S_k)^-beta)"
    source = Source("Luo et al.", 2025, "2503.12811")
    warmup = True
    parameters = (
        Parameter("L0", "loss of endless training once the rate is given up", (0.0, 1.0), of="loss"),
        Parameter("A", "coefficient of the power law", (1e-4, 1e4), log=True),
        Parameter("alpha", "exponent of the power law", (0.1, 1.2), upper=4.0),
        Parameter("B", "full gain per fall of the rate", (1e-4, 1e6), log=True),
        Parameter("C", "how fast the gain comes in", (0.1, 50.0), log=True),
        Parameter("beta", "exponent with which it comes in", (0.2, 1.5), upper=4.0),
        Parameter("gamma", "how much faster it comes in at low rates", (0.2, 1.2), upper=4.0),
    )
    linear = ("L0", "A", "B")
    tags = frozenset({"single run", "schedule"})
    published_constants = tuple(
        Published(
            name,
            dict(zip(_NAMES, values, strict=True)),
            _RELEASE,
            "checked",
            f"{name} parameters, peak rate 3e-4 after 2160 steps of warm-up; nats per token, learning rates as they "
            "are.",
        )
        for name, values in (
            ("25M", (3.040, 0.525, 0.508, 363.788, 2.066, 0.583, 0.641)),
            ("100M", (2.651, 0.601, 0.453, 437.946, 2.132, 0.598, 0.655)),
            ("400M", (2.375, 0.654, 0.429, 523.425, 2.025, 0.594, 0.635)),
        )
    )
    pitfalls = (
        "One run does not determine B, C, beta and gamma: fit two or three schedules together, or fix C, beta and "
        "gamma at published values, which hardly change with size.",
        "eta^-gamma ties C to the unit of the rate: constants for a peak of 3e-4 do not carry over to other peaks.",
        "The published constants count the warm-up: give its rates too, or the loss comes out 3 to 4 % too low.",
        "Losses during the warm-up are outside the law.",
    )

    def value(self, p: Any, x: Any) -> Any:
        """``L0 + A S^-alpha`` less the gains of all falls so far."""
        reach = np.log(column(p.C)) - column(p.gamma) * x.log_rate + np.log(x.distance)
        gain = -np.expm1(-column(p.beta) * np.logaddexp(0.0, reach))
        return p.L0 + p.A * x.summed**-p.alpha - p.B * np.sum(x.fall * gain, axis=-1)
