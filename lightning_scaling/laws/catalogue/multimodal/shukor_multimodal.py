"""Loss of a native multimodal model."""

from __future__ import annotations

from typing import Any

from lightning_scaling.laws.base import Law, Parameter, Source


class ShukorMultimodal(Law):
    """``loss = E + A / active_params^alpha + B / tokens^beta``.

    Chinchilla's form for models trained from scratch on text, captions and interleaved documents at once; the loss is
    the mean of the validation losses of the kinds of data. For expert models the active parameters count.

    Shukor et al. 2025 (arXiv 2504.07951). Coefficients were not read; the allocation exponents are in the pitfalls.
    """

    name = "shukor_multimodal"
    title = "Shukor: native multimodal models"
    formula = "loss = E + A/active_params^alpha + B/tokens^beta"
    source = Source("Shukor et al.", 2025, "2504.07951")
    inputs = ("active_params", "tokens")
    parameters = (
        Parameter("E", "irreducible loss", (0.0, 1.0), of="loss"),
        Parameter("A", "size coefficient", (1e-2, 1e8), log=True),
        Parameter("alpha", "size exponent", (0.05, 1.5), upper=4.0),
        Parameter("B", "data coefficient", (1e-2, 1e8), log=True),
        Parameter("beta", "data exponent", (0.05, 1.5), upper=4.0),
    )
    linear = ("E", "A", "B")
    tags = frozenset({"multimodal", "ladder", "allocation"})
    pitfalls = (
        "Published: optimal size grows as compute^.5262 and tokens as compute^.473 with early fusion, .6358 and .4619 "
        "with late fusion, .361 and .656 with sparse early fusion.",
        "The mixture of the kinds of data must be the same in all runs.",
        "Fit the losses of the modalities apart too: their mean can hide competition.",
    )

    def value(self, p: Any, x: Any) -> Any:
        """``E + A active_params^-alpha + B tokens^-beta``."""
        return p.E + p.A * x.active_params**-p.alpha + p.B * x.tokens**-p.beta
