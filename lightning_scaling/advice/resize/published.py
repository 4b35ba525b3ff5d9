"""What published laws say of size against data, calibrated on one run, for a run without relatives."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from lightning_scaling.allocation.frontier import with_spread
from lightning_scaling.allocation.tradeoff import Tradeoff, fit_tradeoff
from lightning_scaling.laws import get

FEWEST_PARAMS, FEWEST_TOKENS = 1e7, 1e8

SPREAD = 0.55
"""Standard deviation of ln size at one budget between laboratories: the published ratios of tokens to parameters run
from 16 (Llama 3, 2407.21783) over about 20 (Besiroglu et al. 2024, 2404.10102; Bi et al. 2024, 2401.02954) to 192
(MiniCPM, 2404.06395), and twice this many standard deviations hold them all."""

EXPONENT_SPREAD = 0.06
"""Standard deviation of the exponent between them."""

_REACH = 100.0


def published_tradeoff(params: float, tokens: float, flops: float, loss: float | None = None) -> Tradeoff:
    """The surface of Besiroglu et al. 2024 (arXiv 2404.10102), as wide as published laws differ.

    Args:
        params: Size of the present run.
        tokens: Its training tokens.
        flops: Its training compute.
        loss: What it is going to end at: all losses of the law are scaled to meet it.

    Raises:
        ValueError: The run is smaller than anything that the law was fitted to.
    """
    if params < FEWEST_PARAMS or tokens < FEWEST_TOKENS:
        raise ValueError(
            f"There are no relatives to learn from, and published laws begin at {FEWEST_PARAMS:.0e} parameters and "
            f"{FEWEST_TOKENS:.0e} tokens of text."
        )
    known = get("chinchilla").known("besiroglu")
    scale = 1.0 if loss is None else loss / float(known.predict(params=params, tokens=tokens))
    middle = math.sqrt(params * tokens)
    budgets = np.repeat(np.geomspace(middle / _REACH, middle * _REACH, 17), 13)
    ratio = np.tile(np.geomspace(1 / 30, 30, 13), 17)
    size, data = np.sqrt(budgets**2 / 20) * ratio, np.sqrt(budgets**2 * 20) / ratio
    each = flops / (params * tokens)
    found = fit_tradeoff(size, data, scale * known.predict(params=size, tokens=data), flops=each * size * data)
    wide = with_spread(found.frontier, math.log(flops), SPREAD, EXPONENT_SPREAD)
    return replace(found, frontier=wide, minima=None, runs=0)
