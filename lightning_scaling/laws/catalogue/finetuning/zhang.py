"""Loss of fine-tuning from one scaled factor and the fine-tuning data."""

from __future__ import annotations

from typing import Any

from lightning_scaling.laws.base import Law, Parameter, Source

_FACTORS = {
    "params": "model parameters",
    "tokens": "pre-training tokens",
    "adapter_params": "parameters of the adapter or prompt",
}


class Zhang(Law):
    """``loss = A X^-alpha finetune_tokens^-beta + E``.

    ``X`` is the one factor that is scaled besides the fine-tuning data. The two multiply: data are worth more on a
    better base. ``beta`` belongs to the task and the method and is shared between factors.

    Zhang et al. 2024 (arXiv 2402.17193).

    Args:
        factor: Which factor ``X`` is: ``"params"``, ``"tokens"`` (pre-training) or ``"adapter_params"``.
    """

    name = "zhang"
    title = "Zhang: fine-tuning, multiplicative"
    source = Source("Zhang et al.", 2024, "2402.17193", "eq. 1")
    parameters = (
        Parameter("A", "coefficient", (1e-2, 1e8), log=True),
        Parameter("alpha", "exponent of the scaled factor", (0.01, 1.0), upper=4.0),
        Parameter("beta", "exponent of the fine-tuning data", (0.01, 1.0), upper=4.0),
        Parameter("E", "irreducible loss", (0.0, 1.0), of="loss"),
    )
    linear = ("A", "E")
    tags = frozenset({"fine-tuning"})
    pitfalls = (
        "The exponents belong to one task, model family and method; none are carried over.",
        "Size helps more than pre-training data; more adapter parameters hardly help.",
        "Do not use pre-training exponents for fine-tuning.",
    )

    def __init__(self, factor: str = "params") -> None:
        if factor not in _FACTORS:
            raise ValueError(f"`factor` must be one of {', '.join(_FACTORS)}, but got {factor!r}.")
        self.factor = factor
        self.inputs = (factor, "finetune_tokens")
        self.units = {factor: _FACTORS[factor], "finetune_tokens": "fine-tuning tokens (or examples)"}
        self.formula = f"loss = A*{factor}^-alpha*finetune_tokens^-beta + E"

    def options(self) -> dict[str, Any]:
        """The factor."""
        return {"factor": self.factor}

    def value(self, p: Any, x: Any) -> Any:
        """``A X^-alpha finetune_tokens^-beta + E``."""
        return p.A * getattr(x, self.factor) ** -p.alpha * x.finetune_tokens**-p.beta + p.E
