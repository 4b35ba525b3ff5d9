"""Share of problems solved by at least one of several samples."""

from __future__ import annotations

import math
from types import MappingProxyType
from typing import Any

import numpy as np

from lightning_scaling.laws.base import Law, Parameter, Source


class Coverage(Law):
    """``coverage = exp(a samples^b)``, with ``a`` and ``b`` below zero.

    ``exp(a)`` is the share solved with one sample; ``b`` says how fast the logarithm of the share shrinks towards
    zero as samples are added.

    Brown et al. 2024 (arXiv 2407.21787).
    """

    name = "coverage"
    title = "Brown: coverage of repeated samples"
    formula = "coverage = exp(a*samples^b)"
    source = Source("Brown et al.", 2024, "2407.21787")
    inputs = ("samples",)
    units = MappingProxyType({"samples": "attempts at every problem"})
    output = "coverage"
    parameters = (
        Parameter("a", "logarithm of the share solved at once", (-10.0, -0.05), -math.inf, 0.0),
        Parameter("b", "exponent", (-1.5, -0.03), -8.0, 0.0),
    )
    linear = ("a",)
    link = "log"
    tags = frozenset({"inference", "downstream"})
    pitfalls = (
        "Coverage needs a verifier: without one, voting and ranking level off after some hundreds of samples.",
        "The power law comes from a heavy tail of hard problems; another set of problems has another exponent.",
        "Use the unbiased estimate of coverage from all samples, not the first few.",
    )

    def value(self, p: Any, x: Any) -> Any:
        """``exp(a samples^b)``."""
        return np.exp(p.a * x.samples**p.b)
