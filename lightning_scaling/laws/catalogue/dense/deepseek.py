"""Optimal split of a compute budget, measured at the minima of isoFLOP curves."""

from __future__ import annotations

from typing import Any

from lightning_scaling.laws.base import Law, Parameter, Published, Source

_NOTE = (
    "DeepSeek's own data, 1e17 to 3e20 FLOPs. {} The exponent of the model grew with the quality of the data: .450 on "
    "early data, .524 on these, .578 on OpenWebText2."
)
_SECOND = "Compute is model FLOPs per token x tokens: 6 x parameters is up to twice off at small scale."


class DeepSeekParams(Law):
    """``M_opt = M_base * flops^a``.

    ``M_opt`` is the optimal model in FLOPs per training token without embeddings,
    ``72 layers width^2 + 12 layers width sequence_length``; ``flops`` is ``M * tokens``. Bi et al. 2024 (arXiv
    2401.02954), equation 4.
    """

    name = "deepseek_params"
    title = "DeepSeek: optimal model for a compute budget"
    formula = "M_opt = M_base*flops^a"
    source = Source("Bi et al.", 2024, "2401.02954", "eq. 4")
    inputs = ("flops",)
    output = "flops_per_token"
    parameters = (
        Parameter("M_base", "coefficient", (1e-6, 1e6), log=True),
        Parameter("a", "share of the model in the growth of compute", (0.2, 0.9), upper=1.0),
    )
    linear = ("M_base",)
    tags = frozenset({"allocation"})
    published_constants = (
        Published(
            "deepseek",
            {"M_base": 0.1715, "a": 0.5243},
            Source("Bi et al.", 2024, "2401.02954", "eq. 4"),
            "transcribed",
            _NOTE.format("M counts attention, not embeddings."),
        ),
    )
    pitfalls = (
        _SECOND,
        "The exponent belongs to a data set: fit it anew for other data.",
    )

    def value(self, p: Any, x: Any) -> Any:
        """``M_base flops^a``."""
        return p.M_base * x.flops**p.a


class DeepSeekTokens(Law):
    """``D_opt = D_base * flops^b``.

    ``D_opt`` is the optimal number of training tokens for a budget counted as in `deepseek_params`. Bi et al. 2024
    (arXiv 2401.02954), equation 4.
    """

    name = "deepseek_tokens"
    title = "DeepSeek: optimal tokens for a compute budget"
    formula = "D_opt = D_base*flops^b"
    source = Source("Bi et al.", 2024, "2401.02954", "eq. 4")
    inputs = ("flops",)
    output = "tokens"
    parameters = (
        Parameter("D_base", "coefficient", (1e-6, 1e6), log=True),
        Parameter("b", "share of the data in the growth of compute", (0.2, 0.9), upper=1.0),
    )
    linear = ("D_base",)
    tags = frozenset({"allocation"})
    published_constants = (
        Published(
            "deepseek",
            {"D_base": 5.8316, "b": 0.4757},
            Source("Bi et al.", 2024, "2401.02954", "eq. 4"),
            "transcribed",
            _NOTE.format("D in tokens."),
        ),
        Published(
            "llama3",
            {"D_base": 0.299, "b": 0.537},
            Source("Grattafiori et al.", 2024, "2407.21783", "figure 3, label"),
            "transcribed",
            "Llama 3, 6e18 to 1e22 FLOPs; the rounded .29 and .53 of the text give 10.5T tokens at 3.8e25 FLOPs in "
            "place of 16.3T.",
        ),
    )
    pitfalls = (
        _SECOND,
        "The exponent belongs to a data set: fit it anew for other data.",
    )

    def value(self, p: Any, x: Any) -> Any:
        """``D_base flops^b``."""
        return p.D_base * x.flops**p.b
