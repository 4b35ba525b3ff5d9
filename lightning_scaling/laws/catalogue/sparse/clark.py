"""Loss of a routed language model from its active size and its number of experts."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from lightning_scaling.laws.base import Law, Parameter, Published, Source

_ANY = (-math.inf, math.inf)
_LN10 = math.log(10.0)


def _known(name: str, values: tuple[float, ...], fit: str) -> Published:
    symbols = ("a", "b", "c", "d", "E_start", "E_max")
    return Published(
        name,
        dict(zip(symbols, values, strict=True)),
        Source("Clark et al.", 2022, "2202.01169", "table 3"),
        "checked",
        "Transcribed alike by two sources. With logarithms to base 10 and the parameter count of the matching dense "
        f"model they give the final validation losses the authors released within {fit} (root mean square, 16M to "
        "1.3B, up to 512 experts, 130e9 tokens, nats per token); three decimals in c alone mean an error of about 1 %.",
    )


class Clark(Law):
    """``log10 loss = a log10 N + b log10 X + c log10 N log10 X + d``, ``X`` the effective number of experts.

    ``1/X = 1/(experts - 1 + 1/(1/E_start - 1/E_max)) + 1/E_max`` saturates: ``X = E_start`` with one expert and ``X
    -> E_max`` with very many. ``a`` and ``b`` are the gains from size and from experts, ``c`` how each shrinks as the
    other grows. ``N`` is ``active_params``: the parameters of the dense model with the same cost per token.

    Clark et al. 2022 (arXiv 2202.01169), equation 1.
    """

    name = "clark"
    title = "Clark: routed language models"
    formula = (
        "log10(loss) = a*log10(active_params) + b*log10(X) + c*log10(active_params)*log10(X) + d, "
        "1/X = 1/(experts - 1 + 1/(1/E_start - 1/E_max)) + 1/E_max"
    )
    source = Source("Clark et al.", 2022, "2202.01169", "eq. 1")
    inputs = ("active_params", "experts")
    parameters = (
        Parameter("a", "exponent of the size", (-0.3, -0.01), *_ANY),
        Parameter("b", "exponent of the effective experts", (-0.4, -0.01), *_ANY),
        Parameter("c", "how the two gains eat each other", (1e-3, 0.05), *_ANY),
        Parameter("d", "offset", (0.3, 3.0), *_ANY),
        Parameter("E_start", "effective experts of the dense model", (1.0, 12.0), 0.1, 1e3, log=True),
        Parameter("E_max", "most effective experts", (60.0, 3000.0), 2.0, 1e6, log=True),
    )
    linear = ("a", "b", "c", "d")
    link = "log"
    tags = frozenset({"ladder", "sparse"})
    published_constants = (
        _known("s_base", (-0.082, -0.108, 0.009, 1.104, 1.847, 314.478), "0.9 %"),
        _known("rl_r", (-0.083, -0.126, 0.012, 1.111, 1.880, 469.982), "1.8 %"),
        _known("hash", (-0.087, -0.136, 0.012, 1.157, 4.175, 477.741), "1.2 %"),
    )
    pitfalls = (
        "It has no term for data: every run must have seen the same number of tokens (130e9 in the paper).",
        "It has no floor, so beyond the sizes fitted it falls too far.",
        "Routing is predicted to stop helping at about 9e11 (S-Base) and 8e10 (RL-R, hash) parameters at 130e9 tokens; "
        "later work with more tokens disagrees.",
        "E_max is only seen with runs of hundreds of experts.",
    )

    def value(self, p: Any, x: Any) -> Any:
        """Ten to the bilinear form in ``log10 N`` and ``log10 X``."""
        first = 1.0 / p.E_start - 1.0 / p.E_max
        effective = -np.log(first / (1.0 + (x.experts - 1.0) * first) + 1.0 / p.E_max)
        size = np.log(x.active_params)
        return np.exp(p.a * size + p.b * effective + p.c * size * effective / _LN10 + p.d * _LN10)
