"""A smoothly broken power law of one quantity."""

from __future__ import annotations

from typing import Any

import numpy as np

from lightning_scaling.laws.base import Parameter, Source
from lightning_scaling.laws.catalogue.curves.single import SingleInput

_MOST = 8


class BNSL(SingleInput):
    """``loss = a + b * steps^-c0 * prod_i (1 + (steps/d_i)^(1/f_i))^(-c_i f_i)``.

    On double logarithmic paper a chain of straight pieces: ``a`` is the limit, ``c0`` the first slope, ``c_i`` by how
    much the slope changes at the break ``d_i`` and ``f_i`` over what width (small is sharp). ``c_i`` may be negative,
    so the curve may flatten and even rise. The input may also be tokens, FLOPs or another. Caballero et al. 2023 (arXiv
    2210.14891), equation 1: smooth and of one variable, unlike the two pieces that the survey (arXiv 2502.12051)
    prints.

    Args:
        breaks: Number of breaks, 1 to 8; their parameters are ``c1, d1, f1, c2, ...``.
        over: The input.

    Raises:
        ValueError: The number of breaks is not in that range.
    """

    name = "bnsl"
    title = "BNSL: a smoothly broken power law"
    formula = "loss = a + b*steps^-c0 * (1 + (steps/d1)^(1/f1))^(-c1*f1)"
    source = Source("Caballero et al.", 2023, "2210.14891", "eq. 1")
    linear = ("a", "b")
    tags = frozenset({"single run", "vision", "RL", "downstream"})
    pitfalls = (
        "Six parameters with one break, three more with each further one: many local minima on noisy curves.",
        "A break is only seen once points lie beyond it; none of the later ones are forecast.",
        "Far beyond the points (4 times and more) an unbounded change of slope can explode; m2 and m4 fail more "
        "gently.",
    )

    def __init__(self, breaks: int = 1, over: str | None = None) -> None:
        if isinstance(breaks, bool) or not isinstance(breaks, int) or not 1 <= breaks <= _MOST:
            raise ValueError(f"bnsl: `breaks` must be a whole number from 1 to {_MOST}, but got {breaks!r}.")
        self.breaks = breaks
        super().__init__(over)
        for i in range(2, breaks + 1):
            self.formula += f" * (1 + ({self.over}/d{i})^(1/f{i}))^(-c{i}*f{i})"

    def options(self) -> dict[str, Any]:
        """Number of breaks and the input's name."""
        return {"breaks": self.breaks, "over": self.over}

    def _parameters(self) -> list[Parameter]:
        result = [
            Parameter("a", "limit", (0.0, 1.0), of="loss"),
            Parameter("b", "coefficient", (1e-2, 1e6), log=True),
            Parameter("c0", "first slope", (0.0, 1.0), lower=-4.0, upper=4.0),
        ]
        edges = np.geomspace(1e-2, 1e2, self.breaks + 1)
        for i in range(1, self.breaks + 1):
            span = (float(edges[i - 1]), float(edges[i]))
            result += [
                Parameter(f"c{i}", f"change of slope at break {i}", (-0.6, 1.0), lower=-8.0, upper=8.0),
                Parameter(f"d{i}", f"{self.over} at break {i}", span, log=True, of=self.over),
                Parameter(f"f{i}", f"width of break {i}", (0.05, 1.5), lower=1e-2, upper=20.0, log=True),
            ]
        return result

    def value(self, p: Any, x: Any) -> Any:
        """The limit plus the broken power law, whose product is summed in logarithms."""
        log_x = np.log(self._x(x))
        log_power = -p.c0 * log_x
        for i in range(1, self.breaks + 1):
            c, d, f = (getattr(p, f"{letter}{i}") for letter in "cdf")
            log_power = log_power - c * f * np.logaddexp(0.0, (log_x - np.log(d)) / f)
        return p.a + p.b * np.exp(log_power)
