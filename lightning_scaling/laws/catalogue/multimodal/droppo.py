"""Loss of an acoustic model."""

from __future__ import annotations

import math
from types import MappingProxyType
from typing import Any

import numpy as np

from lightning_scaling.laws.base import Law, Parameter, Source


class Droppo(Law):
    """``loss = [L_inf^(1/alpha) + (N_C/params)^(alpha_N/alpha) + (D_C/audio_hours)^(alpha_D/alpha)]^alpha``.

    Kaplan's law of size and data with a third term inside the bracket for the irreducible loss ``L_inf``; ``alpha``
    sets how softly the three limits give way to each other.

    Droppo and Elibol 2021 (arXiv 2106.09488), recalled with medium confidence; no constants.
    """

    name = "droppo"
    title = "Droppo: acoustic models"
    formula = "loss = (L_inf^(1/alpha) + (N_C/params)^(alpha_N/alpha) + (D_C/audio_hours)^(alpha_D/alpha))^alpha"
    source = Source("Droppo and Elibol", 2021, "2106.09488")
    inputs = ("params", "audio_hours")
    units = MappingProxyType({"audio_hours": "hours of training audio"})
    parameters = (
        Parameter("L_inf", "irreducible loss", (0.3, 1.0), of="loss", log=True),
        Parameter("N_C", "size scale", (1e-8, 1e2), 0.0, math.inf, log=True, of="params"),
        Parameter("alpha_N", "size exponent", (0.1, 1.2), 1e-3, 4.0),
        Parameter("D_C", "data scale", (1e-8, 1e2), 0.0, math.inf, log=True, of="audio_hours"),
        Parameter("alpha_D", "data exponent", (0.1, 1.2), 1e-3, 4.0),
        Parameter("alpha", "softness", (0.1, 2.0), 0.01, 8.0),
    )
    tags = frozenset({"ladder", "multimodal"})
    pitfalls = (
        "Recalled form: compare with a plain sum of the three terms (alpha = 1) before relying on the softness.",
        "The loss is that of predicting frames; word error rates do not follow it.",
    )

    def value(self, p: Any, x: Any) -> Any:
        """In logarithms, so that large powers do not overflow."""
        size = p.alpha_N * (np.log(p.N_C) - np.log(x.params))
        data = p.alpha_D * (np.log(p.D_C) - np.log(x.audio_hours))
        limits = np.logaddexp(np.logaddexp(size / p.alpha, data / p.alpha), np.log(p.L_inf) / p.alpha)
        return np.exp(p.alpha * limits)
