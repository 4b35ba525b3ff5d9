"""One law for dense models and mixtures of experts."""

from __future__ import annotations

from typing import Any

from lightning_scaling.laws.base import Law, Parameter, Source


class WangMoE(Law):
    """``loss = A / (active_params^alpha experts^gamma) + B / tokens^beta + sigma``.

    A dense model has one expert; more experts act like a larger model, by the power ``gamma / alpha`` of their number.

    Wang et al. 2024 (arXiv 2410.05661). That the size is that of the active parameters is recalled with medium
    confidence.
    """

    name = "wang_moe"
    title = "Wang: dense and expert models together"
    formula = "loss = A/(active_params^alpha*experts^gamma) + B/tokens^beta + sigma"
    source = Source("Wang et al.", 2024, "2410.05661")
    inputs = ("active_params", "experts", "tokens")
    parameters = (
        Parameter("A", "size coefficient", (1e-2, 1e8), log=True),
        Parameter("alpha", "size exponent", (0.05, 1.2), upper=4.0),
        Parameter("gamma", "exponent of the experts", (0.01, 1.0), lower=-1.0, upper=4.0),
        Parameter("B", "data coefficient", (1e-2, 1e8), log=True),
        Parameter("beta", "data exponent", (0.05, 1.2), upper=4.0),
        Parameter("sigma", "irreducible loss", (0.0, 1.0), of="loss"),
    )
    linear = ("A", "B", "sigma")
    tags = frozenset({"ladder", "allocation", "sparse"})
    pitfalls = (
        "Fitted with at most 8 experts; the gain does not saturate in this form, so do not ask it about hundreds.",
        "Known without the coefficients: optimal size grows as compute^.590 with experts and compute^.507 without.",
        "Expert models want smaller batches and larger learning rates: tune both before comparing with dense runs.",
    )

    def value(self, p: Any, x: Any) -> Any:
        """``A active_params^-alpha experts^-gamma + B tokens^-beta + sigma``."""
        return p.A * x.active_params**-p.alpha * x.experts**-p.gamma + p.B * x.tokens**-p.beta + p.sigma
