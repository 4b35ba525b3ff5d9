"""Data, learning rate and batch checks that come before the size of the model."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from lightning_scaling._utils.formatting import count as quantity
from lightning_scaling.advice.config import ResizeConfig
from lightning_scaling.advice.resize.next_config import step_law_exponents
from lightning_scaling.advice.resize.state import LadderTable, ModelState
from lightning_scaling.advice.result import Advice, FindingCode
from lightning_scaling.allocation.tradeoff import NoTradeoffError, effective_tokens

Array = NDArray[np.float64]

_RATE, _BATCH = FindingCode.LEARNING_RATE_OFF_PAST_RUNS, FindingCode.BATCH_OFF_PAST_RUNS


def recipe_first(
    present: ModelState, table: LadderTable, unique_tokens: float | None, config: ResizeConfig
) -> Advice | None:
    """Advice to look at data, learning rate or batch first; ``None`` where nothing is wrong with them.

    Repeats count once a tenth of the tokens is lost to them (Muennighoff et al. 2023, arXiv 2305.16264). Rate and batch
    are held against those of the better half of the family twice: as they are, and as the Step Law (Li et al. 2025,
    arXiv 2503.04715) carries them over to this size and data. Only what is off both times is reported.

    Args:
        present: The run.
        table: The runs of its family.
        unique_tokens: Distinct tokens there are.
        config: Tuned numbers.
    """
    p, unique, step = present, unique_tokens, present.step
    new = float(effective_tokens(p.tokens, unique))
    if unique is not None and new < config.min_token_value * p.tokens:
        sentence = (
            f"The plan goes {p.tokens / unique:.3g} times over the {quantity(unique)} unique {p.unit}, and "
            f"{quantity(p.tokens)} of them with repeats are worth about {quantity(new)} new ones: find more data or "
            "train for fewer steps before changing the size of the model."
        )
        evidence = {"epochs": p.tokens / unique, "effective_tokens": new}
        confidence = config.confidence[0]
        return Advice("investigate", sentence, evidence, 0.0, None, confidence, step, FindingCode.REPEATED_DATA)
    better = _better(table, config.better_share)
    by_params, by_tokens, batch_by_tokens = step_law_exponents()
    for what, code, now, seen, of_params, of_tokens, limit in (
        ("learning rate", _RATE, p.rate, better.rate, by_params, by_tokens, config.rate_ratio),
        ("batch", _BATCH, p.tokens_per_step, better.batch, 0.0, batch_by_tokens, config.batch_ratio),
    ):
        known = np.isfinite(seen) & (seen > 0)
        if now is None or known.sum() < config.min_recipes:
            continue
        carried = seen * (p.size / better.params) ** of_params * (p.tokens / better.tokens) ** of_tokens
        off, by_law = _off(now, seen[known]), _off(now, carried[known])
        if not (min(off, by_law) > limit or max(off, by_law) < 1 / limit):
            continue
        factor = min(off, by_law) if off > 1 else max(off, by_law)
        middle = float(np.exp(np.median(np.log(carried[known]))))
        value, other = f"{now:.2g}", f"{middle:.2g}"
        if code == _BATCH:
            value, other = f"{quantity(now)} {p.unit} a step", quantity(middle)
        times = f"{factor:.2g} times the highest" if factor > 1 else f"1/{1 / factor:.2g} of the lowest"
        sentence = (
            f"The {what}, {value}, is {times} of the {known.sum()} better runs of the family, which would suggest "
            f"about {other} at this size and data: try that before changing the size of the model."
        )
        evidence = {"factor": factor, "present": now, "carried": middle}
        return Advice("investigate", sentence, evidence, 0.0, None, config.recipe_confidence, step, code)
    return None


def _off(now: float, seen: Array) -> float:
    """How many times above the highest or below the lowest value; 1 between them."""
    return float(now / min(max(now, seen.min()), seen.max()))


def _better(table: LadderTable, share: float) -> LadderTable:
    """The half that did best for its size and data; all where that is not known."""
    try:
        tradeoff = table.tradeoff()
    except NoTradeoffError:
        return table
    rest = np.log(table.loss) - np.log(tradeoff.loss(table.params, table.tokens))
    return table.take(rest <= np.quantile(rest, share))
