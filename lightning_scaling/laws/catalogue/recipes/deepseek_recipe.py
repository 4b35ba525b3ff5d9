"""Best learning rate and batch from compute."""

from __future__ import annotations

from typing import Any

from lightning_scaling.laws.base import Law, Parameter, Published, Source

_DEEPSEEK = Source("Bi et al.", 2024, "2401.02954", "eq. 1")
_NOTE = (
    "DeepSeek LLM, 1e17 to 2e19 FLOPs counted without embeddings and with attention; anything within .25 % of the "
    "least loss counted as best."
)


class DeepSeekRate(Law):
    """``learning_rate = c * flops^a``.

    The best peak learning rate for a compute budget; ``a`` is negative. Bi et al. 2024 (arXiv 2401.02954), equation 1.
    """

    name = "deepseek_rate"
    title = "DeepSeek: best learning rate from compute"
    formula = "learning_rate = c*flops^a"
    source = _DEEPSEEK
    inputs = ("flops",)
    output = "learning_rate"
    parameters = (
        Parameter("c", "coefficient", (1e-4, 1e4), log=True),
        Parameter("a", "exponent of compute", (-0.4, -0.03), lower=-4.0, upper=4.0),
    )
    linear = ("c",)
    tags = frozenset({"batch/LR"})
    published_constants = (Published("deepseek", {"c": 0.3118, "a": -0.1250}, _DEEPSEEK, "transcribed", _NOTE),)
    pitfalls = ("Compute stands for size and data together: off the compute-optimal line take step_law_rate.",)

    def value(self, p: Any, x: Any) -> Any:
        """``c flops^a``."""
        return p.c * x.flops**p.a


class DeepSeekBatch(Law):
    """``batch_tokens = c * flops^a``.

    The best batch in tokens for a compute budget. Bi et al. 2024 (arXiv 2401.02954), equation 1.
    """

    name = "deepseek_batch"
    title = "DeepSeek: best batch from compute"
    formula = "batch_tokens = c*flops^a"
    source = _DEEPSEEK
    inputs = ("flops",)
    output = "batch_tokens"
    parameters = (
        Parameter("c", "coefficient", (1e-4, 1e4), log=True),
        Parameter("a", "exponent of compute", (0.1, 0.8), lower=-4.0, upper=4.0),
    )
    linear = ("c",)
    tags = frozenset({"batch/LR"})
    published_constants = (Published("deepseek", {"c": 0.2920, "a": 0.3271}, _DEEPSEEK, "transcribed", _NOTE),)
    pitfalls = ("Compute stands for size and data together: off the compute-optimal line take step_law_batch.",)

    def value(self, p: Any, x: Any) -> Any:
        """``c flops^a``."""
        return p.c * x.flops**p.a
