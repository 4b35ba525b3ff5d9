"""Error of contrastive models on the compute frontier."""

from __future__ import annotations

from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lightning_scaling.laws.base import Law, Parameter, Published, Source

_AUTHORS = Source("Cherti et al.", 2023, "2212.07143", "zeroshot_results.csv of LAION-AI/scaling-laws-openclip")
_GIGA = 1e9


def _known(name: str, beta: float, alpha: float, note: str) -> Published:
    return Published(
        name,
        {"beta": beta * _GIGA**-alpha, "alpha": alpha},
        _AUTHORS,
        "checked",
        f"{note} Recomputed from the released results by the authors' method (lower envelope over 5 bins); in total "
        f"GMACs the coefficient is {beta:g}.",
        inexact={"beta": "converted from GMACs to single multiply-accumulates"},
    )


def envelope(compute: ArrayLike, error: ArrayLike, bins: int = 5) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The best point of every bin of log compute: what a frontier law is fitted to.

    Args:
        compute: Compute of each model, positive, shape ``(n,)``.
        error: Its error, shape ``(n,)``.
        bins: Number of bins, equally wide in the logarithm of compute.

    Returns:
        Compute and error of the best point of every bin that has one, by rising compute.

    Raises:
        ValueError: The lengths differ, there is no point, a value is not positive and finite, or `bins` is below 1.
    """
    c, e = np.asarray(compute, dtype=np.float64), np.asarray(error, dtype=np.float64)
    if c.ndim != 1 or c.shape != e.shape or not c.size:
        raise ValueError(
            f"`compute` and `error` must be equally long lists of at least one point, but have shapes {c.shape} and "
            f"{e.shape}."
        )
    if not (np.all(np.isfinite(c) & (c > 0)) and np.all(np.isfinite(e))):
        raise ValueError("`compute` must be positive and `error` finite at every point.")
    if bins < 1:
        raise ValueError(f"`bins` must be at least 1, but got {bins}.")
    edges = np.linspace(np.log(c.min()), np.log(c.max()), bins + 1)
    which = np.clip(np.searchsorted(edges, np.log(c), side="right") - 1, 0, bins - 1)
    best = [min(np.flatnonzero(which == b), key=lambda i: float(e[i])) for b in np.unique(which)]
    best.sort(key=lambda i: float(c[i]))
    return c[best], e[best]


class OpenCLIP(Law):
    """``error = beta macs^alpha``, with ``alpha`` below zero.

    Error of the best model for its training compute, ``macs``: multiply-accumulates of one forward pass of a sample
    times the samples seen. Fit it to the :func:`envelope` of the models, not to all of them.

    Cherti et al. 2023 (arXiv 2212.07143).
    """

    name = "openclip"
    title = "OpenCLIP: error on the compute frontier"
    formula = "error = beta*macs^alpha"
    source = Source("Cherti et al.", 2023, "2212.07143")
    inputs = ("macs",)
    units = MappingProxyType({"macs": "forward multiply-accumulates per sample times samples seen"})
    output = "error"
    parameters = (
        Parameter("beta", "error scale", (1e-3, 1e6), log=True),
        Parameter("alpha", "exponent, negative", (-1.0, -0.01), -4.0, 0.0),
    )
    linear = ("beta",)
    tags = frozenset({"vision", "multimodal", "ladder"})
    published_constants = (
        _known("imagenet_laion", 5.86, -0.111, "Zero-shot ImageNet top-1 error, 29 models on LAION."),
        _known("imagenet_openai", 23.2, -0.164, "Zero-shot ImageNet top-1 error, 3 models on OpenAI's WIT."),
        _known("robustness_laion", 11.96, -0.1265, "Mean top-1 error on five ImageNet variants, 29 models on LAION."),
        _known(
            "robustness_openai", 211.7, -0.2378, "Mean top-1 error on five ImageNet variants, 3 models on OpenAI's WIT."
        ),
    )
    pitfalls = (
        "The data set changes the exponent and even the order: retrieval on COCO fell with -.079 on LAION and -.051 "
        "on WIT, on Flickr30k with -.189 and -.103. Never carry an exponent to other data.",
        "It has no floor; near the noise of the labels it must fail.",
        "Three models make a line, not evidence.",
    )

    def value(self, p: Any, x: Any) -> Any:
        """``beta macs^alpha``."""
        return p.beta * x.macs**p.alpha
