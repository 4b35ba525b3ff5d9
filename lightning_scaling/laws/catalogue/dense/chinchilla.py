"""Loss from parameters and tokens, the additive form."""

from __future__ import annotations

import math
from typing import Any

from lightning_scaling.laws.base import Law, Parameter, Published, Source

_BESIROGLU = Source("Besiroglu et al.", 2024, "2404.10102")
_GEMSTONES = Source("McLeish et al.", 2025, "2502.06857", "parameters_delta-4 of the authors' repository")


class Chinchilla(Law):
    """``loss = E + A / params^alpha + B / tokens^beta``.

    Hoffmann et al. 2022 (arXiv 2203.15556), equation 2 and approach 3: an irreducible loss, and what a finite model and
    finite data add to it. ``params`` include embeddings; the loss is in nats per token.
    """

    name = "chinchilla"
    title = "Chinchilla: loss from parameters and tokens"
    formula = "loss = E + A/params^alpha + B/tokens^beta"
    source = Source("Hoffmann et al.", 2022, "2203.15556", "eq. 2")
    inputs = ("params", "tokens")
    parameters = (
        Parameter("E", "irreducible loss", (0.0, 1.0), of="loss", prior=(0.68, 0.125)),
        Parameter("A", "size coefficient", (1e-2, 1e8), log=True),
        Parameter("alpha", "size exponent", (0.05, 1.5), upper=4.0, prior=(0.35, 0.2)),
        Parameter("B", "data coefficient", (1e-2, 1e8), log=True),
        Parameter("beta", "data exponent", (0.05, 1.5), upper=4.0, prior=(0.35, 0.2)),
    )
    linear = ("E", "A", "B")
    tags = frozenset({"ladder", "allocation"})
    siblings = ("coupled", "over_training")
    published_constants = (
        Published(
            "besiroglu",
            {"E": 1.81686, "A": 482.00572, "alpha": 0.34781, "B": 2085.43420, "beta": 0.36585},
            _BESIROGLU,
            "checked",
            "Refit of 240 points read from figure 4 of Hoffmann et al.; MassiveText, nats per token.",
            errors={"E": 0.02566, "A": 124.52, "alpha": 0.01540, "B": 1293.28, "beta": 0.02060},
        ),
        Published(
            "hoffmann",
            {"E": 1.6934, "A": 406.4, "alpha": 0.33917084, "B": 410.7, "beta": 0.2849083},
            Source("Hoffmann et al.", 2022, "2203.15556", "TeX source: ln A 6.0073404, ln B 6.0179186, ln E 0.5267228"),
            "checked",
            "Not converged (the Huber loss was averaged); kept for comparison. MassiveText, nats per token.",
        ),
        Published(
            "sardana",
            {"E": 1.45, "A": 33.66, "alpha": 0.18, "B": 138.9, "beta": 0.24},
            Source("Sardana et al.", 2024, "2401.00448", "refit of 47 models"),
            "transcribed",
            "Up to 10,000 tokens per parameter, nats per token. Fitted on less over-training the exponents are "
            "smaller: .08 and .13 up to 100 tokens per parameter, .13 and .16 up to 500.",
        ),
        Published(
            "gemstones-hot",
            {
                "E": math.exp(0.7663168139),
                "A": math.exp(5.4574988414),
                "alpha": 0.2989180518,
                "B": math.exp(14.9719740349),
                "beta": 0.6928331414,
            },
            _GEMSTONES,
            "checked",
            "50M to 2B parameters, constant learning rate, all checkpoints up to 350B tokens; nats per token.",
        ),
        Published(
            "gemstones-cooled",
            {
                "E": math.exp(0.7458889548),
                "A": math.exp(5.3627962101),
                "alpha": 0.2970133066,
                "B": math.exp(14.9717677508),
                "beta": 0.6903991635,
            },
            _GEMSTONES,
            "checked",
            "As gemstones-hot, after a cooldown at every 10B tokens.",
        ),
    )
    pitfalls = (
        "Embeddings count: with non-embedding parameters at small scale the exponents come out too large.",
        "A and alpha, B and beta are tightly linked: compare predictions or exponents, not coefficients.",
        "Rounding beta from .2849 to .28 shifts the data term by 13 % at 1e11 tokens.",
        "It cannot express over-fitting: once tokens exceed unique tokens use data_constrained.",
    )

    def value(self, p: Any, x: Any) -> Any:
        """``E + A params^-alpha + B tokens^-beta``."""
        return p.E + p.A * x.params**-p.alpha + p.B * x.tokens**-p.beta
