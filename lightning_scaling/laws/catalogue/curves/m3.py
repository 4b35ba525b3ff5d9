"""A power law that bends towards a floor, of one quantity."""

from __future__ import annotations

from typing import Any

import numpy as np

from lightning_scaling.laws.base import Parameter, Source
from lightning_scaling.laws.catalogue.curves.single import SingleInput


class M3(SingleInput):
    """``loss = beta * (1/steps + gamma)^-c``.

    ``c`` is negative. A power law ``beta steps^c`` that saturates at ``beta gamma^-c`` once steps exceed ``1/gamma``.
    The input may also be tokens, FLOPs or another: ``laws.get("m3", over="tokens")``. Form M3 of Alabdulmohsin et al.
    2022 (arXiv 2209.06640).

    Args:
        over: The input.
    """

    name = "m3"
    title = "M3: a power law that saturates"
    formula = "loss = beta*(1/steps + gamma)^-c"
    source = Source("Alabdulmohsin et al.", 2022, "2209.06640", "section 3")
    linear = ("beta",)
    tags = frozenset({"single run", "vision"})
    pitfalls = (
        "Floor and exponent hang together: a curve with a low floor and a steep fall does not fit.",
        "Too optimistic when extrapolated, though less than m1 and m2.",
    )

    def _parameters(self) -> list[Parameter]:
        return [
            Parameter("beta", "coefficient", (1e-2, 1e6), log=True),
            Parameter("gamma", f"inverse of the {self.over} at which it saturates", (1e-13, 1.0), log=True),
            Parameter("c", "exponent before it saturates", (-1.5, -0.02), lower=-4.0, upper=0.0),
        ]

    def value(self, p: Any, x: Any) -> Any:
        """``beta (1/x + gamma)^-c``."""
        return p.beta * np.exp(-p.c * np.log(1.0 / self._x(x) + p.gamma))
