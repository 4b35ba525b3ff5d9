"""Downstream error from upstream error."""

from __future__ import annotations

from types import MappingProxyType
from typing import Any

from lightning_scaling.laws.base import Law, Parameter, Source


class AbnarTransfer(Law):
    """``downstream_error = k upstream_error^a + c``.

    As the upstream error falls, the downstream one saturates at ``c``: better pre-training stops helping.

    Abnar et al. 2021 (arXiv 2110.02095).
    """

    name = "abnar_transfer"
    title = "Abnar: downstream against upstream error"
    formula = "downstream_error = k*upstream_error^a + c"
    source = Source("Abnar et al.", 2021, "2110.02095")
    inputs = ("upstream_error",)
    units = MappingProxyType({"upstream_error": "error on the pre-training task, from 0 to 1"})
    output = "downstream_error"
    parameters = (
        Parameter("k", "coefficient", (1e-3, 1e3), log=True),
        Parameter("a", "exponent", (0.2, 8.0), upper=40.0),
        Parameter("c", "error at which it saturates", (0.0, 1.0), of="loss"),
    )
    linear = ("k", "c")
    tags = frozenset({"fine-tuning", "vision", "downstream"})
    pitfalls = (
        "Fit the best models of each upstream error (the lower hull), not all of them.",
        "The relation differs between tasks and can even be negative when the head's settings were tuned for upstream.",
    )

    def value(self, p: Any, x: Any) -> Any:
        """``k upstream_error^a + c``."""
        return p.k * x.upstream_error**p.a + p.c
