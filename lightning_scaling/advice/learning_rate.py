"""Peak learning rate relative to published laws, for a hint."""

from __future__ import annotations

from lightning_scaling.advice.config import DEFAULT, LearningRateConfig
from lightning_scaling.allocation.task import TRAINING_FLOPS
from lightning_scaling.laws import get


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
    times = f"{rate / high:.2g} times" if rate > high else f"1/{low / rate:.2g} of"
    return (
        f"A hint: the peak learning rate of {rate:.2g} is {times} what published laws advise for language models of "
        f"{params:.2g} parameters on {tokens:.2g} tokens (Step Law {step:.2g}, DeepSeek {deep:.2g})."
    )
