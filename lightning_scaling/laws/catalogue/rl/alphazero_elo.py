"""Playing strength from size or compute."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from lightning_scaling.laws.base import Law, Parameter, Source

_FACTORS = ("params", "flops")


class AlphaZeroElo(Law):
    """``elo = 400 alpha log10(X) + constant``.

    Bradley-Terry strength is a power ``alpha`` of ``X`` (parameters at convergence, or training compute at the
    optimal size), and Elo is 400 times its decimal logarithm. The zero of Elo is arbitrary, and ``constant`` with it.

    Neumann and Gros 2022 (arXiv 2210.00849).

    Args:
        factor: What ``X`` is: ``"params"`` or ``"flops"``.
    """

    name = "alphazero_elo"
    title = "AlphaZero: Elo from size or compute"
    source = Source("Neumann and Gros", 2022, "2210.00849")
    output = "elo"
    space = "linear"
    parameters = (
        Parameter("alpha", "exponent of the playing strength", (0.1, 3.0), -math.inf, math.inf),
        Parameter("constant", "Elo at one", (-1e4, 1e4), -math.inf, math.inf),
    )
    linear = ("alpha", "constant")
    tags = frozenset({"RL", "ladder"})
    pitfalls = (
        "Recalled for Connect Four and Pentago, with medium confidence: alpha about .88 in parameters, about .55 in "
        "compute; the optimal size grows about as compute^.63.",
        "Elo comes from a tournament: refit the ratings of all agents together, with anchors, before fitting this.",
        "Near perfect play the line must bend; it is not in the law.",
    )

    def __init__(self, factor: str = "params") -> None:
        if factor not in _FACTORS:
            raise ValueError(f"`factor` must be one of {', '.join(_FACTORS)}, but got {factor!r}.")
        self.factor = factor
        self.inputs = (factor,)
        self.formula = f"elo = 400*alpha*log10({factor}) + constant"

    def options(self) -> dict[str, Any]:
        """The factor."""
        return {"factor": self.factor}

    def value(self, p: Any, x: Any) -> Any:
        """``400 alpha log10(X) + constant``."""
        return 400.0 * p.alpha * np.log10(getattr(x, self.factor)) + p.constant
