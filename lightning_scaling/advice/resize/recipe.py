"""What is to be mended in a recipe before the size of the model is questioned."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from lightning_scaling.advice.resize import messages as words
from lightning_scaling.advice.resize.ladder import LadderTable
from lightning_scaling.advice.result import Advice
from lightning_scaling.allocation.tradeoff import effective_tokens

if TYPE_CHECKING:
    from lightning_scaling.advice.resize.decision import Present

Array = NDArray[np.float64]

_WORTH = 0.9
_FEWEST = 4
_RATE_OFF, _BATCH_OFF = 2.5, 4.0
_BETTER = 0.5
_RATE_BY_PARAMS, _RATE_BY_TOKENS, _BATCH_BY_TOKENS = -0.7129, 0.3075, 0.5709


def recipe_first(present: Present, rungs: LadderTable, unique_tokens: float | None) -> Advice | None:
    """Advice to look at data, learning rate or batch first; ``None`` where nothing is wrong with them.

    Repeats count once a tenth of the tokens is lost to them (Muennighoff et al. 2023, arXiv 2305.16264). Rate and batch
    are held against those of the better half of the family twice: as they are, and as the Step Law (Li et al. 2025,
    arXiv 2503.04715) carries them over to this size and data. Only what is off both times is told.

    Args:
        present: The run.
        rungs: The runs of its family.
        unique_tokens: Distinct tokens there are.
    """
    if unique_tokens is not None:
        new = float(effective_tokens(present.tokens, unique_tokens))
        if new < _WORTH * present.tokens:
            evidence = {"why": "repeats", "epochs": present.tokens / unique_tokens, "worth": new}
            sentence = words.repeats(present, unique_tokens, new)
            return Advice("investigate", sentence, evidence, cost=None, confidence=0.9, step=present.step)
    better = _better(rungs)
    for what, now, seen, of_params, of_tokens, limit in (
        ("learning rate", present.rate, better.rate, _RATE_BY_PARAMS, _RATE_BY_TOKENS, _RATE_OFF),
        ("batch", present.tokens_per_step, better.batch, 0.0, _BATCH_BY_TOKENS, _BATCH_OFF),
    ):
        known = np.isfinite(seen) & (seen > 0)
        if now is None or known.sum() < _FEWEST:
            continue
        carried = seen * (present.size / better.params) ** of_params * (present.tokens / better.tokens) ** of_tokens
        off, by_law = _off(now, seen[known]), _off(now, carried[known])
        if min(off, by_law) > limit or max(off, by_law) < 1 / limit:
            factor = min(off, by_law) if off > 1 else max(off, by_law)
            middle = float(np.exp(np.median(np.log(carried[known]))))
            evidence = {"why": what, "factor": factor, "present": now, "carried": middle}
            sentence = words.recipe(what, now, factor, middle, int(known.sum()), present.unit)
            return Advice("investigate", sentence, evidence, cost=None, confidence=0.8, step=present.step)
    return None


def _off(now: float, seen: Array) -> float:
    """How many times above the highest or below the lowest value; 1 between them."""
    return float(now / min(max(now, seen.min()), seen.max()))


def _better(rungs: LadderTable) -> LadderTable:
    """The half that did best for its size and data; all where that cannot be told."""
    try:
        tradeoff = rungs.tradeoff()
    except ValueError:
        return rungs
    rest = np.log(rungs.loss) - np.log(tradeoff.loss(rungs.params, rungs.tokens))
    return rungs.take(rest <= np.quantile(rest, _BETTER))
