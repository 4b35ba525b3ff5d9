"""Loss of a mixture of experts from total size, data and the share of inactive experts."""

from __future__ import annotations

from typing import Any

from lightning_scaling.laws.base import Law, Parameter, Published, Source


class Abnar(Law):
    """``loss = a/params^alpha + b/tokens^beta + c/(1-sparsity)^lambda + d/((1-sparsity)^delta params^gamma) + e``.

    ``sparsity`` is the share of experts that a token does not use, ``params`` count all of them. The third term is what
    sparsity does by itself (with a negative ``lambda_`` it helps), the fourth how it acts together with size.

    Abnar et al. 2025 (arXiv 2501.12370), equation 6.
    """

    name = "abnar"
    title = "Abnar: optimal sparsity of expert models"
    formula = "loss = a/params^alpha + b/tokens^beta + c/(1-sparsity)^lambda_ + d/((1-sparsity)^delta*params^gamma) + e"
    source = Source("Abnar et al.", 2025, "2501.12370", "eq. 6")
    inputs = ("params", "tokens", "sparsity")
    parameters = (
        Parameter("a", "size coefficient", (1.0, 1e6), log=True),
        Parameter("alpha", "size exponent", (0.2, 1.0), upper=4.0),
        Parameter("b", "data coefficient", (1.0, 1e6), log=True),
        Parameter("beta", "data exponent", (0.2, 0.8), upper=4.0),
        Parameter("c", "coefficient of sparsity", (0.01, 5.0), log=True),
        Parameter("lambda_", "exponent of sparsity", (-0.5, -0.05), lower=-4.0, upper=4.0),
        Parameter("d", "coefficient of sparsity and size", (0.1, 1e3), log=True),
        Parameter("delta", "exponent of sparsity in it", (0.05, 0.5), lower=-4.0, upper=4.0),
        Parameter("gamma", "exponent of size in it", (0.05, 0.5), upper=4.0),
        Parameter("e", "irreducible loss", (0.0, 1.0), of="loss"),
    )
    linear = ("a", "b", "c", "d", "e")
    zero_allowed = ("sparsity",)
    tags = frozenset({"ladder", "allocation", "sparse"})
    published_constants = (
        Published(
            "abnar",
            {
                "a": 16612.50,
                "alpha": 0.5962,
                "b": 5455.67,
                "beta": 0.3954,
                "c": 0.4598,
                "lambda_": -0.1666,
                "d": 17.26,
                "delta": 0.1603,
                "gamma": 0.1595,
                "e": 0.94,
            },
            Source("Abnar et al.", 2025, "2501.12370", "table 3"),
            "transcribed",
            "RedPajama, nats per token; three sources give the same digits. Explains 99 % of the variance where "
            "fitted and 68 % at the held-out sparsity .98.",
        ),
    )
    pitfalls = (
        "Ten parameters do not extrapolate: check it against a held-out sparsity.",
        "c and e are separated only by the curvature in sparsity; several levels up to .95 and beyond are needed.",
        "params are total: for a fixed cost per token the active ones must be worked out from the sparsity.",
    )

    def value(self, p: Any, x: Any) -> Any:
        """Size, data, sparsity, sparsity with size, floor."""
        density = 1.0 - x.sparsity
        together = p.d * density**-p.delta * x.params**-p.gamma
        return p.a * x.params**-p.alpha + p.b * x.tokens**-p.beta + p.c * density**-p.lambda_ + together + p.e
