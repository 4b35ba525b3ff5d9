"""A pure power law of one quantity."""

from __future__ import annotations

from typing import Any

from lightning_scaling.laws.base import Parameter, Source
from lightning_scaling.laws.catalogue.curves.single import SingleInput


class M1(SingleInput):
    """``loss = beta * steps^c``.

    ``c`` is negative. The input may also be tokens, FLOPs or another: ``laws.get("m1", over="tokens")``. The simplest
    of the four learning-curve forms compared by Alabdulmohsin et al. 2022 (arXiv 2209.06640).

    Args:
        over: The input.
    """

    name = "m1"
    title = "M1: a power law"
    formula = "loss = beta*steps^c"
    source = Source("Alabdulmohsin et al.", 2022, "2209.06640", "section 3")
    linear = ("beta",)
    tags = frozenset({"single run", "vision"})
    pitfalls = (
        "No floor: it extrapolates too low, by 5 % on average just beyond the points, and grows worse.",
        "The exponent of one curve may read -.09 here and -.57 in m4: exponents of different forms do not compare.",
    )

    def _parameters(self) -> list[Parameter]:
        return [
            Parameter("beta", "coefficient", (1e-2, 1e6), log=True),
            Parameter("c", "exponent", (-1.5, -0.01), lower=-4.0, upper=0.0),
        ]

    def value(self, p: Any, x: Any) -> Any:
        """``beta x^c``."""
        return p.beta * self._x(x) ** p.c
