"""Loss from model size and data set together, Kaplan's form."""

from __future__ import annotations

from typing import Any

import numpy as np

from lightning_scaling.laws.base import Law, Parameter, Published, Source

_KAPLAN = Source("Kaplan et al.", 2020, "2001.08361", "eq. 1.5, table 2")


class KaplanParamsTokens(Law):
    """``loss = ((N_c / params)^(alpha_N / alpha_D) + D_c / tokens)^alpha_D``.

    Goes over into `kaplan_params` for endless data and into `kaplan_tokens` for an endless model. ``params`` leave out
    embeddings, ``tokens`` is the data set; the loss is in nats per token. Kaplan et al. 2020 (arXiv 2001.08361),
    equation 1.5.
    """

    name = "kaplan_params_tokens"
    title = "Kaplan: loss from parameters and data set"
    formula = "loss = ((N_c/params)^(alpha_N/alpha_D) + D_c/tokens)^alpha_D"
    source = _KAPLAN
    inputs = ("params", "tokens")
    parameters = (
        Parameter("N_c", "parameters at which the loss would be 1", (1e-2, 1e10), log=True, of="params"),
        Parameter("alpha_N", "size exponent of the total loss", (0.02, 0.5), upper=4.0),
        Parameter("D_c", "tokens at which the loss would be 1", (1e-2, 1e10), log=True, of="tokens"),
        Parameter("alpha_D", "data exponent of the total loss", (0.02, 0.5), lower=1e-4, upper=4.0),
    )
    tags = frozenset({"ladder", "allocation"})
    published_constants = (
        Published(
            "kaplan",
            {"N_c": 6.4e13, "alpha_N": 0.076, "D_c": 1.8e13, "alpha_D": 0.103},
            _KAPLAN,
            "checked",
            "WebText2, nats per token, 10 % dropout; also in the code of Li et al. 2025 (arXiv 2502.18969).",
        ),
    )
    pitfalls = (
        "tokens is the data set, of which several epochs are seen with early stopping: not the tokens of one pass.",
        "There is no irreducible loss, and embeddings are left out: its allocation (N grows as C^.73) is superseded.",
        "The survey (arXiv 2502.12051) prints it as a sum of two powers, which is another law.",
    )

    def value(self, p: Any, x: Any) -> Any:
        """``exp(alpha_D * logaddexp(alpha_N/alpha_D * ln(N_c/params), ln(D_c/tokens)))``."""
        size = (p.alpha_N / p.alpha_D) * (np.log(p.N_c) - np.log(x.params))
        data = np.log(p.D_c) - np.log(x.tokens)
        return np.exp(p.alpha_D * np.logaddexp(size, data))
