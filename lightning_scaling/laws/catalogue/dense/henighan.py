"""Loss from one quantity, a power law with a floor."""

from __future__ import annotations

from typing import Any

import numpy as np

from lightning_scaling.laws.base import Parameter, Source
from lightning_scaling.laws.catalogue.curves.single import SingleInput


class Henighan(SingleInput):
    """``loss = L_inf + (x_0 / params)^alpha``.

    A floor and what a finite ``params`` adds to it; ``x_0`` is where that is one nat. The input may also be tokens or
    FLOPs: ``laws.get("henighan", over="flops")``. Henighan et al. 2020 (arXiv 2010.14701), equation 1.1, for language,
    images, video, mathematics and image-text pairs alike.

    Args:
        over: The input: ``"params"``, ``"tokens"``, ``"flops"`` or another that counts in units of one.
    """

    name = "henighan"
    title = "Henighan: loss from parameters, data or compute"
    usual = "params"
    formula = "loss = L_inf + (x_0/params)^alpha"
    source = Source("Henighan et al.", 2020, "2010.14701", "eq. 1.1")
    tags = frozenset({"ladder", "multimodal"})
    pitfalls = (
        "The floor may be zero: language over parameters (exponent .070) and over compute (.048) were fitted so.",
        "Optimal sizes that grow as C^.7 in every domain came from the protocol that all of them shared.",
    )

    def _parameters(self) -> list[Parameter]:
        return [
            Parameter("L_inf", "irreducible loss", (0.0, 1.0), of="loss"),
            Parameter("x_0", f"{self.over} at which the reducible loss is 1", (1e-6, 1e10), log=True, of=self.over),
            Parameter("alpha", "exponent of the reducible loss", (0.03, 1.0), upper=4.0),
        ]

    def value(self, p: Any, x: Any) -> Any:
        """``L_inf + (x_0 / x)^alpha``."""
        return p.L_inf + np.exp(p.alpha * (np.log(p.x_0) - np.log(self._x(x))))
