"""Loss of continued pre-training on a mixture of general and domain text."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import numpy as np

from lightning_scaling.laws.base import Law, Parameter, Source


class DCPT(Law):
    """``loss = E + A / params^alpha + B ratio^eta / tokens^beta + C / (ratio + epsilon)^gamma``.

    ``ratio`` is the share of the corpus on which the loss is measured (for the loss on the domain: of domain text,
    for the loss on general text: of general text). More of it lowers the last term; ``epsilon`` keeps that finite at
    a share of 0; ``eta`` says how much more tokens are worth when the share is large.

    Que et al. 2024 (arXiv 2406.01375).
    """

    name = "d_cpt"
    title = "D-CPT: continued pre-training on a domain"
    formula = "loss = E + A/params^alpha + B*ratio^eta/tokens^beta + C/(ratio + epsilon)^gamma"
    source = Source("Que et al.", 2024, "2406.01375")
    inputs = ("params", "tokens", "ratio")
    units = MappingProxyType(
        {"tokens": "tokens of continued training", "ratio": "share of the corpus at hand, from 0 to 1"}
    )
    zero_allowed = ("ratio",)
    parameters = (
        Parameter("E", "irreducible loss", (0.0, 1.0), of="loss"),
        Parameter("A", "size coefficient", (1e-2, 1e8), log=True),
        Parameter("alpha", "size exponent", (0.1, 1.2), upper=4.0),
        Parameter("B", "data coefficient", (1e-2, 1e8), log=True),
        Parameter("eta", "exponent of the share in the data term", (0.05, 2.0), upper=6.0),
        Parameter("beta", "data exponent", (0.1, 1.2), upper=4.0),
        Parameter("C", "mixture coefficient", (1e-3, 10.0), log=True),
        Parameter("epsilon", "share that counts as none", (1e-3, 1.0), 1e-6, 10.0, log=True),
        Parameter("gamma", "mixture exponent", (0.05, 2.0), upper=6.0),
    )
    linear = ("E", "A", "B", "C")
    tags = frozenset({"mixture", "fine-tuning", "ladder", "allocation"})
    pitfalls = (
        "Two losses, two fits: the best share trades the domain's against the general one.",
        "C, epsilon and gamma are separated only by runs with very small shares.",
        "All runs must start from checkpoints of one family.",
    )

    def features(self, x: Mapping[str, Any]) -> Mapping[str, Any]:
        """The share's logarithm, and whether there is any."""
        ratio = np.asarray(x["ratio"], dtype=np.float64)
        return {
            **x,
            "log_ratio": np.log(np.where(ratio > 0, ratio, 1.0)),
            "has_ratio": (ratio > 0).astype(np.float64),
        }

    def value(self, p: Any, x: Any) -> Any:
        """Floor, size, data weighed by the share, mixture."""
        data = p.B * np.exp(p.eta * x.log_ratio) * x.has_ratio * x.tokens**-p.beta
        return p.E + p.A * x.params**-p.alpha + data + p.C * (x.ratio + p.epsilon) ** -p.gamma
