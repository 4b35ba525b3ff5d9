"""Loss from compute, a power law with a floor."""

from __future__ import annotations

from typing import Any

from lightning_scaling.laws.base import Law, Parameter, Source


class Compute(Law):
    """``loss = E + A / flops^alpha``.

    The final losses of a compute-optimal ladder. Its floor ``E`` is what normalises curves for
    :func:`lightning_scaling.laws.catalogue.schedules.collapse.collapse`. The form in which Qiu et al. 2025 (arXiv
    2507.02119) fit the final losses of their ladders.
    """

    name = "compute"
    title = "Loss from compute along a ladder"
    formula = "loss = E + A/flops^alpha"
    source = Source("Qiu et al.", 2025, "2507.02119", "fit of the final losses")
    inputs = ("flops",)
    parameters = (
        Parameter("E", "irreducible loss", (0.0, 1.0), of="loss"),
        Parameter("A", "coefficient", (1e-2, 1e12), log=True),
        Parameter("alpha", "compute exponent", (0.02, 0.8), upper=4.0),
    )
    linear = ("E", "A")
    tags = frozenset({"ladder"})
    pitfalls = (
        "It holds along one recipe of how size and data grow with compute, not across recipes.",
        "E and alpha trade off: several seeds or three decades of compute are needed to hold E.",
    )

    def value(self, p: Any, x: Any) -> Any:
        """``E + A flops^-alpha``."""
        return p.E + p.A * x.flops**-p.alpha
