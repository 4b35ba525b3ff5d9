"""Error after transfer from the amount of pre-training data."""

from __future__ import annotations

from types import MappingProxyType
from typing import Any

from lightning_scaling.laws.base import Law, Parameter, Source


class Mikami(Law):
    """``error = a tokens^-alpha + c``.

    Error on the target task after pre-training on ``tokens`` (synthetic) images: ``c`` is the transfer gap that no
    amount of pre-training data closes.

    Mikami et al. 2021 (arXiv 2108.11018).
    """

    name = "mikami"
    title = "Mikami: transfer from synthetic data"
    formula = "error = a*tokens^-alpha + c"
    source = Source("Mikami et al.", 2021, "2108.11018")
    inputs = ("tokens",)
    units = MappingProxyType({"tokens": "pre-training samples"})
    output = "error"
    parameters = (
        Parameter("a", "coefficient", (1e-3, 1e6), log=True),
        Parameter("alpha", "exponent", (0.03, 1.5), upper=4.0),
        Parameter("c", "transfer gap", (0.0, 1.0), of="loss"),
    )
    linear = ("a", "c")
    tags = frozenset({"fine-tuning", "vision"})
    pitfalls = (
        "The gap belongs to the pair of source and target and to the size of the fine-tuning set.",
        "A gap of zero usually means too short a range, not perfect transfer.",
    )

    def value(self, p: Any, x: Any) -> Any:
        """``a tokens^-alpha + c``."""
        return p.a * x.tokens**-p.alpha + p.c
