"""Data, learning rate and batch checks that come before the size of the model."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from lightning_scaling.advice.config import ResizeConfig
from lightning_scaling.advice.resize import messages as words
from lightning_scaling.advice.resize.next_config import step_law_exponents
from lightning_scaling.advice.resize.state import LadderTable, ModelState
from lightning_scaling.advice.result import Advice, FindingCode
from lightning_scaling.allocation.tradeoff import effective_tokens

Array = NDArray[np.float64]


_CONFIDENCE = 0.8
"""Confidence where both comparisons agree; engineering choice."""

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
    if unique_tokens is not None:
        new = float(effective_tokens(present.tokens, unique_tokens))
        if new < config.min_token_value * present.tokens:
            evidence = {"epochs": present.tokens / unique_tokens, "effective_tokens": new}
            sentence = words.repeats(present, unique_tokens, new)
            confidence = config.confidence[0]
            return Advice(
                "investigate", sentence, evidence, 0.0, None, confidence, present.step, FindingCode.REPEATED_DATA
            )
    better = _better(table, config.better_share)
    by_params, by_tokens, batch_by_tokens = step_law_exponents()
    for what, code, now, seen, of_params, of_tokens, limit in (
        ("learning rate", _RATE, present.rate, better.rate, by_params, by_tokens, config.rate_ratio),
        ("batch", _BATCH, present.tokens_per_step, better.batch, 0.0, batch_by_tokens, config.batch_ratio),
    ):
        known = np.isfinite(seen) & (seen > 0)
        if now is None or known.sum() < config.min_recipes:
            continue
        carried = seen * (present.size / better.params) ** of_params * (present.tokens / better.tokens) ** of_tokens
        off, by_law = _off(now, seen[known]), _off(now, carried[known])
        if min(off, by_law) > limit or max(off, by_law) < 1 / limit:
            factor = min(off, by_law) if off > 1 else max(off, by_law)
            middle = float(np.exp(np.median(np.log(carried[known]))))
            evidence = {"factor": factor, "present": now, "carried": middle}
            sentence = words.recipe(what, now, factor, middle, int(known.sum()), present.unit)
            return Advice("investigate", sentence, evidence, 0.0, None, _CONFIDENCE, present.step, code)
    return None


def _off(now: float, seen: Array) -> float:
    """How many times above the highest or below the lowest value; 1 between them."""
    return float(now / min(max(now, seen.min()), seen.max()))


def _better(table: LadderTable, share: float) -> LadderTable:
    """The half that did best for its size and data; all where that is not known."""
    try:
        tradeoff = table.tradeoff()
    except ValueError:
        return table
    rest = np.log(table.loss) - np.log(tradeoff.loss(table.params, table.tokens))
    return table.take(rest <= np.quantile(rest, share))
