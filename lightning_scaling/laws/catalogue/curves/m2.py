"""A power law with a floor, of one quantity."""

from __future__ import annotations

from typing import Any

from lightning_scaling.laws.base import Parameter, Source
from lightning_scaling.laws.catalogue.curves.single import SingleInput


class M2(SingleInput):
    """``loss = eps_inf + beta * steps^c``.

    ``eps_inf`` is what remains after endless training; ``c`` is negative. The input may also be tokens, FLOPs or
    another: ``laws.get("m2", over="tokens")``. Form M2 of Alabdulmohsin et al. 2022 (arXiv 2209.06640).

    Args:
        over: The input.
    """

    name = "m2"
    title = "M2: a power law with a floor"
    formula = "loss = eps_inf + beta*steps^c"
    source = Source("Alabdulmohsin et al.", 2022, "2209.06640", "section 3")
    linear = ("eps_inf", "beta")
    tags = frozenset({"single run", "vision"})
    pitfalls = (
        "Enough for the loss of language models at a constant learning rate; too optimistic for error rates.",
        "Drop the warm-up and the first 10 % of the run. It knows no schedule: under a decay take multi_power or "
        "tissue.",
    )

    def _parameters(self) -> list[Parameter]:
        return [
            Parameter("eps_inf", "floor", (0.0, 1.0), of="loss"),
            Parameter("beta", "coefficient", (1e-2, 1e6), log=True),
            Parameter("c", "exponent of the reducible loss", (-2.0, -0.03), lower=-4.0, upper=0.0),
        ]

    def value(self, p: Any, x: Any) -> Any:
        """``eps_inf + beta x^c``."""
        return p.eps_inf + p.beta * self._x(x) ** p.c
