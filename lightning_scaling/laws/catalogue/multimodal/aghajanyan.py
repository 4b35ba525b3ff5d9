"""Loss of a model of two modalities from those of two models of one."""

from __future__ import annotations

import math
from types import MappingProxyType
from typing import Any

from lightning_scaling.laws.base import Law, Parameter, Source


class Aghajanyan(Law):
    """``loss = (loss_i + loss_j)/2 - C + A / params^alpha + B / (tokens_i + tokens_j)^beta``.

    ``loss_i`` and ``loss_j`` are what models of the same size reach on each modality alone with its own tokens. ``C``
    is the synergy at best; the other two terms are the competition for size and for data. Below the competition
    barrier, where they exceed ``C``, mixing hurts.

    Aghajanyan et al. 2023 (arXiv 2301.03728); recalled with high confidence and agreeing with a secondary description.
    """

    name = "aghajanyan"
    title = "Aghajanyan: two modalities in one model"
    formula = "loss = (loss_i + loss_j)/2 - C + A/params^alpha + B/(tokens_i + tokens_j)^beta"
    source = Source("Aghajanyan et al.", 2023, "2301.03728")
    inputs = ("params", "tokens_i", "tokens_j", "loss_i", "loss_j")
    units = MappingProxyType(
        {
            "tokens_i": "tokens of the first modality",
            "tokens_j": "tokens of the second modality",
            "loss_i": "loss on the first modality alone at that size and those tokens",
            "loss_j": "loss on the second modality alone at that size and those tokens",
        }
    )
    parameters = (
        Parameter("C", "greatest synergy", (1e-3, 0.5), -math.inf, math.inf, of="loss"),
        Parameter("A", "competition for size", (1e-1, 1e6), log=True),
        Parameter("alpha", "exponent of the size", (0.1, 1.0), upper=4.0),
        Parameter("B", "competition for data", (1e-1, 1e6), log=True),
        Parameter("beta", "exponent of the data", (0.1, 1.0), upper=4.0),
    )
    tags = frozenset({"multimodal", "ladder"})
    pitfalls = (
        "Do not sum the modalities' losses before fitting those of one modality.",
        "Constants belong to a pair of modalities and to their tokenizers; none are carried.",
        "Secondary sources print one product for the two competition terms; the original has two.",
    )

    def value(self, p: Any, x: Any) -> Any:
        """Mean of the two losses, less the synergy, plus the competition."""
        competition = p.A * x.params**-p.alpha + p.B * (x.tokens_i + x.tokens_j) ** -p.beta
        return 0.5 * (x.loss_i + x.loss_j) - p.C + competition
