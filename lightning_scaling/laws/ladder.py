"""Recommended options for fitting a ladder of runs in order to extrapolate."""

from __future__ import annotations

from typing import Any

from lightning_scaling.laws.registry import get
from lightning_scaling.laws.results import Fit


def fit_ladder(data: Any, loss: str = "loss", law: str = "coupled", **options: Any) -> Fit:
    """Fit a ladder of runs in order to extrapolate it.

    ``law.fit(data, weights="frontier", priors="default", delta="auto")``: runs near the compute-optimal frontier and
    the greatest compute count most, exponents stay near those of real ladders unless the points say otherwise, and the
    robust objective adapts to the noise. On recorded ladders, asked for ten times the compute they were fitted on, this
    is wrong by a fraction of what a plain fit of all points is wrong by (``benchmarks/laws.py`` prints both).

    Args:
        data: As in :meth:`Law.fit`: params, tokens and loss of every run.
        loss: Column of the loss.
        law: A law of params and tokens: ``"coupled"``, ``"chinchilla"``, ``"over_training"``.
        **options: Further arguments of :meth:`Law.fit`, which win over the above.

    Returns:
        The fit.

    Raises:
        ValueError: As :meth:`Law.fit`.
        KeyError: There is no such law.
    """
    recipe: dict[str, Any] = {"weights": "frontier", "priors": "default", "delta": "auto"}
    return get(law).fit(data, loss, **(recipe | options))
