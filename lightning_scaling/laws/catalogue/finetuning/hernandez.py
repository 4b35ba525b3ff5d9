"""Effective data that pre-training transfers to fine-tuning."""

from __future__ import annotations

import math
from types import MappingProxyType
from typing import Any

import numpy as np

from lightning_scaling.laws.base import Law, Parameter, Published, Source

_PAPER = Source("Hernandez et al.", 2021, "2102.01293", "effective data transferred")
_NOTE = (
    "Transformers without embedding parameters; data counted in characters, as recalled. Holds when fine-tuning data "
    "are scarce: a tenth of what training from scratch would need, or less."
)


class Hernandez(Law):
    """``effective_tokens = k finetune_tokens^alpha params^beta``.

    How much more data a model trained from scratch would need to reach the loss of the fine-tuned one. ``k`` and
    ``alpha`` measure how near the two texts are (the nearer, the smaller ``alpha``), ``beta`` how size helps.

    Hernandez et al. 2021 (arXiv 2102.01293).
    """

    name = "hernandez"
    title = "Hernandez: effective data transferred"
    formula = "effective_tokens = k*finetune_tokens^alpha*params^beta"
    source = _PAPER
    inputs = ("finetune_tokens", "params")
    units = MappingProxyType({"finetune_tokens": "tokens (in the paper: characters) of fine-tuning data"})
    output = "effective_tokens"
    parameters = (
        Parameter("k", "coefficient", (1.0, 1e8), log=True),
        Parameter("alpha", "exponent of the fine-tuning data", (0.02, 1.0), upper=4.0),
        Parameter("beta", "exponent of the size", (0.05, 1.5), upper=4.0),
    )
    linear = ("k",)
    tags = frozenset({"fine-tuning"})
    published_constants = (
        Published("text_to_python", {"k": 1.9e4, "alpha": 0.18, "beta": 0.38}, _PAPER, "transcribed", _NOTE),
        Published("text_and_code_to_python", {"k": 2.1e5, "alpha": 0.096, "beta": 0.38}, _PAPER, "transcribed", _NOTE),
    )
    pitfalls = (
        "Only in the low-data regime: with plenty of fine-tuning data, pre-training can do harm.",
        "Data are counted in characters in the paper; with tokens k changes.",
        "Compare at converged fine-tuning, not at a fixed number of steps.",
    )

    def value(self, p: Any, x: Any) -> Any:
        """``k finetune_tokens^alpha params^beta``."""
        return p.k * x.finetune_tokens**p.alpha * x.params**p.beta


class HernandezLoss(Law):
    """``loss = [(N_C/params)^(alpha_N/alpha_D) + D_k / (finetune_tokens^alpha params^beta)]^alpha_D``.

    Kaplan's law of size and data with the data replaced by the effective data transferred. ``D_k`` is the paper's
    ``D_C / k``: the loss alone cannot separate the two.

    Hernandez et al. 2021 (arXiv 2102.01293), the unified law.
    """

    name = "hernandez_loss"
    title = "Hernandez: loss of a fine-tuned model"
    formula = "loss = ((N_C/params)^(alpha_N/alpha_D) + D_k/(finetune_tokens^alpha*params^beta))^alpha_D"
    source = Source("Hernandez et al.", 2021, "2102.01293", "unified scaling law")
    inputs = ("params", "finetune_tokens")
    units = MappingProxyType({"finetune_tokens": "tokens (in the paper: characters) of fine-tuning data"})
    parameters = (
        Parameter("N_C", "size scale", (1e-2, 1e14), 0.0, math.inf, log=True, of="params"),
        Parameter("alpha_N", "size exponent", (0.03, 0.6), 1e-3, 4.0),
        Parameter("D_k", "data scale over transfer coefficient", (1e1, 1e14), log=True),
        Parameter("alpha_D", "data exponent", (0.03, 1.0), 1e-3, 4.0),
        Parameter("alpha", "exponent of the fine-tuning data", (0.02, 1.2), upper=4.0),
        Parameter("beta", "exponent of the size in transfer", (0.05, 1.2), upper=4.0),
    )
    tags = frozenset({"fine-tuning", "ladder"})
    pitfalls = (
        "Only in the low-data regime, where nearly all effective data come from pre-training.",
        "It has no floor, so the exponents are those of the whole loss.",
        "Divide D_C of runs from scratch by D_k to get the paper's k.",
    )

    def value(self, p: Any, x: Any) -> Any:
        """In logarithms, so that large powers do not overflow."""
        size = (p.alpha_N / p.alpha_D) * (np.log(p.N_C) - np.log(x.params))
        data = np.log(p.D_k) - p.alpha * np.log(x.finetune_tokens) - p.beta * np.log(x.params)
        return np.exp(p.alpha_D * np.logaddexp(size, data))
