"""Loss of models trained on more, or fewer, tokens than is optimal for their size."""

from __future__ import annotations

from typing import Any

from lightning_scaling.laws.base import Law, Parameter, Published, Source

_NOTE = "{}: losses on C4 validation, nats per token; compute counted as 6 x params x tokens."
_RELEASE = Source("Gadre et al.", 2024, "2403.08540", "least squares on the five runs of the authors' release")


class OverTraining(Law):
    """``loss = E + (a M^eta + b M^-eta) / C^eta`` with ``M = tokens/params`` and ``C = 6 params tokens``.

    ``C`` is compute and ``M`` how far a model is over-trained; lines of the reducible loss against compute are parallel
    for all ``M``, and ``M* = (b/a)^(1/(2 eta))`` is optimal. In parameters and tokens it is the Chinchilla form with
    one exponent, ``E + 6^-eta (a / params^(2 eta) + b / tokens^(2 eta))``. Gadre et al. 2024 (arXiv 2403.08540),
    equation 4.
    """

    name = "over_training"
    title = "Over-training: loss from parameters and tokens, one exponent"
    formula = "loss = E + 6^-eta*(a/params^(2 eta) + b/tokens^(2 eta))"
    source = Source("Gadre et al.", 2024, "2403.08540", "eq. 4")
    inputs = ("params", "tokens")
    parameters = (
        Parameter("E", "irreducible loss", (0.0, 1.0), of="loss"),
        Parameter("a", "size coefficient", (1e-2, 1e8), log=True),
        Parameter("b", "data coefficient", (1e-2, 1e8), log=True),
        Parameter("eta", "compute exponent, half of the size and data exponents", (0.03, 0.6), upper=2.0),
    )
    linear = ("E", "a", "b")
    tags = frozenset({"ladder", "allocation"})
    published_constants = tuple(
        Published(
            name,
            {"E": e, "a": a, "b": b, "eta": eta},
            _RELEASE,
            "checked",
            _NOTE.format(f"Trained on {corpus}"),
        )
        for name, corpus, e, a, b, eta in (
            ("c4", "C4", 1.50826, 141.278, 189.517, 0.121236),
            ("redpajama", "RedPajama", 1.83665, 212.236, 366.686, 0.136425),
            ("refinedweb", "RefinedWeb", 1.73446, 157.116, 246.207, 0.127197),
        )
    )
    pitfalls = (
        "Size and data have one exponent; where they differ the optimum is off.",
        "Four parameters are found from five cheap runs, but hyper-parameters were tuned at 20 tokens per parameter "
        "only.",
        "Predicted errors reached 4.3 % (6.9B on C4) where .7 % was published (RedPajama).",
    )

    def value(self, p: Any, x: Any) -> Any:
        """``E + 6^-eta (a params^(-2 eta) + b tokens^(-2 eta))``."""
        return p.E + 6.0**-p.eta * (p.a * x.params ** (-2.0 * p.eta) + p.b * x.tokens ** (-2.0 * p.eta))
