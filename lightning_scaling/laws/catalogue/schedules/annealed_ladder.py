"""Loss across a ladder from checkpoints whose learning rate has not fallen all the way."""

from __future__ import annotations

from types import MappingProxyType
from typing import Any

from lightning_scaling.laws.base import Law, Parameter, Source


class AnnealedLadder(Law):
    """``loss = E + A / params^alpha + B / tokens^beta - F * (1 - rate_fraction) * params^r``.

    Chinchilla's form with a correction for the learning rate: ``rate_fraction`` is the present rate over its peak,
    ``F`` what a full decay gains, ``r`` how that changes with size. So checkpoints from the middle of runs can stand in
    a ladder next to final ones. From the fitting code of the OLMo ladder (Bhagia et al. 2024, arXiv 2412.04403).
    """

    name = "annealed_ladder"
    title = "Loss from parameters, tokens and how far the learning rate has fallen"
    formula = "loss = E + A/params^alpha + B/tokens^beta - F*(1 - rate_fraction)*params^r"
    source = Source("Bhagia et al.", 2024, "2412.04403", "fitting_functions.py of the authors' repository")
    inputs = ("params", "tokens", "rate_fraction")
    units = MappingProxyType({"rate_fraction": "learning rate over its peak, 0 to 1"})
    zero_allowed = ("rate_fraction",)
    parameters = (
        Parameter("E", "irreducible loss of a decayed model", (0.0, 1.0), of="loss"),
        Parameter("A", "size coefficient", (1e-2, 1e8), log=True),
        Parameter("alpha", "size exponent", (0.05, 1.5), upper=4.0),
        Parameter("B", "data coefficient", (1e-2, 1e8), log=True),
        Parameter("beta", "data exponent", (0.05, 1.5), upper=4.0),
        Parameter("F", "gain of a full decay, for a model of one parameter", (1e-4, 1e3), log=True),
        Parameter("r", "growth of that gain with size", (-0.25, 0.15), lower=-1.0, upper=1.0),
    )
    linear = ("E", "A", "B", "F")
    tags = frozenset({"ladder", "schedule"})
    pitfalls = (
        "One number per checkpoint stands for the whole schedule: it blurs slow and fast decays that tissue keeps "
        "apart.",
        "Points of the warm-up also have a low rate and must be left out.",
    )

    def value(self, p: Any, x: Any) -> Any:
        """Chinchilla's form less the gain of the decay so far."""
        gain = p.F * (1.0 - x.rate_fraction) * x.params**p.r
        return p.E + p.A * x.params**-p.alpha + p.B * x.tokens**-p.beta - gain
