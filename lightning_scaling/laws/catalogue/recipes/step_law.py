"""Best learning rate and batch from model size and data."""

from __future__ import annotations

import math
from typing import Any

from lightning_scaling.laws.base import Law, Parameter, Published, Source

_RELEASE = Source("Li et al.", 2025, "2503.04715", "mean of the 1,000 bootstrap rows of the release")


class StepLawRate(Law):
    """``learning_rate = c * params^alpha * tokens^beta``.

    The best peak learning rate; ``alpha`` is negative, ``beta`` positive. ``params`` leave out embeddings. Li et al.
    2025 (arXiv 2503.04715), the Step Law, from grids of rate and batch at 17 pairs of size and data.
    """

    name = "step_law_rate"
    title = "Step Law: best learning rate from parameters and tokens"
    formula = "learning_rate = c*params^alpha*tokens^beta"
    source = Source("Li et al.", 2025, "2503.04715", "eq. 1")
    inputs = ("params", "tokens")
    output = "learning_rate"
    parameters = (
        Parameter("c", "coefficient", (1e-4, 1e4), log=True),
        Parameter("alpha", "exponent of size", (-1.2, -0.2), lower=-4.0, upper=4.0),
        Parameter("beta", "exponent of data", (0.05, 0.8), lower=-4.0, upper=4.0),
    )
    linear = ("c",)
    tags = frozenset({"batch/LR"})
    published_constants = (
        Published(
            "step-law",
            {"c": math.exp(0.5863077907399268), "alpha": -0.7129222911869904, "beta": 0.30749095041206964},
            _RELEASE,
            "checked",
            "2.1e8 to 1.1e9 parameters without embeddings, 4e9 to 1e11 tokens; 95 % of the bootstrap: "
            "alpha -.774 to -.655, beta .271 to .345, closely linked to c. The paper rounds to 1.79, -.713, .307.",
        ),
    )
    pitfalls = (
        "It grows with data where DeepSeek's falls with compute: quote both as a band.",
        "How far the rate decays moves the best peak.",
    )

    def value(self, p: Any, x: Any) -> Any:
        """``c params^alpha tokens^beta``."""
        return p.c * x.params**p.alpha * x.tokens**p.beta


class StepLawBatch(Law):
    """``batch_tokens = d * tokens^gamma``.

    The best batch in tokens; it depends on the data only. Li et al. 2025 (arXiv 2503.04715), the Step Law.
    """

    name = "step_law_batch"
    title = "Step Law: best batch from tokens"
    formula = "batch_tokens = d*tokens^gamma"
    source = Source("Li et al.", 2025, "2503.04715", "eq. 1")
    inputs = ("tokens",)
    output = "batch_tokens"
    parameters = (
        Parameter("d", "coefficient", (1e-4, 1e6), log=True),
        Parameter("gamma", "exponent of data", (0.15, 1.0), lower=-4.0, upper=4.0),
    )
    linear = ("d",)
    tags = frozenset({"batch/LR"})
    published_constants = (
        Published(
            "step-law",
            {"d": math.exp(-0.5435421736103339), "gamma": 0.5709443646895045},
            _RELEASE,
            "checked",
            "As for step_law_rate; 95 % of the bootstrap: gamma .534 to .606, closely linked to d.",
        ),
    )
    pitfalls = ("The valley is flat: half or twice the batch costs little when the learning rate is tuned with it.",)

    def value(self, p: Any, x: Any) -> Any:
        """``d tokens^gamma``."""
        return p.d * x.tokens**p.gamma
