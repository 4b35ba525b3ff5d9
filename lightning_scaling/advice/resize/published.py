"""Tradeoff of size against data by published laws, scaled to one run, for a run without past runs."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from lightning_scaling.advice.config import ResizeConfig
from lightning_scaling.allocation.frontier import with_spread
from lightning_scaling.allocation.tradeoff import Tradeoff, fit_tradeoff
from lightning_scaling.laws import get

_GRID_REACH = 100.0
"""Factor of size times data, on either side of the run, over which the published surface is tabulated."""


def published_tradeoff(
    params: float, tokens: float, flops: float, loss: float | None, config: ResizeConfig
) -> Tradeoff:
    """The surface of Besiroglu et al. 2024 (arXiv 2404.10102), as wide as published laws differ.

    Args:
        params: Size of the present run.
        tokens: Its training tokens.
        flops: Its training compute.
        loss: Its forecast final loss: all losses of the law are scaled to meet it; ``None`` leaves them.
        config: Tuned numbers.

    Raises:
        ValueError: The run is smaller than anything that the law was fitted to.
    """
    least, least_tokens = config.published_min_params, config.published_min_tokens
    if params < least or tokens < least_tokens:
        raise ValueError(
            f"There are no past runs to learn from, and published laws begin at {least:.0e} parameters and "
            f"{least_tokens:.0e} tokens of text."
        )
    known = get("chinchilla").known("besiroglu")
    scale = 1.0 if loss is None else loss / float(known.predict(params=params, tokens=tokens))
    middle = math.sqrt(params * tokens)
    budgets = np.repeat(np.geomspace(middle / _GRID_REACH, middle * _GRID_REACH, 17), 13)
    ratio = np.tile(np.geomspace(1 / 30, 30, 13), 17)
    size, data = np.sqrt(budgets**2 / 20) * ratio, np.sqrt(budgets**2 * 20) / ratio
    each = flops / (params * tokens)
    found = fit_tradeoff(size, data, scale * known.predict(params=size, tokens=data), flops=each * size * data)
    wide = with_spread(found.frontier, math.log(flops), config.published_log_spread, config.published_exponent_spread)
    return replace(found, frontier=wide, minima=None, runs=0)
