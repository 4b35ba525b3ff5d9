"""A shifted power law with a floor."""

from __future__ import annotations

from types import MappingProxyType
from typing import Any

import numpy as np

from lightning_scaling.laws.base import Parameter, Published, Source
from lightning_scaling.laws.catalogue.curves.single import SingleInput

_ZHAI = Source("Zhai et al.", 2022, "2106.04560", "figure 1")


class Zhai(SingleInput):
    """``loss = a * (flops + d)^-b + c``.

    Saturates at both ends: ``d`` flattens the curve at little compute, ``c`` is the floor at much. The input may also
    be steps, tokens or another; the published constants take compute in TPUv3 core-days, so they come with
    ``laws.get("zhai", over="core_days")``. Zhai et al. 2022 (arXiv 2106.04560), vision transformers.

    Args:
        over: The input: ``"flops"``, ``"core_days"``, ``"steps"`` or another.
    """

    name = "zhai"
    title = "Zhai: a power law that flattens at both ends"
    usual = "flops"
    formula = "loss = a*(flops + d)^-b + c"
    source = _ZHAI
    units = MappingProxyType({"core_days": "training compute in TPUv3 core-days"})
    linear = ("a", "c")
    tags = frozenset({"single run", "ladder", "vision"})
    pitfalls = (
        "Only points of the early plateau determine d; without them give it as 0 in `fixed`.",
        "The published constants are for compute in TPUv3 core-days, not FLOPs: see the option over='core_days'.",
    )

    def __init__(self, over: str | None = None) -> None:
        super().__init__(over)
        if self.over == "core_days":
            self.published_constants = tuple(
                Published(
                    name,
                    {"a": a, "d": d, "b": b, "c": c},
                    _ZHAI,
                    "transcribed",
                    f"ImageNet {what} error of the best model for the compute, in TPUv3 core-days.",
                )
                for name, what, a, d, b, c in (
                    ("imagenet-finetune", "fine-tuning", 0.26, 0.01, 0.35, 0.09),
                    ("imagenet-10-shot", "10-shot", 0.63, 0.52, 0.32, 0.12),
                )
            )

    def _parameters(self) -> list[Parameter]:
        return [
            Parameter("a", "coefficient", (1e-2, 1e8), log=True),
            Parameter("d", "shift: below it the curve is flat", (1e-4, 10.0), of=self.over, log=True),
            Parameter("b", "exponent", (0.03, 1.5), upper=4.0),
            Parameter("c", "floor", (0.0, 1.0), of="loss"),
        ]

    def value(self, p: Any, x: Any) -> Any:
        """``a (x + d)^-b + c``."""
        return p.a * np.exp(-p.b * np.log(self._x(x) + p.d)) + p.c
