"""Error of a graph model from one scaled factor."""

from __future__ import annotations

from typing import Any

from lightning_scaling.laws.base import Law, Parameter, Source

_FACTORS = {"edges": "edges in the training graphs", "params": "model parameters"}


class Graph(Law):
    """``error = a X^-b + c``.

    Graphs differ so much in size that their number is no measure of data: count the ``edges``.

    Liu et al. 2024 (arXiv 2402.02054), recalled with medium confidence; no constants.

    Args:
        factor: What ``X`` is: ``"edges"`` or ``"params"``.
    """

    name = "graph"
    title = "Graphs: error from edges"
    source = Source("Liu et al.", 2024, "2402.02054")
    output = "error"
    parameters = (
        Parameter("a", "coefficient", (1e-3, 1e6), log=True),
        Parameter("b", "exponent", (0.02, 1.5), upper=4.0),
        Parameter("c", "irreducible error", (0.0, 1.0), of="loss"),
    )
    linear = ("a", "c")
    tags = frozenset({"ladder"})
    pitfalls = (
        "The depth of the model changes the exponents: one fit per depth.",
        "Over-fitting to small graph sets breaks the law; use the best checkpoint of each run.",
    )

    def __init__(self, factor: str = "edges") -> None:
        if factor not in _FACTORS:
            raise ValueError(f"`factor` must be one of {', '.join(_FACTORS)}, but got {factor!r}.")
        self.factor = factor
        self.inputs = (factor,)
        self.units = {factor: _FACTORS[factor]}
        self.formula = f"error = a*{factor}^-b + c"

    def options(self) -> dict[str, Any]:
        """The factor."""
        return {"factor": self.factor}

    def value(self, p: Any, x: Any) -> Any:
        """``a X^-b + c``."""
        return p.a * getattr(x, self.factor) ** -p.b + p.c
