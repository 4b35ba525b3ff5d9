"""Contrastive entropy of a dense retriever."""

from __future__ import annotations

import math
from types import MappingProxyType
from typing import Any

import numpy as np

from lightning_scaling.laws.base import Law, Parameter, Source


class DenseRetrieval(Law):
    """``loss = [(A/params)^(alpha/beta) + B/annotations]^beta + delta``.

    Kaplan's law of size and data with a floor ``delta``, for the contrastive entropy of a retriever trained on
    annotated pairs of query and passage.

    Fang et al. 2024 (arXiv 2403.18684), the joint law, from a secondary transcription.
    """

    name = "dense_retrieval"
    title = "Fang: dense retrieval"
    formula = "loss = ((A/params)^(alpha/beta) + B/annotations)^beta + delta"
    source = Source("Fang et al.", 2024, "2403.18684")
    inputs = ("params", "annotations")
    units = MappingProxyType(
        {"params": "non-embedding parameters of the encoder", "annotations": "annotated query-passage pairs"}
    )
    parameters = (
        Parameter("A", "size scale", (1e-8, 1e2), 0.0, math.inf, log=True, of="params"),
        Parameter("alpha", "size exponent", (0.1, 1.5), 1e-3, 4.0),
        Parameter("B", "data scale", (1e-8, 1e2), 0.0, math.inf, log=True, of="annotations"),
        Parameter("beta", "data exponent", (0.1, 2.0), 1e-3, 6.0),
        Parameter("delta", "irreducible loss", (0.0, 1.0), of="loss"),
    )
    tags = frozenset({"retrieval", "ladder", "allocation"})
    pitfalls = (
        "Published exponents: alpha .56, beta 1.31; the scales were not read, so no constants are carried.",
        "The loss is over 256 sampled negatives; with other negatives it is another quantity.",
        "The quality of the annotations moves every constant.",
    )

    def value(self, p: Any, x: Any) -> Any:
        """In logarithms, so that large powers do not overflow."""
        size = (p.alpha / p.beta) * (np.log(p.A) - np.log(x.params))
        data = np.log(p.B) - np.log(x.annotations)
        return np.exp(p.beta * np.logaddexp(size, data)) + p.delta
