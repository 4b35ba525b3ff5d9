"""The learning rate against the published laws: a hint, and no more."""

from __future__ import annotations

from lightning_scaling.laws import get

_PARAMS = (5e7, 5e9)
_TOKENS = (1e9, 1e12)
_OFF = 4.0
_FLOPS = 6.0


def learning_rate_hint(rate: float, params: float | None, tokens: float | None) -> str:
    """A remark where the peak rate is far off what both the Step Law and DeepSeek's law advise.

    Both were measured on language models trained with AdamW, from about 1e8 to a few 1e9 parameters; beyond that they
    say nothing, and neither does this.

    Args:
        rate: Peak learning rate.
        params: Number of parameters.
        tokens: Tokens of the whole plan.

    Returns:
        One sentence; empty where the rate is within a factor four of either law, or the laws do not apply.
    """
    if params is None or tokens is None or not rate > 0:
        return ""
    if not (_PARAMS[0] <= params <= _PARAMS[1] and _TOKENS[0] <= tokens <= _TOKENS[1]):
        return ""
    step = float(get("step_law_rate").known("step-law").predict(params=params, tokens=tokens))
    deep = float(get("deepseek_rate").known("deepseek").predict(flops=_FLOPS * params * tokens))
    low, high = min(step, deep), max(step, deep)
    if low / _OFF <= rate <= high * _OFF:
        return ""
    times = f"{rate / high:.2g} times" if rate > high else f"1/{low / rate:.2g} of"
    return (
        f"A hint: the peak learning rate of {rate:.2g} is {times} what published laws advise for language models of "
        f"{params:.2g} parameters on {tokens:.2g} tokens (Step Law {step:.2g}, DeepSeek {deep:.2g})."
    )
