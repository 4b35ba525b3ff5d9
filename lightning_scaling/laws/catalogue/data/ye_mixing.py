"""Loss on one domain from the mixture of the training data."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from lightning_scaling.laws.base import Law, Parameter, Source
from lightning_scaling.laws.catalogue.data.proportions import check_domains, check_shares


class YeMixing(Law):
    """``loss = c + k exp(t_1 r_1 + t_2 r_2 + ...)``, ``r_i`` the share of domain ``i`` in the training data.

    ``loss`` is that of one validation domain; ``t_i`` says how a larger share of training domain ``i`` changes it
    (negative: it helps), ``c`` is what no mixture removes. As the shares add up to one, adding a constant to every
    ``t`` only rescales ``k``: only differences are in the data, so the last domain has ``t = 0`` and ``t_i`` is
    counted from it.

    Ye et al. 2024 (arXiv 2403.16952), as in the authors' code.

    Args:
        domains: Names of the training domains; each is an input, the share of that domain.
    """

    name = "ye_mixing"
    title = "Ye: data mixing"
    source = Source("Ye et al.", 2024, "2403.16952")
    linear = ("c", "k")
    tags = frozenset({"mixture"})
    pitfalls = (
        "One fit per validation domain; a weighted sum of them predicts the loss on a mixture of domains.",
        "Size, tokens and schedule must be the same at all points.",
        "With as few mixtures as parameters it interpolates and proves nothing: hold some out.",
        "An optimum on the edge of the mixtures tried is an extrapolation.",
    )

    def __init__(self, domains: Sequence[str] = ("first", "second")) -> None:
        self.domains = check_domains(domains)
        self.inputs = self.domains
        self.zero_allowed = self.domains
        self.units = {name: f"share of {name!r} in the training data, from 0 to 1" for name in self.domains}
        tilts = tuple(
            Parameter(f"t_{name}", f"effect of {name!r} against {self.domains[-1]!r}", (-6.0, 6.0), -60.0, 60.0)
            for name in self.domains[:-1]
        )
        self.parameters = (
            Parameter("c", "loss that no mixture removes", (0.0, 1.0), of="loss"),
            Parameter("k", f"what is left of it with {self.domains[-1]!r} alone", (1e-3, 1e2), 0.0, math.inf, log=True),
            *tilts,
        )
        self.formula = f"loss = c + k*exp({' + '.join(f't_{name}*{name}' for name in self.domains[:-1])})"

    def options(self) -> dict[str, Any]:
        """The names of the domains."""
        return {"domains": list(self.domains)}

    def features(self, x: Mapping[str, Any]) -> Mapping[str, Any]:
        """The shares, checked to add up to one."""
        check_shares(self.name, x, self.domains)
        return x

    def value(self, p: Any, x: Any) -> Any:
        """``c + k exp(sum of t_i r_i)``."""
        tilt = sum(getattr(p, f"t_{name}") * getattr(x, name) for name in self.domains[:-1])
        return p.c + p.k * np.exp(tilt)
