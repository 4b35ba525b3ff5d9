"""Accuracy on a task from the loss on it."""

from __future__ import annotations

import math
from types import MappingProxyType
from typing import Any

import numpy as np

from lightning_scaling.laws.base import Law, Parameter, Source


class SigmoidAccuracy(Law):
    """``accuracy = a / (1 + exp(-k (task_loss - L_0))) + b``, with ``a`` below zero.

    ``b`` is the accuracy at no loss and ``b + a`` that of guessing; ``L_0`` is the loss halfway and ``k`` how sharp
    the step is. ``task_loss`` is the loss of the right answers in bits per byte, itself predicted from size and
    tokens.

    Bhagia et al. 2024 (arXiv 2412.04403), step 2 of the ladder.
    """

    name = "sigmoid_accuracy"
    title = "Ladder: accuracy from task loss"
    formula = "accuracy = a/(1 + exp(-k*(task_loss - L_0))) + b"
    source = Source("Bhagia et al.", 2024, "2412.04403", "eq. 2")
    inputs = ("task_loss",)
    units = MappingProxyType({"task_loss": "loss of the right answers, bits per byte"})
    output = "accuracy"
    space = "linear"
    parameters = (
        Parameter("a", "from no loss to guessing, negative", (-1.0, -0.05), -math.inf, 0.0),
        Parameter("k", "sharpness", (0.5, 60.0), 0.01, 1e4, log=True),
        Parameter("L_0", "loss halfway", (0.3, 3.0), of="task_loss"),
        Parameter("b", "accuracy at no loss", (0.3, 1.0), -math.inf, math.inf),
    )
    linear = ("a", "b")
    tags = frozenset({"downstream"})
    pitfalls = (
        "Add the point of perfect accuracy at no loss, as the authors do, or b is free to roam.",
        "Only tasks whose accuracy varies little between checkpoints can be predicted: of the authors' BoolQ scarcely, "
        "HellaSwag well.",
        "A step seen from one side only does not give its height.",
    )

    def value(self, p: Any, x: Any) -> Any:
        """Half a hyperbolic tangent, which does not overflow."""
        return p.a * (0.5 * (1.0 + np.tanh(0.5 * p.k * (x.task_loss - p.L_0)))) + p.b
