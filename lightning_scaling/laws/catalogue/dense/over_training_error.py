"""Downstream error from loss."""

from __future__ import annotations

from types import MappingProxyType
from typing import Any

import numpy as np

from lightning_scaling.laws.base import Law, Parameter, Published, Source

_RELEASE = Source("Gadre et al.", 2024, "2403.08540", "recomputed from the release of 104 models")


class OverTrainingError(Law):
    """``error = epsilon - k exp(-gamma validation_loss)``.

    ``epsilon`` is the average error of a model that has learned nothing; it falls by ``k exp(-gamma validation_loss)``.
    Chain it after a law for the loss. Gadre et al. 2024 (arXiv 2403.08540), equation 5, on the average of 17 tasks.
    """

    name = "over_training_error"
    title = "Over-training: average downstream error from loss"
    formula = "error = epsilon - k*exp(-gamma*validation_loss)"
    source = Source("Gadre et al.", 2024, "2403.08540", "eq. 5")
    inputs = ("validation_loss",)
    units = MappingProxyType({"validation_loss": "held-out loss in nats per token"})
    output = "error"
    parameters = (
        Parameter("epsilon", "error of a model that has learned nothing", (0.0, 2.0)),
        Parameter("k", "size of the fall", (1e-2, 1e3), log=True),
        Parameter("gamma", "rate of the fall per nat", (0.1, 3.0), upper=20.0),
    )
    linear = ("epsilon", "k")
    space = "linear"
    tags = frozenset({"downstream"})
    published_constants = tuple(
        Published(
            name,
            {"epsilon": epsilon, "k": k, "gamma": gamma},
            _RELEASE,
            "checked",
            f"Trained on {corpus}; mean top-1 error of 17 tasks against loss on C4 validation.",
            inexact=dict.fromkeys(("epsilon", "k", "gamma"), "recomputed, three digits"),
        )
        for name, corpus, epsilon, k, gamma in (
            ("c4", "C4", 0.850, 2.08, 0.756),
            ("redpajama", "RedPajama", 0.857, 2.21, 0.715),
            ("refinedweb", "RefinedWeb", 0.865, 2.22, 0.707),
        )
    )
    pitfalls = (
        "It holds for an average over tasks; single tasks scatter or do not move at all.",
        "The constants belong to one tokenizer and one validation set.",
    )

    def value(self, p: Any, x: Any) -> Any:
        """``epsilon - k exp(-gamma validation_loss)``."""
        return p.epsilon - p.k * np.exp(-p.gamma * x.validation_loss)
