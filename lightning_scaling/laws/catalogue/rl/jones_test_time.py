"""Compute at play that replaces compute in training."""

from __future__ import annotations

import math
from types import MappingProxyType
from typing import Any

import numpy as np

from lightning_scaling.laws.base import Law, Parameter, Published, Source


class JonesTestTime(Law):
    """``log10_test_flops = slope log10(flops) - k elo_gap + constant``.

    Search at play and training replace each other at a constant rate: ``slope`` decades of the former for one of the
    latter. The paper writes ``+ k Elo`` with perfect play at an Elo of zero, so Elo is negative; here ``elo_gap`` is
    by how much the agent stays below perfect play, the same number without its sign.

    Jones 2021 (arXiv 2104.03113), figure 9.
    """

    name = "jones_test_time"
    title = "Jones: training against search"
    formula = "log10_test_flops = slope*log10(flops) - k*elo_gap + constant"
    source = Source("Jones", 2021, "2104.03113", "figure 9")
    inputs = ("flops", "elo_gap")
    units = MappingProxyType({"elo_gap": "Elo below perfect play"})
    output = "log10_test_flops"
    space = "linear"
    zero_allowed = ("elo_gap",)
    parameters = (
        Parameter("slope", "decades of search per decade of training", (-4.0, -0.2), -math.inf, math.inf),
        Parameter("k", "decades of search per point of Elo", (1e-3, 0.02), -math.inf, math.inf),
        Parameter("constant", "offset", (5.0, 60.0), -math.inf, math.inf),
    )
    linear = ("slope", "k", "constant")
    tags = frozenset({"RL", "inference", "allocation"})
    published_constants = (
        Published(
            "hex_9x9",
            {"slope": -1.2, "k": 0.004, "constant": 29.0},
            Source("Jones", 2021, "2104.03113", "figure 9"),
            "transcribed",
            "AlphaZero on 9x9 Hex, FLOPs of training and of one move; two sources give the same digits. That Elo is "
            "counted from perfect play is recalled with high confidence.",
        ),
    )
    pitfalls = (
        "It ends at a single node per move: below that there is no search left to give up.",
        "The decades are of one game; board size shifts the constant.",
    )

    def value(self, p: Any, x: Any) -> Any:
        """``slope log10(flops) - k elo_gap + constant``."""
        return p.slope * np.log10(x.flops) - p.k * x.elo_gap + p.constant
