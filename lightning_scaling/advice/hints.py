"""Hints on the peak learning rate relative to published laws, and on the batch relative to the gradient noise scale."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from lightning_scaling.advice.config import DEFAULT, BatchSizeConfig, LearningRateConfig
from lightning_scaling.allocation.task import TRAINING_FLOPS
from lightning_scaling.laws import get

BATCH_FACTS = ("batch", "noise_scale", "noise_low", "noise_high")

_WHOLE = 10
"""Batches from which on no decimals are shown."""


def times(factor: float) -> str:
    """A factor within a sentence: ``20 times``, or ``1/19 of``."""
    return f"{factor:.2g} times" if factor > 1 else f"1/{1 / factor:.2g} of"


def amount(value: float) -> str:
    """A batch, to three digits and without an exponent."""
    return f"{float(f'{value:.3g}'):,.0f}" if value >= _WHOLE else f"{value:.2g}"


def learning_rate_hint(
    rate: float, params: float | None, tokens: float | None, config: LearningRateConfig = DEFAULT.learning_rate
) -> str:
    """A hint where the peak rate is far off what both the Step Law and DeepSeek's law advise.

    Both were measured on language models trained with AdamW, from about 1e8 to a few 1e9 parameters; beyond that they
    say nothing, and neither does this.

    Args:
        rate: Peak learning rate.
        params: Number of parameters.
        tokens: Tokens of the whole plan.
        config: Tuned numbers.

    Returns:
        One sentence; empty where the rate is within a factor four of either law, or the laws do not apply.
    """
    if params is None or tokens is None or not rate > 0:
        return ""
    if not (config.params[0] <= params <= config.params[1] and config.tokens[0] <= tokens <= config.tokens[1]):
        return ""
    step = float(get("step_law_rate").known("step-law").predict(params=params, tokens=tokens))
    deep = float(get("deepseek_rate").known("deepseek").predict(flops=TRAINING_FLOPS * params * tokens))
    low, high = min(step, deep), max(step, deep)
    if low / config.hint_ratio <= rate <= high * config.hint_ratio:
        return ""
    off = times(rate / (high if rate > high else low))
    return (
        f"A hint: the peak learning rate of {rate:.2g} is {off} what published laws advise for language models of "
        f"{params:.2g} parameters on {tokens:.2g} tokens (Step Law {step:.2g}, DeepSeek {deep:.2g})."
    )


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
    ratio = (batch / scale if large else scale / batch) if known else low / batch
    least, share, more = f"{1 + ratio:.2g}", f"{2 / (1 + ratio):.0%}", f"{2 / (1 + 1 / ratio):.2g}"
    where = f"the gradient-noise scale of {amount(scale)} (95 % between {amount(low)} and {amount(high)})"
    if large:
        rest = (
            f"{ratio:.2g} times {where}, so training takes {least} times the least data it could do with; at a batch "
            f"of {amount(scale)} and a lower learning rate it would take {share} of the compute for {more} times the "
            "steps"
        )
    elif known:
        rest = (
            f"1/{ratio:.2g} of {where}, so training takes {least} times the fewest steps it could do with; a batch of "
            f"{amount(scale)}, on more ranks and with a higher learning rate, would take {share} of the steps for "
            f"{more} times the compute"
        )
    else:
        rest = (
            f"less than 1/{ratio:.2g} of the gradient-noise scale, which is above {amount(low)} (97.5 % sure), so "
            f"training takes over {least} times the fewest steps it could do with; {ratio:.2g} times the batch, on "
            f"more ranks and with a higher learning rate, would take at most {share} of the steps for at most {more} "
            "times the compute"
        )
    return f"A hint on the batch: {round(batch):,} {facts.get('unit', 'samples')} are {rest}."


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
