"""A learning curve between two levels: random guessing and a floor."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from lightning_scaling.laws.base import Parameter, Source
from lightning_scaling.laws.catalogue.curves.single import SingleInput
from lightning_scaling.laws.solvers.dual import plain

Array = NDArray[np.float64]

_STEPS = 40
_CLOSE = 1e-8
_FAR = 700.0


class M4(SingleInput):
    """``(loss - eps_inf) / (eps_0 - loss)^alpha = beta * steps^c``.

    The curve falls from ``eps_0``, the level of random guessing, to ``eps_inf``; ``alpha`` says how it leaves the upper
    level, ``c`` (negative) how it nears the lower. Solved for the loss by Newton's method in ``ln((loss - eps_inf) /
    (eps_0 - loss))``, where it is monotone, with exact derivatives. The input may also be tokens, FLOPs or another:
    ``laws.get("m4", over="tokens")``. Form M4 of Alabdulmohsin et al. 2022 (arXiv 2209.06640).

    Args:
        over: The input.
    """

    name = "m4"
    title = "M4: a learning curve between random guessing and a floor"
    formula = "(loss - eps_inf)/(eps_0 - loss)^alpha = beta*steps^c"
    source = Source("Alabdulmohsin et al.", 2022, "2209.06640", "section 3, m4.py")
    tags = frozenset({"single run", "vision"})
    pitfalls = (
        "With few points near random guessing eps_0 and alpha are not identified: give eps_0 in `fixed` where it is "
        "known (1 - 1/classes for an error).",
        "Slightly pessimistic when extrapolated; the median with m2, m3 and bnsl is better than any of them.",
    )

    def _parameters(self) -> list[Parameter]:
        return [
            Parameter("eps_inf", "floor", (0.01, 1.0), upper=1.0, of="loss"),
            Parameter("eps_0", "level of random guessing", (1.05, 60.0), lower=1.0, log=True, of="loss"),
            Parameter("alpha", "how the curve leaves the upper level", (0.05, 2.5), lower=1e-3, upper=20.0),
            Parameter("beta", "coefficient", (1e-2, 1e6), log=True),
            Parameter("c", "exponent near the floor", (-2.0, -0.05), lower=-4.0, upper=0.0),
        ]

    def value(self, p: Any, x: Any) -> Any:
        """The loss between ``eps_inf`` and ``eps_0`` that solves the equation."""
        right = np.log(p.beta) + p.c * np.log(self._x(x)) + (p.alpha - 1.0) * np.log(p.eps_0 - p.eps_inf)
        root = _solve(plain(right), plain(p.alpha))
        lower, upper = np.logaddexp(0.0, -root), np.logaddexp(0.0, root)
        slope = np.exp(-upper) + plain(p.alpha) * np.exp(-lower)
        odds = root - (p.alpha * upper - lower - right) / slope
        return p.eps_inf + (p.eps_0 - p.eps_inf) * np.exp(-np.logaddexp(0.0, -odds))


def _solve(right: Array, alpha: Array) -> Array:
    """The ``s`` with ``alpha softplus(s) - softplus(-s) = right``.

    The left side is convex or concave throughout and lies on one side of both its asymptotes, so Newton's method
    started on the asymptote never crosses the root.
    """
    s = np.clip(np.where(right < 0, right, right / alpha), -_FAR, _FAR)
    for _ in range(_STEPS):
        small = np.exp(-np.abs(s))
        both = np.log1p(small)
        gap = alpha * (np.maximum(s, 0.0) + both) - np.maximum(-s, 0.0) - both - right
        slope = (np.where(s < 0, 1.0, small) + alpha * np.where(s < 0, small, 1.0)) / (1.0 + small)
        step = gap / slope
        s = s - step
        if np.all(np.abs(step) <= _CLOSE * (1.0 + np.abs(s))):
            break
    return np.asarray(s)
