"""Loss of fine-tuning from the amount of data, in addition to what pre-training provides."""

from __future__ import annotations

from types import MappingProxyType
from typing import Any

from lightning_scaling.laws.base import Law, Parameter, Source


class Rectified(Law):
    """``loss = B / (D_l + finetune_tokens^beta) + E``.

    ``D_l`` is what the model knew of the task before. While ``finetune_tokens^beta`` is small against it the curve
    is flat (the pre-power phase), and only then a power law towards ``E``.

    Lin et al. 2024 (arXiv 2402.02314). The authors' page raises the whole to a further power; the paper fixes it at 1.
    """

    name = "rectified"
    title = "Rectified: fine-tuning after a flat start"
    formula = "loss = B/(D_l + finetune_tokens^beta) + E"
    source = Source("Lin et al.", 2024, "2402.02314")
    inputs = ("finetune_tokens",)
    units = MappingProxyType({"finetune_tokens": "fine-tuning tokens (or examples)"})
    parameters = (
        Parameter("B", "data coefficient", (1e-2, 1e8), log=True),
        Parameter("D_l", "data learned beforehand, to the power beta", (1.0, 1e7), log=True),
        Parameter("beta", "data exponent", (0.1, 1.5), upper=4.0),
        Parameter("E", "irreducible loss", (0.0, 1.0), of="loss"),
    )
    linear = ("B", "E")
    tags = frozenset({"fine-tuning"})
    pitfalls = (
        "The flat start is not failure: more data will help once it is passed.",
        "With points from the flat part alone beta and E are not in the data.",
        "Each point is a whole fine-tuning run on that much data, not a checkpoint.",
    )

    def value(self, p: Any, x: Any) -> Any:
        """``B / (D_l + finetune_tokens^beta) + E``."""
        return p.B / (p.D_l + x.finetune_tokens**p.beta) + p.E
