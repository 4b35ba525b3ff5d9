"""Error from samples whose utility decays with every pass."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from lightning_scaling.laws.base import Law, Parameter, Source

_MOST = 256


class GoyalQuality(Law):
    """``error = a n_1^b (n_2/n_1)^b_2 (n_3/n_2)^b_3 ... + d``, ``b_k = b 2^(-(k-1)/tau)``.

    ``n_k`` is the number of samples seen after pass ``k``.

    The exponent ``b`` (negative) is the utility of the data: better data has a steeper one. Every further pass over the
    same ``unique_tokens`` samples works with a smaller exponent, halved every ``tau`` passes; ``d`` is what no data
    removes. The last pass may be unfinished.

    Goyal et al. 2024 (arXiv 2404.07177), equations 2 and 3, from a secondary transcription.
    """

    name = "goyal_quality"
    title = "Goyal: utility of data over passes"
    formula = "error = a*prod over passes k of (n_k/n_(k-1))^(b*2^(-(k-1)/tau)) + d, n_k = min(tokens, k*unique_tokens)"
    source = Source("Goyal et al.", 2024, "2404.07177", "eq. 2 and 3")
    inputs = ("tokens", "unique_tokens")
    output = "error"
    parameters = (
        Parameter("a", "error scale", (1e-2, 1e4), log=True),
        Parameter("b", "exponent at the first pass", (-1.2, -0.03), -4.0, 0.0),
        Parameter("tau", "passes until the exponent has halved", (0.5, 60.0), 0.02, 1e4, log=True),
        Parameter("d", "error that no data removes", (0.0, 1.0), of="loss"),
    )
    linear = ("a", "d")
    tags = frozenset({"data repeats", "vision"})
    pitfalls = (
        "Without runs of several passes tau is not in the data.",
        "a, b and d belong to one pool of data; for a mixture of p pools tau is multiplied by p.",
        "Here the exponent fades with repeats; in the data-constrained law the amount does. Which holds is for data "
        "to say.",
    )

    def features(self, x: Mapping[str, Any]) -> Mapping[str, Any]:
        """The logarithm of the growth of the samples in every pass."""
        seen = np.asarray(x["tokens"], dtype=np.float64)
        unique = np.asarray(x["unique_tokens"], dtype=np.float64)
        with np.errstate(divide="ignore", invalid="ignore"):
            most = float(np.max(seen / unique, initial=1.0))
        if not most <= _MOST:
            raise ValueError(
                f"{self.name}: a point has {most:g} passes over its unique_tokens, but the law is worked out pass by "
                f"pass up to {_MOST}; check the units or use data_constrained."
            )
        growth = {"pass_1": np.log(np.minimum(seen, unique))}
        for k in range(2, math.ceil(most) + 1):
            growth[f"pass_{k}"] = np.log(np.clip(seen / unique, k - 1.0, k) / (k - 1.0))
        return {**x, **growth, "passes": np.float64(len(growth))}

    def value(self, p: Any, x: Any) -> Any:
        """``a`` times the product over the passes, plus ``d``; the exponents summed by Horner's rule."""
        fading = np.exp(-math.log(2.0) / p.tau)
        passes = int(x.passes)
        total = getattr(x, f"pass_{passes}")
        for k in range(passes - 1, 0, -1):
            total = getattr(x, f"pass_{k}") + fading * total
        return p.a * np.exp(p.b * total) + p.d
