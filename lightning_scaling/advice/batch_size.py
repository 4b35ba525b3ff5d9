"""Batch size relative to the gradient noise scale, for a hint."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from lightning_scaling.advice.config import DEFAULT, BatchSizeConfig

BATCH_FACTS = ("batch", "noise_scale", "noise_low", "noise_high")


def batch_size_hint(
    facts: Mapping[str, Any], fraction: float | None, config: BatchSizeConfig = DEFAULT.batch_size
) -> str:
    """A hint where the batch is clearly far above or far below the gradient-noise scale.

    With a batch ``B`` and a noise scale ``B_noise``, reaching a given loss takes ``1 + B_noise / B`` times the fewest
    steps and ``1 + B / B_noise`` times the least data: ``(S / S_min - 1) (E / E_min - 1) = 1`` (McCandlish et al. 2018,
    arXiv 1812.06162), with the noise scale for the critical batch ``E_min / S_min``. The noise scale grows while the
    loss falls: a batch is called too large after a quarter of the run only, and too small after a tenth.

    Args:
        facts: Diagnostics: ``batch``, ``noise_scale``, ``noise_low``, ``noise_high``, ``unit``.
        fraction: Share of the plan that is done, ``None`` without a planned end.
        config: Tuned numbers.

    Returns:
        One sentence; empty where the 95 % interval of the noise scale reaches within a factor four of the batch.
    """
    batch, scale, low, high = _numbers(facts)
    if not (batch > 0 and low > 0):
        return ""
    done = 1.0 if fraction is None else fraction
    known = scale > 0 and high > 0
    large = known and batch > config.min_ratio * high and done >= config.large_from and batch < config.max_ratio * scale
    small = low > config.min_ratio * batch and done >= config.small_from and low < config.max_ratio * batch
    if not (large or small):
        return ""
    begun = f"A hint on the batch: {round(batch):,} {facts.get('unit', 'samples')} are"
    times = (batch / scale if large else scale / batch) if known else low / batch
    least, share, more = f"{1 + times:.2g}", f"{2 / (1 + times):.0%}", f"{2 / (1 + 1 / times):.2g}"
    where = (
        f"the gradient-noise scale of {amount(scale)} (95 % between {amount(low)} and {amount(high)})" if known else ""
    )
    if large:
        return (
            f"{begun} {times:.2g} times {where}, so training takes {least} times the least data it could do with; at a "
            f"batch of {amount(scale)} and a lower learning rate it would take {share} of the compute for {more} times "
            "the steps."
        )
    if known:
        return (
            f"{begun} 1/{times:.2g} of {where}, so training takes {least} times the fewest steps it could do with; a "
            f"batch of {amount(scale)}, on more ranks and with a higher learning rate, would take {share} of the steps "
            f"for {more} times the compute."
        )
    return (
        f"{begun} less than 1/{times:.2g} of the gradient-noise scale, which is above {amount(low)} (97.5 % sure), so "
        f"training takes over {least} times the fewest steps it could do with; {times:.2g} times the batch, on more "
        f"ranks and with a higher learning rate, would take at most {share} of the steps for at most {more} times the "
        "compute."
    )


def steps_by_noise(facts: Mapping[str, Any], batch_ratio: float) -> tuple[float, float] | None:
    """How many times the steps a smaller batch takes to the same loss, by the noise scale, and that scale.

    Args:
        facts: Diagnostics.
        batch_ratio: This batch over the other one, below 1.
    """
    batch, scale, _, high = _numbers(facts)
    if not (batch > 0 and scale > 0 and high > 0 and batch_ratio < 1):
        return None
    return (1 + scale / batch) / (1 + scale * batch_ratio / batch), scale


def _numbers(facts: Mapping[str, Any]) -> list[float]:
    """The batch, the noise scale and its interval; ``nan`` where not known."""
    return [float(facts.get(name) or math.nan) for name in BATCH_FACTS]


_WHOLE = 10
"""Batches from which on no decimals are shown."""


def amount(value: float) -> str:
    """A batch, to three digits and without an exponent."""
    return f"{float(f'{value:.3g}'):,.0f}" if value >= _WHOLE else f"{value:.2g}"
