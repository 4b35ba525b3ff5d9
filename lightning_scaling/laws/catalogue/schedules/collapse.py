"""Curves of a ladder laid on one another: how equal they are shows whether the recipe scales."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lightning_scaling.laws.base import Law, Parameter, Source

Array = NDArray[np.float64]


class Collapse(Law):
    """``flops = kappa * params^(1 + gamma)``.

    The compute at which a model of ``params`` parameters is compute-optimal: trained to that, the curves of a ladder
    fall on one another when drawn by :func:`collapse`. ``gamma`` is the exponent of the tokens in the parameters. Qiu
    et al. 2025 (arXiv 2507.02119), section 2.
    """

    name = "collapse"
    title = "Collapse: compute at which the curves of a ladder coincide"
    formula = "flops = kappa*params^(1 + gamma)"
    source = Source("Qiu et al.", 2025, "2507.02119", "section 2")
    inputs = ("params",)
    output = "flops"
    parameters = (
        Parameter("kappa", "coefficient", (1e-6, 1e6), log=True),
        Parameter("gamma", "exponent of the tokens in the parameters", (0.1, 2.0), -1.0, 4.0),
    )
    linear = ("kappa",)
    tags = frozenset({"ladder", "allocation"})
    pitfalls = (
        "The authors found 1 + gamma = 2.041 (MLP) and 2.027 (chess); kappa belongs to a recipe, so none is carried.",
        "Curves coincide only under one schedule, one data order per size and learning rates that scale rightly (muP).",
        "The floor comes from the law compute fitted to final losses; a wrong floor spoils the collapse.",
    )

    def value(self, p: Any, x: Any) -> Any:
        """``kappa params^(1 + gamma)``."""
        return p.kappa * x.params ** (1.0 + p.gamma)


def collapse(progress: Any, loss: Any, floor: float) -> Array:
    """``(loss(x) - floor) / (loss(1) - floor)``: a curve in units of its final reducible loss.

    Curves of a compute-optimal ladder coincide when drawn so; with a decaying learning rate they do to less than the
    noise between seeds. Qiu et al. 2025 (arXiv 2507.02119), equation 2.

    Args:
        progress: Fraction ``x`` of the run's steps, tokens or compute at each loss, shape ``(n,)``, rising and ending
            at 1.
        loss: The curve, shape ``(n,)``.
        floor: Irreducible loss of the ladder: ``E`` of the law `compute` fitted to its final losses.

    Returns:
        The normalised curve, shape ``(n,)``; 1 at the end.

    Raises:
        ValueError: The progress does not rise to 1, lengths differ, or the floor is not below the final loss.
    """
    x, y = _curve(progress, loss)
    if abs(x[-1] - 1.0) > 1e-9:
        raise ValueError(
            f"`progress` must end at 1, the end of the run, but ends at {x[-1]:g}; a run that has not ended yet has "
            "no final loss to be normalised by."
        )
    if not floor < y[-1]:
        raise ValueError(f"`floor` must lie below the final loss {y[-1]:g}, but is {floor:g}.")
    normalised: Array = (y - floor) / (y[-1] - floor)
    return normalised


def spread(curves: Sequence[tuple[Any, Any]], at: Any) -> Array:
    """Standard deviation over mean of several normalised curves, at equal progress.

    Where it exceeds the noise between seeds, sizes do not scale alike: a floor, a data exponent or a learning rate is
    off. Qiu et al. 2025 (arXiv 2507.02119), section 3.

    Args:
        curves: Pairs of progress and normalised loss (from :func:`collapse`), at least two, each of its own length.
        at: Progress at which to compare, shape ``(k,)``, inside the range of every curve.

    Returns:
        The relative spread, shape ``(k,)``.

    Raises:
        ValueError: Fewer than two curves, or a point outside one of them.
    """
    points = np.atleast_1d(np.asarray(at, dtype=np.float64))
    if len(curves) < 2:
        raise ValueError(f"`curves` must hold at least two curves to compare, but holds {len(curves)}.")
    rows = []
    for i, (progress, loss) in enumerate(curves):
        x, y = _curve(progress, loss)
        if points.min() < x[0] or points.max() > x[-1]:
            raise ValueError(
                f"`at` runs from {points.min():g} to {points.max():g}, but curve {i} only from {x[0]:g} to {x[-1]:g}."
            )
        rows.append(np.interp(points, x, y))
    table = np.stack(rows)
    return np.asarray(np.std(table, axis=0, ddof=1) / np.mean(table, axis=0))


def _curve(progress: Any, loss: Any) -> tuple[Array, Array]:
    x, y = np.asarray(progress, dtype=np.float64), np.asarray(loss, dtype=np.float64)
    if x.ndim != 1 or x.shape != y.shape or not len(x):
        raise ValueError(f"`progress` and `loss` must be equally long lists, but have shapes {x.shape} and {y.shape}.")
    if not np.all(np.isfinite(x) & np.isfinite(y)) or np.any(np.diff(x) <= 0):
        raise ValueError(
            "`progress` must rise from point to point, and neither it nor `loss` may hold NaN or infinity."
        )
    return x, y
