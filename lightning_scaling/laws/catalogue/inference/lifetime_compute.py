"""Compute of training a model and of using it."""

from __future__ import annotations

from types import MappingProxyType
from typing import Any

from lightning_scaling.laws.base import Law, Parameter, Published, Source


class LifetimeCompute(Law):
    """``flops = train params tokens + infer params inference_tokens``.

    ``train`` and ``infer`` are FLOPs per parameter and token; what is spent in a model's whole life when it will be
    asked for ``inference_tokens``. Minimised along a loss, it makes models smaller and longer trained.

    Sardana et al. 2024 (arXiv 2401.00448), equation 3, with 6 and 2.
    """

    name = "lifetime_compute"
    title = "Sardana: compute of training and use"
    formula = "flops = train*params*tokens + infer*params*inference_tokens"
    source = Source("Sardana et al.", 2024, "2401.00448", "eq. 3")
    inputs = ("params", "tokens", "inference_tokens")
    units = MappingProxyType({"inference_tokens": "tokens read or written in use"})
    output = "flops"
    zero_allowed = ("inference_tokens",)
    parameters = (
        Parameter("train", "training FLOPs per parameter and token", (2.0, 20.0)),
        Parameter("infer", "inference FLOPs per parameter and token", (0.5, 10.0)),
    )
    linear = ("train", "infer")
    tags = frozenset({"inference", "allocation"})
    published_constants = (
        Published(
            "sardana",
            {"train": 6.0, "infer": 2.0},
            Source("Sardana et al.", 2024, "2401.00448", "eq. 3"),
            "transcribed",
            "The usual counts: two FLOPs per multiply-accumulate, a backward pass of twice the forward one.",
        ),
    )
    pitfalls = (
        "FLOPs of use are dearer than those of training: utilisation of 1 % against 50 % is common.",
        "Attention over long contexts is not in it.",
    )

    def value(self, p: Any, x: Any) -> Any:
        """``train params tokens + infer params inference_tokens``."""
        return x.params * (p.train * x.tokens + p.infer * x.inference_tokens)
