"""Loss with repeated data, bounded, and able to rise again."""

from __future__ import annotations

from typing import Any

from lightning_scaling.laws.base import Law, Parameter, Source


class RepeatedOverfit(Law):
    """``loss = E + (L_0 - E) h / (1 + h)``.

    ``h = a/params^alpha + b/tokens^beta + c params^gamma / unique_tokens^delta``.

    ``h`` adds what a small model, little training and over-fitting cost; the loss stays between ``E`` (nothing
    lacking) and ``L_0`` (a guess that knows nothing). The third term lets the loss get worse as the model grows on
    scarce data.

    arXiv 2605.09189 (2026), from a secondary transcription; no constants known.
    """

    name = "repeated_overfit"
    title = "Repeated data with over-fitting"
    formula = "loss = E + (L_0 - E)*h/(1 + h), h = a/params^alpha + b/tokens^beta + c*params^gamma/unique_tokens^delta"
    source = Source("Practical Scaling Laws", 2026, "2605.09189")
    inputs = ("params", "tokens", "unique_tokens")
    parameters = (
        Parameter("E", "irreducible loss", (0.0, 1.0), of="loss"),
        Parameter("L_0", "loss of an uninformed guess", (1.0, 8.0), of="loss"),
        Parameter("a", "size coefficient", (1e-1, 1e5), log=True),
        Parameter("alpha", "size exponent", (0.1, 1.0), upper=4.0),
        Parameter("b", "data coefficient", (1e-1, 1e6), log=True),
        Parameter("beta", "data exponent", (0.1, 1.0), upper=4.0),
        Parameter("c", "over-fitting coefficient", (1e-3, 1e5), log=True),
        Parameter("gamma", "size exponent of over-fitting", (0.1, 1.5), upper=4.0),
        Parameter("delta", "data exponent of over-fitting", (0.2, 1.8), upper=4.0),
    )
    linear = ("E", "L_0")
    tags = frozenset({"ladder", "allocation", "data repeats"})
    pitfalls = (
        "L_0 is seen only in runs that hardly learned; fix it at the logarithm of the vocabulary otherwise.",
        "The over-fitting term needs runs whose loss rose with size or with repeats: those usually dropped as "
        "outliers.",
        "It does not contain the number of repeats as such: many and few passes over the same data differ by tokens "
        "only.",
    )

    def value(self, p: Any, x: Any) -> Any:
        """The two bounds, weighed by ``1/(1+h)`` and ``h/(1+h)``."""
        lack = p.a * x.params**-p.alpha + p.b * x.tokens**-p.beta
        lack = lack + p.c * x.params**p.gamma * x.unique_tokens**-p.delta
        learned = 1.0 / (1.0 + lack)
        return p.E * learned + p.L_0 * (lack * learned)
