"""Loss from parameters and tokens when data are repeated."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from lightning_scaling.laws.base import Law, Parameter, Published, Source

_CODE = Source("Muennighoff et al.", 2023, "2305.16264", "code in the repository's README")


class DataConstrained(Law):
    """``loss = E + A / N'^alpha + B / D'^beta``: repeated tokens, and parameters beyond what the data feed, count less.

    ``D' = U (1 + R_D_star (1 - exp(-R / R_D_star)))`` with ``U`` the distinct tokens (at most those seen) and ``R =
    tokens/U - 1`` their repeats: ``R_D_star`` is the number of repeats after which their value has fallen to 1/e.
    ``N'`` likewise, with ``U_N``, the smaller of ``params`` and the size optimal for ``U`` tokens, and ``R_N_star``;
    that size is ``(U G)^(beta/alpha) G`` with ``G = (alpha A / (beta B))^(1/(alpha+beta))``. Without repeats, and up to
    that size, it is the Chinchilla form. Muennighoff et al. 2023 (arXiv 2305.16264), section 3.
    """

    name = "data_constrained"
    title = "Data-constrained: loss from parameters, tokens and distinct tokens"
    formula = "loss = E + A/N'^alpha + B/D'^beta, D' = U*(1 + R_D_star*(1 - exp(-(tokens/U - 1)/R_D_star)))"
    source = Source("Muennighoff et al.", 2023, "2305.16264", "section 3")
    inputs = ("params", "tokens", "unique_tokens")
    parameters = (
        Parameter("E", "irreducible loss", (0.02, 1.0), of="loss"),
        Parameter("A", "size coefficient", (3.0, 1e5), log=True),
        Parameter("alpha", "size exponent", (0.15, 0.8), lower=1e-3, upper=4.0),
        Parameter("B", "data coefficient", (3.0, 1e5), log=True),
        Parameter("beta", "data exponent", (0.15, 0.8), lower=1e-3, upper=4.0),
        Parameter("R_D_star", "repeats until their value has fallen to 1/e", (1.0, 100.0), lower=1e-3, log=True),
        Parameter("R_N_star", "the same for excess parameters", (0.5, 50.0), lower=1e-3, log=True),
    )
    tags = frozenset({"ladder", "allocation", "data repeats"})
    published_constants = (
        Published(
            "muennighoff",
            {
                "E": math.exp(0.6254804),
                "A": math.exp(6.255414),
                "alpha": 0.3526596,
                "B": math.exp(7.3049974),
                "beta": 0.3526596,
                "R_D_star": 15.387756,
                "R_N_star": 5.309743,
            },
            _CODE,
            "checked",
            "C4, nats per token; ln E .6254804, ln A 6.255414, ln B 7.3049974, exponents tied.",
        ),
    )
    pitfalls = (
        "It cannot rise: over-fitting at many epochs is outside, and such runs were left out of its fit.",
        "Trust its trends; the level of the loss belongs to another loss scale than the released validation losses.",
        "Without excess parameters in the data R_N_star is not identified: give it in `fixed`.",
    )

    def value(self, p: Any, x: Any) -> Any:
        """Chinchilla's form at the effective parameters and tokens."""
        unique = np.minimum(x.unique_tokens, x.tokens)
        log_unique = np.log(unique)
        log_g = (np.log(p.alpha * p.A) - np.log(p.beta * p.B)) / (p.alpha + p.beta)
        fed = np.exp((p.beta / p.alpha) * (log_unique + log_g) + log_g)
        base = np.minimum(fed, x.params)
        size = _effective(base, x.params / base - 1.0, p.R_N_star)
        data = _effective(unique, x.tokens / unique - 1.0, p.R_D_star)
        return p.E + p.A * np.exp(-p.alpha * np.log(size)) + p.B * np.exp(-p.beta * np.log(data))


def _effective(unique: Any, repeats: Any, star: Any) -> Any:
    return unique * (1.0 - star * np.expm1(-repeats / star))
