"""Error from model and data size: the additive form, and the envelope that starts at random guessing."""

from __future__ import annotations

from typing import Any

import numpy as np

from lightning_scaling.laws.base import Law, Parameter, Source

_ROSENFELD = Source("Rosenfeld et al.", 2020, "1909.12673")


class Rosenfeld(Law):
    """``loss = a / tokens^alpha + b / params^beta + c_inf``.

    ``alpha`` belongs to the data and ``beta`` to the model, the other way round than in Chinchilla. Rosenfeld et al.
    2020 (arXiv 1909.12673): the part of their form far from random guessing; `rosenfeld_envelope` is the whole.
    """

    name = "rosenfeld"
    title = "Rosenfeld: error from model and data size, additive"
    formula = "loss = a/tokens^alpha + b/params^beta + c_inf"
    source = _ROSENFELD
    inputs = ("params", "tokens")
    parameters = (
        Parameter("a", "data coefficient", (1e-2, 1e8), log=True),
        Parameter("alpha", "data exponent", (0.05, 1.8), upper=4.0),
        Parameter("b", "size coefficient", (1e-2, 1e8), log=True),
        Parameter("beta", "size exponent", (0.05, 1.5), upper=4.0),
        Parameter("c_inf", "error that neither size nor data removes", (0.0, 1.0), of="loss"),
    )
    linear = ("a", "b", "c_inf")
    tags = frozenset({"ladder", "vision"})
    pitfalls = (
        "Exponents of a top-1 error (ImageNet .75 and .61, CIFAR-10 .66 and .53 for data and size) are not comparable "
        "with exponents of a loss.",
        "Near random guessing it exceeds the worst possible error; there take rosenfeld_envelope.",
    )

    def value(self, p: Any, x: Any) -> Any:
        """``a tokens^-alpha + b params^-beta + c_inf``."""
        return p.a * x.tokens**-p.alpha + p.b * x.params**-p.beta + p.c_inf


class RosenfeldEnvelope(Law):
    """``error = eps_0 * e / sqrt(e^2 + 1)`` with ``e = a / tokens^alpha + b / params^beta + c_inf``.

    ``eps_0`` is the error of random guessing, ``e`` the additive form counted in the paper's ``eta``, the error at
    which the passage to random guessing lies. The paper writes ``eps_0 |e' / (e' - i eta)|``, which is real: ``eps_0 e'
    / sqrt(e'^2 + eta^2)``. Only the ratio of ``e'`` to ``eta`` matters, so ``eta`` is absorbed here: ``a``, ``b`` and
    ``c_inf`` are the paper's divided by ``eta``. Rosenfeld et al. 2020 (arXiv 1909.12673).
    """

    name = "rosenfeld_envelope"
    title = "Rosenfeld: error from model and data size, from random guessing on"
    formula = "error = eps_0*e/sqrt(e^2 + 1), e = a/tokens^alpha + b/params^beta + c_inf"
    source = _ROSENFELD
    inputs = ("params", "tokens")
    output = "error"
    parameters = (
        Parameter("eps_0", "error of random guessing", (1.0, 1e2), of="loss"),
        Parameter("a", "data coefficient", (1e-1, 1e6), log=True),
        Parameter("alpha", "data exponent", (0.1, 1.5), upper=4.0),
        Parameter("b", "size coefficient", (1e-1, 1e6), log=True),
        Parameter("beta", "size exponent", (0.1, 1.2), upper=4.0),
        Parameter("c_inf", "least error over eta", (1e-3, 1.0)),
    )
    linear = ("eps_0",)
    tags = frozenset({"ladder", "vision"})
    pitfalls = (
        "Without points near random guessing eps_0 and the coefficients cannot be separated: give eps_0 in `fixed`.",
        "The exponents are those of an error, not of a loss.",
    )

    def value(self, p: Any, x: Any) -> Any:
        """``eps_0 / sqrt(1 + e^-2)``."""
        e = p.a * x.tokens**-p.alpha + p.b * x.params**-p.beta + p.c_inf
        return p.eps_0 * np.exp(-0.5 * np.logaddexp(0.0, -2.0 * np.log(e)))
