"""Fine-tuning: which trained model to start from, and whether more data call for a larger one."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lightning_scaling.advice.resize import messages as words
from lightning_scaling.advice.resize.ladder import LadderTable
from lightning_scaling.advice.resize.next_config import Configuration
from lightning_scaling.advice.result import Advice
from lightning_scaling.laws import get

if TYPE_CHECKING:
    from lightning_scaling.advice.resize.decision import Present

Array = NDArray[np.float64]

_FEWEST, _SIZES, _AMOUNTS = 5, 2, 2
_ALIKE = 1.05
_DRAWS = 400
_SURE = 0.95


class Multiplicative:
    """``loss = A params^-alpha tokens^-beta + E``, fitted to the runs of a family.

    Zhang et al. 2024 (arXiv 2402.17193), equation 1. At equal compute, ``tokens = C / (6 params)``, the loss goes as
    ``params^(beta - alpha)``: it has no best size in between, so the sizes that the family has are compared.

    Args:
        rungs: The runs.

    Raises:
        ValueError: If they are too few or too alike to fit it, with the reason.
    """

    def __init__(self, rungs: LadderTable) -> None:
        sizes, amounts = _distinct(rungs.params), _distinct(rungs.tokens)
        if len(rungs) < _FEWEST or len(sizes) < _SIZES or len(amounts) < _AMOUNTS:
            raise ValueError(
                f"The law of fine-tuning needs {_FEWEST} runs of the family with {_SIZES} sizes and {_AMOUNTS} amounts "
                f"of data, but there are {len(rungs)} runs with {len(sizes)} and {len(amounts)}."
            )
        self.sizes = sizes
        self._fit = get("zhang").fit(
            {"params": rungs.params, "finetune_tokens": rungs.tokens, "loss": rungs.loss}, bootstrap=0
        )
        if not self._fit.ok:
            raise ValueError(f"The law of fine-tuning could not be fitted: {self._fit.message or self._fit.status}.")

    @property
    def params(self) -> dict[str, float]:
        """Parameters of the law."""
        return dict(self._fit.params)

    def loss(self, params: float, tokens: float) -> float:
        """Loss of a size tuned on tokens."""
        return float(np.ravel(self._fit.predict(params=params, finetune_tokens=tokens))[0])

    def better(self, params: float, tokens: float, other: float, other_tokens: float) -> float:
        """Probability that another size on other tokens ends lower."""
        draws = self._fit.draws(count=_DRAWS, seed=0)
        gain = draws["alpha"] * math.log(other / params) + draws["beta"] * math.log(other_tokens / tokens)
        return float(np.mean(gain > 0))


def tuning_advice(
    present: Present, rungs: LadderTable, configure: Callable[[float, float], Configuration], least_cost: float
) -> Advice:
    """Whether another of the family's sizes, tuned with the same compute, would end lower.

    Args:
        present: The run.
        rungs: The runs of its family.
        configure: What to train next, from size and data.
        least_cost: Share of the data that must be saved to be worth a word.
    """
    try:
        law = Multiplicative(rungs)
    except ValueError as error:
        return Advice("continue", words.cannot(str(error)), {"why": "cannot tell"}, step=present.step)
    work = present.size * present.tokens
    here = law.loss(present.size, present.tokens)
    best = min((float(size) for size in law.sizes), key=lambda size: law.loss(size, work / size))
    gain = here - law.loss(best, work / best)
    sure = law.better(present.size, present.tokens, best, work / best)
    reducible = here - law.params["E"]
    saved = 1 - (1 - gain / reducible) ** (1 / law.params["beta"]) if 0 < gain < reducible else 0.0
    evidence: dict[str, Any] = {"law": law.params, "best": best, "gain": gain, "sure": sure, "compute_saved": saved}
    if gain <= 0 or sure < _SURE or saved < least_cost or abs(math.log(best / present.size)) < math.log(_ALIKE):
        return Advice("continue", words.tuning_fits(present, len(rungs)), evidence | {"why": "near"}, step=present.step)
    following = configure(best, work / best)
    evidence["next"] = following.to_dict() | {"params": best}
    sentence = words.tuning(present, best, work / best, gain, saved, len(rungs), following)
    return Advice("resize", sentence, evidence, saving=saved, cost=0.0, confidence=min(sure, 0.99), step=present.step)


def tuning_growth(present: Present, rungs: LadderTable, factor: float) -> Advice:
    """What more data for tuning are worth; the size need not follow them.

    Args:
        present: The run.
        rungs: The runs of its family.
        factor: New data over present data.
    """
    try:
        law = Multiplicative(rungs)
    except ValueError as error:
        return Advice("continue", words.cannot(str(error)), {"why": "cannot tell"}, step=present.step)
    here, there = law.loss(present.size, present.tokens), law.loss(present.size, present.tokens * factor)
    evidence = {"law": law.params, "why": "near", "gain": here - there}
    return Advice("continue", words.tuning_growth(factor, here, there), evidence, step=present.step)


def _distinct(values: Array) -> Array:
    """Values without those within 5 % of a smaller one."""
    ordered = np.unique(values)
    return ordered[np.concatenate([[True], np.diff(np.log(ordered)) > math.log(_ALIKE)])] if len(ordered) else ordered
