"""Loss from size, tokens and the mixture of the training data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from lightning_scaling.laws.base import Law, Parameter, Source
from lightning_scaling.laws.catalogue.data.proportions import check_domains, check_shares


class ShukorMixture(Law):
    """``loss = E + 1 / (C_1 h_1^gamma_1 + C_2 h_2^gamma_2 + ...) + A / params^alpha + B / tokens^beta``.

    ``h_i`` is the share of domain ``i``; the larger its ``C_i``, the more it does for the loss at hand, with
    diminishing returns of exponent ``gamma_i``. The mixture only moves the floor, so the best one is the same at
    every scale.

    Shukor et al. 2025 (arXiv 2507.09404), the additive law, equation 2.4, from a secondary transcription. Their joint
    law, in which A and B depend on the mixture too, is not carried: its form could not be established.

    Args:
        domains: Names of the training domains; each is an input, the share of that domain.
    """

    name = "shukor_mixture"
    title = "Shukor: data mixtures, additive"
    source = Source("Shukor et al.", 2025, "2507.09404", "eq. 2.4")
    tags = frozenset({"mixture", "ladder", "allocation"})
    pitfalls = (
        "If the best mixture moves with size or tokens, this form cannot say so: look for it in the residuals.",
        "About ten mixtures were enough for three or four domains, twenty for six to eight.",
        "One fit per target: each validation loss has its own constants.",
        "It assumes that no domain is repeated much.",
    )

    def __init__(self, domains: Sequence[str] = ("first", "second")) -> None:
        self.domains = check_domains(domains)
        self.inputs = ("params", "tokens", *self.domains)
        self.zero_allowed = self.domains
        self.units = {name: f"share of {name!r} in the training data, from 0 to 1" for name in self.domains}
        of_domains: list[Parameter] = []
        for name in self.domains:
            of_domains.append(Parameter(f"C_{name}", f"weight of {name!r}", (0.1, 30.0), log=True))
            of_domains.append(Parameter(f"gamma_{name}", f"exponent of {name!r}", (0.1, 2.0), 0.02, 8.0))
        self.parameters = (
            Parameter("E", "irreducible loss", (0.0, 1.0), of="loss"),
            *of_domains,
            Parameter("A", "size coefficient", (1e-2, 1e8), log=True),
            Parameter("alpha", "size exponent", (0.1, 1.0), upper=4.0),
            Parameter("B", "data coefficient", (1e-2, 1e8), log=True),
            Parameter("beta", "data exponent", (0.1, 1.0), upper=4.0),
        )
        mixture = " + ".join(f"C_{name}*{name}^gamma_{name}" for name in self.domains)
        self.formula = f"loss = E + 1/({mixture}) + A/params^alpha + B/tokens^beta"

    def options(self) -> dict[str, Any]:
        """The names of the domains."""
        return {"domains": list(self.domains)}

    def features(self, x: Mapping[str, Any]) -> Mapping[str, Any]:
        """The shares' logarithms, and whether they are there at all."""
        check_shares(self.name, x, self.domains)
        extra = {}
        for name in self.domains:
            share = np.asarray(x[name], dtype=np.float64)
            extra[f"log_{name}"] = np.log(np.where(share > 0, share, 1.0))
            extra[f"has_{name}"] = (share > 0).astype(np.float64)
        return {**x, **extra}

    def value(self, p: Any, x: Any) -> Any:
        """Floor, mixture, size, data."""
        utility = sum(
            getattr(p, f"C_{name}")
            * np.exp(getattr(p, f"gamma_{name}") * getattr(x, f"log_{name}"))
            * getattr(x, f"has_{name}")
            for name in self.domains
        )
        return p.E + 1.0 / utility + p.A * x.params**-p.alpha + p.B * x.tokens**-p.beta
