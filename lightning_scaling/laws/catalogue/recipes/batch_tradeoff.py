"""Critical batch size: steps and learning rate as functions of the batch."""

from __future__ import annotations

from typing import Any

from lightning_scaling.laws.base import Law, Parameter, Source

_MCCANDLISH = Source("McCandlish et al.", 2018, "1812.06162", "recalled, high confidence")


class BatchTradeoff(Law):
    """``steps = S_min * (1 + B_crit / batch_tokens)``.

    Steps to reach a given loss: ``S_min`` with an endless batch; at ``B_crit`` twice as many, and twice the least data
    ``E_min = S_min B_crit``. The same as ``(steps/S_min - 1)(data/E_min - 1) = 1`` with ``data = steps *
    batch_tokens``. McCandlish et al. 2018 (arXiv 1812.06162), section 2.3.
    """

    name = "batch_tradeoff"
    title = "Steps to a given loss from the batch"
    formula = "steps = S_min*(1 + B_crit/batch_tokens)"
    source = _MCCANDLISH
    inputs = ("batch_tokens",)
    output = "steps"
    parameters = (
        Parameter("S_min", "steps with an endless batch", (1.0, 1e8), log=True),
        Parameter("B_crit", "critical batch", (1e-4, 1e4), log=True, of="batch_tokens"),
    )
    linear = ("S_min",)
    tags = frozenset({"batch/LR"})
    pitfalls = (
        "Every point is one run tuned for its batch and stopped at the same loss; untuned rates shift B_crit.",
        "B_crit belongs to that loss and grows as training goes on.",
    )

    def value(self, p: Any, x: Any) -> Any:
        """``S_min (1 + B_crit / batch_tokens)``."""
        return p.S_min * (1.0 + p.B_crit / x.batch_tokens)


class RateForBatch(Law):
    """``learning_rate = eta_max / (1 + B_noise / batch_tokens)``.

    The best rate for a batch: proportional to the batch far below the gradient-noise scale ``B_noise``, constant far
    above. McCandlish et al. 2018 (arXiv 1812.06162), equation 2.6, for plain SGD.
    """

    name = "rate_for_batch"
    title = "Best learning rate from the batch"
    formula = "learning_rate = eta_max/(1 + B_noise/batch_tokens)"
    source = _MCCANDLISH
    inputs = ("batch_tokens",)
    output = "learning_rate"
    parameters = (
        Parameter("eta_max", "best rate with an endless batch", (1e-6, 1e2), log=True),
        Parameter("B_noise", "gradient-noise scale", (1e-4, 1e4), log=True, of="batch_tokens"),
    )
    linear = ("eta_max",)
    tags = frozenset({"batch/LR"})
    pitfalls = ("For Adam the rate grows more slowly with the batch, about with its root.",)

    def value(self, p: Any, x: Any) -> Any:
        """``eta_max / (1 + B_noise / batch_tokens)``."""
        return p.eta_max / (1.0 + p.B_noise / x.batch_tokens)
