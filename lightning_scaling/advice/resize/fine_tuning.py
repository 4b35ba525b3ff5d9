"""Fine-tuning: choice of the trained model, and the effect of more data."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lightning_scaling._utils.formatting import count as quantity
from lightning_scaling.advice.config import ResizeConfig
from lightning_scaling.advice.resize.next_config import Rule, next_configuration
from lightning_scaling.advice.resize.state import LadderTable, ModelState
from lightning_scaling.advice.result import Advice, FindingCode
from lightning_scaling.allocation.tradeoff import NoTradeoffError
from lightning_scaling.laws import get


class TuningLaw:
    """``loss = A params^-alpha tokens^-beta + E``, fitted to the runs of a family.

    Zhang et al. 2024 (arXiv 2402.17193), equation 1. At equal compute, ``tokens = C / (6 params)``, the loss goes as
    ``params^(beta - alpha)``: it has no best size in between, so the sizes that the family has are compared.

    Args:
        table: The runs.
        config: Tuned numbers.

    Attributes:
        sizes: Different sizes of the family.
        runs: How many runs it rests on.
        params: Parameters of the law.

    Raises:
        NoTradeoffError: If they are too few or too alike to fit it, with the reason.
    """

    def __init__(self, table: LadderTable, config: ResizeConfig) -> None:
        sizes, amounts = (_distinct(values, config.tuning_same_ratio) for values in (table.params, table.tokens))
        fewest, distinct = config.tuning_min_runs, config.tuning_min_distinct
        if len(table) < fewest or min(len(sizes), len(amounts)) < distinct:
            raise NoTradeoffError(
                f"The law of fine-tuning needs {fewest} runs of the family with {distinct} sizes and {distinct} "
                f"amounts of data, but there are {len(table)} runs with {len(sizes)} and {len(amounts)}."
            )
        data = {"params": table.params, "finetune_tokens": table.tokens, "loss": table.loss}
        self._fit = fit = get("zhang").fit(data, bootstrap=0)
        if not fit.ok:
            raise NoTradeoffError(f"The law of fine-tuning could not be fitted: {fit.message or fit.status}.")
        self.sizes, self.runs, self.params = [float(size) for size in sizes], len(table), dict(fit.params)
        self._draws = config.tuning_draws

    def loss(self, params: float, tokens: float) -> float:
        """Loss of a size tuned on tokens."""
        return float(np.ravel(self._fit.predict(params=params, finetune_tokens=tokens))[0])

    def better(self, params: float, tokens: float, other: float, other_tokens: float) -> float:
        """Probability that another size on other tokens ends lower."""
        draws = self._fit.draws(count=self._draws, seed=0)
        gain = draws["alpha"] * math.log(other / params) + draws["beta"] * math.log(other_tokens / tokens)
        return float(np.mean(gain > 0))


def tuning_advice(present: ModelState, law: TuningLaw, rule: Rule, least_cost: float, config: ResizeConfig) -> Advice:
    """Whether another of the family's sizes, tuned with the same compute, would end lower.

    Args:
        present: The run.
        law: The law of its family.
        rule: How learning rate and batch are carried over.
        least_cost: Share of the data that must be saved for advice.
        config: Tuned numbers.
    """
    work, here = present.size * present.tokens, law.loss(present.size, present.tokens)
    best = min(law.sizes, key=lambda size: law.loss(size, work / size))
    gain = here - law.loss(best, work / best)
    sure = law.better(present.size, present.tokens, best, work / best)
    reducible = here - law.params["E"]
    saved = 1 - (1 - gain / reducible) ** (1 / law.params["beta"]) if 0 < gain < reducible else 0.0
    evidence: dict[str, Any] = {"law": law.params, "best": best, "gain": gain, "sure": sure, "compute_saved": saved}
    other = abs(math.log(best / present.size)) >= math.log(config.tuning_same_ratio)
    sized = f"this run's {quantity(present.size)}"
    begun = f"Among the sizes of the {law.runs} fine-tuned runs of the family"
    if gain <= 0 or sure < config.tuning_probability or saved < least_cost or not other:
        sentence = f"{begun} none is surely better than {sized} parameters at the same compute."
        return Advice("continue", sentence, evidence, step=present.step, code=FindingCode.SIZE_NEAR_OPTIMUM)
    following = replace(next_configuration(present, best, work / best, rule), params=best)
    evidence["next"] = following.to_dict()
    sentence = (
        f"{begun}, {quantity(best)} parameters tuned on {quantity(work / best)} {present.unit} with the same compute "
        f"would end {gain:.2g} lower than {sized}, or as low on {saved:.0%} less data; "
        f"{following.sentence(present.unit)}."
    )
    confidence = min(sure, config.confidence[1])
    return Advice("resize", sentence, evidence, saved, 0.0, confidence, present.step, FindingCode.SIZE_OFF_OPTIMUM)


def tuning_growth(present: ModelState, law: TuningLaw, factor: float) -> Advice:
    """What more data for tuning are worth; the size need not follow them.

    Args:
        present: The run.
        law: The law of its family.
        factor: New data over present data.
    """
    here, there = (law.loss(present.size, present.tokens * times) for times in (1, factor))
    sentence = (
        f"With x{factor:.3g} the data this run would end at {there:.4g} instead of {here:.4g}; in fine-tuning size and "
        "data multiply, so the model need not grow with them."
    )
    evidence = {"law": law.params, "gain": here - there}
    return Advice("continue", sentence, evidence, step=present.step, code=FindingCode.DATA_GROWTH)


def _distinct(values: NDArray[np.float64], ratio: float) -> NDArray[np.float64]:
    """Values without those within a ratio of a smaller one."""
    ordered = np.unique(values)
    return ordered[np.diff(np.log(ordered), prepend=-np.inf) > math.log(ratio)]
