"""Loss of a recommendation model from one scaled factor."""

from __future__ import annotations

from typing import Any

from lightning_scaling.laws.base import Law, Parameter, Source

_FACTORS = {
    "tokens": "training samples",
    "params": "model parameters, embedding tables included",
    "flops": "training compute in FLOPs",
}


class DLRM(Law):
    """``loss = alpha X^-beta + gamma``.

    Normalised cross-entropy of predicted clicks against data, parameters or compute: a power law with a floor
    ``gamma`` that most recommendation models are already near.

    Ardalani et al. 2022 (arXiv 2208.08489).

    Args:
        factor: What ``X`` is: ``"tokens"`` (samples), ``"params"`` or ``"flops"``.
    """

    name = "dlrm"
    title = "DLRM: recommendation"
    source = Source("Ardalani et al.", 2022, "2208.08489")
    parameters = (
        Parameter("alpha", "coefficient", (1e-4, 1e6), log=True),
        Parameter("beta", "exponent", (0.02, 1.5), upper=4.0),
        Parameter("gamma", "irreducible loss", (0.0, 1.0), of="loss"),
    )
    linear = ("alpha", "gamma")
    tags = frozenset({"recommendation", "ladder"})
    pitfalls = (
        "Parameter scaling was found saturated: advise more data before a bigger model.",
        "Exponents were not read, so no constants are carried.",
        "The floor is most of the loss: losses need four digits for the exponent to be in them.",
    )

    def __init__(self, factor: str = "tokens") -> None:
        if factor not in _FACTORS:
            raise ValueError(f"`factor` must be one of {', '.join(_FACTORS)}, but got {factor!r}.")
        self.factor = factor
        self.inputs = (factor,)
        self.units = {factor: _FACTORS[factor]}
        self.formula = f"loss = alpha*{factor}^-beta + gamma"

    def options(self) -> dict[str, Any]:
        """The factor."""
        return {"factor": self.factor}

    def value(self, p: Any, x: Any) -> Any:
        """``alpha X^-beta + gamma``."""
        return p.alpha * getattr(x, self.factor) ** -p.beta + p.gamma
