"""Loss from the shape of a transformer and its tokens."""

from __future__ import annotations

import math
from types import MappingProxyType
from typing import Any

from lightning_scaling.laws.base import Law, Parameter, Published, Source

_UNITS = MappingProxyType({"width": "model width (hidden size)", "depth": "number of layers"})
_RELEASE = Source("McLeish et al.", 2025, "2502.06857", "parameters_delta-4 of the authors' repository")
_NOTE = "Huber 1e-4 on log loss, summed; nats per token."


def _shape() -> tuple[Parameter, ...]:
    return (
        Parameter("epsilon", "irreducible loss", (0.0, 1.0), of="loss"),
        Parameter("A", "width coefficient", (1e-2, 1e6), log=True),
        Parameter("alpha", "width exponent", (0.08, 1.5), upper=4.0),
        Parameter("B", "depth coefficient", (1e-2, 1e4), log=True),
        Parameter("beta", "depth exponent", (0.08, 1.5), upper=4.0),
    )


class WidthDepth(Law):
    """``loss = epsilon + A / width^alpha + B / depth^beta + C / tokens^gamma``.

    What finite width, depth and data each add to the irreducible loss. McLeish et al. 2025 (arXiv 2502.06857), the
    Gemstones.
    """

    name = "width_depth"
    title = "Gemstones: loss from width, depth and tokens"
    formula = "loss = epsilon + A/width^alpha + B/depth^beta + C/tokens^gamma"
    source = Source("McLeish et al.", 2025, "2502.06857")
    inputs = ("width", "depth", "tokens")
    units = _UNITS
    parameters = (
        *_shape(),
        Parameter("C", "data coefficient", (1e-2, 1e10), log=True),
        Parameter("gamma", "data exponent", (0.1, 1.5), upper=4.0),
    )
    linear = ("epsilon", "A", "B", "C")
    tags = frozenset({"ladder", "allocation"})
    published_constants = (
        Published(
            "hot-100b",
            {
                "epsilon": 0.0,
                "A": math.exp(2.1161206619),
                "alpha": 0.2607743843,
                "B": math.exp(0.7321112501),
                "beta": 0.1418010881,
                "C": math.exp(11.5418232414),
                "gamma": 0.5420589921,
            },
            _RELEASE,
            "checked",
            f"Constant learning rate, checkpoints from 100B tokens on. {_NOTE} Degenerate: the fit drove the floor to "
            "zero.",
            inexact={"epsilon": "exp(-155.5)"},
        ),
    )
    pitfalls = (
        "The published three-term fit has no floor left: depth and floor trade off over 3 to 80 layers.",
        "Which checkpoints are fitted (cooled or not, from which token on) moves the exponents more than noise does.",
    )

    def value(self, p: Any, x: Any) -> Any:
        """``epsilon + A width^-alpha + B depth^-beta + C tokens^-gamma``."""
        return p.epsilon + p.A * x.width**-p.alpha + p.B * x.depth**-p.beta + p.C * x.tokens**-p.gamma


class WidthDepthParams(Law):
    """``loss = epsilon + A / width^alpha + B / depth^beta + C / params^gamma + D / tokens^delta``.

    The form above with a term for the parameter count itself. McLeish et al. 2025 (arXiv 2502.06857), `depth_width.py`
    of the authors' repository; the letters of its last two terms are chosen here.
    """

    name = "width_depth_params"
    title = "Gemstones: loss from width, depth, parameters and tokens"
    formula = "loss = epsilon + A/width^alpha + B/depth^beta + C/params^gamma + D/tokens^delta"
    source = Source("McLeish et al.", 2025, "2502.06857", "depth_width.py")
    inputs = ("width", "depth", "params", "tokens")
    units = _UNITS
    parameters = (
        *_shape(),
        Parameter("C", "size coefficient", (1e-2, 1e8), log=True),
        Parameter("gamma", "size exponent", (0.1, 1.5), upper=4.0),
        Parameter("D", "data coefficient", (1e-2, 1e10), log=True),
        Parameter("delta", "data exponent", (0.1, 1.5), upper=4.0),
    )
    linear = ("epsilon", "A", "B", "C", "D")
    tags = frozenset({"ladder", "allocation"})
    published_constants = tuple(
        Published(
            name,
            {
                "epsilon": math.exp(e),
                **{k: math.exp(v) for k, v in zip("ABCD", logs, strict=True)},
                **dict(zip(("alpha", "beta", "gamma", "delta"), exponents, strict=True)),
            },
            _RELEASE,
            "checked",
            f"{what}; parameters with embeddings. {_NOTE}",
        )
        for name, what, e, logs, exponents in (
            (
                "hot",
                "Constant learning rate, all checkpoints",
                0.39245797,
                (1.4520106404, -0.0781020281, 7.9700333376, 10.0594263846),
                (0.2446914313, 0.3871516764, 0.5000838843, 0.4761055541),
            ),
            (
                "cooled",
                "After a cooldown at every 10B tokens",
                0.4195179541,
                (1.6375654653, -0.0254911443, 7.8653383939, 9.9838221358),
                (0.30146699, 0.3655461733, 0.5055007692, 0.4670177667),
            ),
        )
    )
    pitfalls = (
        "Parameters are nearly width^2 x depth: without widths and depths varied apart the first three terms are one.",
    )

    def value(self, p: Any, x: Any) -> Any:
        """``epsilon + A width^-alpha + B depth^-beta + C params^-gamma + D tokens^-delta``."""
        shape = p.A * x.width**-p.alpha + p.B * x.depth**-p.beta
        return p.epsilon + shape + p.C * x.params**-p.gamma + p.D * x.tokens**-p.delta
