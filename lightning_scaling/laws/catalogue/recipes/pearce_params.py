"""All parameters from those outside the embeddings."""

from __future__ import annotations

from types import MappingProxyType
from typing import Any

import numpy as np

from lightning_scaling.laws.base import Law, Parameter, Published, Source


class PearceParams(Law):
    """``params = non_embedding_params + omega * non_embedding_params^(1/3)``.

    Turns a count without embeddings into one with them, for transformers of a common shape: ``omega`` holds vocabulary
    and aspect ratio. It explains most of the gap between Kaplan's and Chinchilla's allocation. Pearce and Song 2024
    (arXiv 2406.12907).
    """

    name = "pearce_params"
    title = "Pearce and Song: all parameters from those outside the embeddings"
    formula = "params = non_embedding_params + omega*non_embedding_params^(1/3)"
    source = Source("Pearce and Song", 2024, "2406.12907")
    inputs = ("non_embedding_params",)
    units = MappingProxyType({"non_embedding_params": "parameters outside the embeddings"})
    output = "params"
    parameters = (Parameter("omega", "embedding coefficient", (1e2, 1e7), log=True),)
    tags = frozenset({"allocation"})
    published_constants = (
        Published(
            "pearce",
            {"omega": 47491.0},
            Source("Pearce and Song", 2024, "2406.12907", "code of the authors"),
            "checked",
            "Models of Hoffmann et al., vocabulary of 32 thousand.",
        ),
    )
    pitfalls = (
        "With another vocabulary omega is about proportional to it; counting the model is better where one can.",
    )

    def value(self, p: Any, x: Any) -> Any:
        """``N + omega N^(1/3)``."""
        return x.non_embedding_params + p.omega * np.cbrt(x.non_embedding_params)
