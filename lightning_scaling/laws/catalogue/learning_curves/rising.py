"""Base class of learning curves of a rising metric."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import numpy as np

from lightning_scaling.laws.base import Law, Source


class Rising(Law):
    """A metric that rises with the steps of one run, such as accuracy."""

    source = Source("Domhan et al.", 2015, None, "table 1")
    inputs = ("steps",)
    output = "performance"
    space: ClassVar[Literal["log", "linear"]] = "linear"
    tags = frozenset({"single run", "downstream"})


def rest(exponent: Any) -> Any:
    """``1 / (1 + exp(exponent))``, what is left of a rise, without overflow."""
    return 0.5 * (1.0 - np.tanh(0.5 * exponent))
