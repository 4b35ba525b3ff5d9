"""The batch beyond which more parallel work stops paying, from the loss or from the data."""

from __future__ import annotations

from types import MappingProxyType
from typing import Any

from lightning_scaling.laws.base import Law, Parameter, Published, Source

_KAPLAN = Source("Kaplan et al.", 2020, "2001.08361", "eq. 1.4")


class KaplanCriticalBatch(Law):
    """``B_crit = B_star / training_loss^(1/alpha_B)``.

    The critical batch in tokens at which training takes twice the least steps and twice the least data; it grows as the
    loss falls. Kaplan et al. 2020 (arXiv 2001.08361), equation 1.4.
    """

    name = "kaplan_critical_batch"
    title = "Kaplan: critical batch from loss"
    formula = "B_crit = B_star/training_loss^(1/alpha_B)"
    source = _KAPLAN
    inputs = ("training_loss",)
    units = MappingProxyType({"training_loss": "training loss in nats per token"})
    output = "critical_batch_tokens"
    parameters = (
        Parameter("B_star", "critical batch at a loss of 1", (1e2, 1e12), log=True),
        Parameter("alpha_B", "inverse of the growth with the fall of the loss", (0.05, 0.8), lower=1e-2, upper=10.0),
    )
    linear = ("B_star",)
    tags = frozenset({"batch/LR"})
    published_constants = (
        Published(
            "kaplan",
            {"B_star": 2e8, "alpha_B": 0.21},
            _KAPLAN,
            "transcribed",
            "WebText2, nats per token: about 2.7e5 tokens at a loss of 4, 1.07e6 at 3, 2.55e6 at 2.5.",
        ),
    )
    pitfalls = (
        "Later work finds it to follow the data, not the loss: see critical_batch_tokens.",
        "The loss is bound to its tokenizer, so the constants are too.",
    )

    def value(self, p: Any, x: Any) -> Any:
        """``B_star training_loss^(-1/alpha_B)``."""
        return p.B_star * x.training_loss ** (-1.0 / p.alpha_B)


class CriticalBatchTokens(Law):
    """``B_crit = a * tokens^b``.

    The critical batch in tokens from the tokens of the run, whatever the model size. Zhang et al. 2024 (arXiv
    2410.21676); the same form in Bergsma et al. 2025 (arXiv 2505.13738).
    """

    name = "critical_batch_tokens"
    title = "Critical batch from tokens"
    formula = "B_crit = a*tokens^b"
    source = Source("Zhang et al.", 2024, "2410.21676")
    inputs = ("tokens",)
    output = "critical_batch_tokens"
    parameters = (
        Parameter("a", "coefficient", (1e-4, 1e6), log=True),
        Parameter("b", "exponent of data", (0.15, 0.9), lower=-4.0, upper=4.0),
    )
    linear = ("a",)
    tags = frozenset({"batch/LR"})
    pitfalls = (
        "Exponents of .47 (Zhang) and about .46 (Bergsma) are recalled, not checked; coefficients are not carried.",
        "What is critical depends on how much loss of efficiency one accepts: 20 % in Zhang, twofold in McCandlish.",
    )

    def value(self, p: Any, x: Any) -> Any:
        """``a tokens^b``."""
        return p.a * x.tokens**p.b
