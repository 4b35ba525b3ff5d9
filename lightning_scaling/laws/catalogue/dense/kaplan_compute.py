"""Loss from compute at its best use, without a floor."""

from __future__ import annotations

from typing import Any

import numpy as np

from lightning_scaling.laws.base import Law, Parameter, Published, Source

_PF_DAY = 8.64e19


class KaplanCompute(Law):
    """``loss = (C_c / flops)^alpha_C``.

    ``flops`` is training compute at its best use, 6 x parameters without embeddings x tokens; the loss is in nats per
    token. Kaplan et al. 2020 (arXiv 2001.08361), equation 1.3; the paper counts in PF-days of 8.64e19 FLOPs.
    """

    name = "kaplan_compute"
    title = "Kaplan: loss from compute"
    formula = "loss = (C_c/flops)^alpha_C"
    source = Source("Kaplan et al.", 2020, "2001.08361", "eq. 1.3")
    inputs = ("flops",)
    parameters = (
        Parameter("C_c", "FLOPs at which the loss would be 1", (1e-3, 1e16), log=True, of="flops"),
        Parameter("alpha_C", "compute exponent of the total loss", (0.015, 0.4), upper=4.0),
    )
    tags = frozenset({"ladder"})
    published_constants = (
        Published(
            "kaplan",
            {"C_c": 3.1e8 * _PF_DAY, "alpha_C": 0.050},
            Source("Kaplan et al.", 2020, "2001.08361", "eq. 1.3"),
            "transcribed",
            "WebText2, nats per token; compute at a batch far below the critical one (C_min).",
            inexact={"C_c": "3.1e8 PF-days in FLOPs"},
        ),
        Published(
            "kaplan-fixed-batch",
            {"C_c": 1.6e7 * _PF_DAY, "alpha_C": 0.057},
            Source("Kaplan et al.", 2020, "2001.08361", "figure 1"),
            "recalled",
            "As above, compute as spent at one batch size; recalled with high confidence.",
            inexact={"C_c": "1.6e7 PF-days in FLOPs"},
        ),
    )
    pitfalls = (
        "There is no irreducible loss: it falls below any floor once extrapolated far enough.",
        "C_min is less than the compute spent by 1/(1 + B/B_crit).",
    )

    def value(self, p: Any, x: Any) -> Any:
        """``(C_c / flops)^alpha_C``."""
        return np.exp(p.alpha_C * (np.log(p.C_c) - np.log(x.flops)))
