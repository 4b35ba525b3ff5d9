"""Is the model too large or too small, and are there too little or too much data? The decision."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np

from lightning_scaling._utils.validation import positive
from lightning_scaling.advice.resize import messages as words
from lightning_scaling.advice.resize.fine_tuning import tuning_advice, tuning_growth
from lightning_scaling.advice.resize.ladder import LadderTable, ladder_table
from lightning_scaling.advice.resize.next_config import Configuration, Rule, Shape, next_configuration
from lightning_scaling.advice.resize.published import published_tradeoff
from lightning_scaling.advice.resize.recipe import recipe_first
from lightning_scaling.advice.result import Advice
from lightning_scaling.allocation.task import TRAINING_FLOPS
from lightning_scaling.allocation.tradeoff import BestSize, Tradeoff, effective_tokens
from lightning_scaling.runs.run import Run
from lightning_scaling.schedule.plan import Plan

LEAST_COST = 0.1
"""Share of the compute that a wrong size must waste before it is worth a word."""

_LEVEL = 0.9
_LARGEST_SCATTER = 0.025
_UNSURE = 4.0
_ALIKE = 1.1
_CONFIDENT = (0.9, 0.99)


@dataclass(frozen=True)
class Present:
    """The run that is asked about.

    Attributes:
        params: Its parameters.
        tokens: Tokens (or samples, by `unit`) that its plan sees in all, repeats included.
        flops: Training FLOPs of the whole plan; left out, ``6 * active_params * tokens``.
        plan: Its schedule.
        loss: Where it is forecast to end; ``None`` where that is not known.
        tokens_per_step: Tokens (or samples) of an optimizer step.
        active_params: Parameters that one token passes through, for a mixture of experts; left out, all.
        embedding: Parameters that grow with the width alone.
        shape: Its width, depth and heads; ``None`` where not known.
        shaped: Whether the model is of equal blocks, so that a shape can be proposed.
        unit: What is counted: ``"tokens"`` or ``"samples"``.
        metric: What to call that which is followed.
        mode: Whether it is to be low or high.
        step: The present step.

    Raises:
        ValueError: If a number is not positive.
    """

    params: float
    tokens: float
    flops: float | None = None
    plan: Plan | None = None
    loss: float | None = None
    tokens_per_step: float | None = None
    active_params: float | None = None
    embedding: float = 0.0
    shape: Shape | None = None
    shaped: bool = True
    unit: Literal["tokens", "samples"] = "tokens"
    metric: str = "loss"
    mode: Literal["min", "max"] = "min"
    step: int = 0

    def __post_init__(self) -> None:
        for name in ("params", "tokens", "flops", "tokens_per_step", "active_params"):
            value = getattr(self, name)
            if value is not None or name in ("params", "tokens"):
                positive(name, value)

    @property
    def size(self) -> float:
        """Parameters that cost compute: the active ones."""
        return self.active_params or self.params

    @property
    def compute(self) -> float:
        """Training FLOPs of the whole plan."""
        return self.flops or TRAINING_FLOPS * self.size * self.tokens

    @property
    def rate(self) -> float | None:
        """Peak learning rate of the plan."""
        return self.plan.peak if self.plan is not None and self.plan.peak > 0 else None


class Resizing:
    """Advice on the size of a model: from the runs of its family, else from published laws with wide intervals.

    What can be wrong with the recipe is said before anything on the size. Advice to resize is given only where the
    present size wastes at least `least_cost` of the compute even if the best size lies at the near end of its 90 %
    interval, and where two ways of reading the family agree.

    Args:
        present: The run.
        history: Runs of its family, without this one.
        budget: FLOPs to be spent, inference included; left out, what the run spends and what its inference costs.
        inference_tokens: Tokens that the model will process after training.
        unique_tokens: Distinct training tokens there are; left out, there are enough.
        rule: How learning rate and batch are carried over; see
            :func:`~lightning_scaling.advice.resize.next_config.next_configuration`.
        fine_tuning: Whether a trained model is tuned: the multiplicative law then takes the place of the others.
        least_cost: See above.

    Raises:
        ValueError: If a number is out of its range.
    """

    def __init__(
        self,
        present: Present,
        history: Iterable[Run] | None = None,
        *,
        budget: float | None = None,
        inference_tokens: float = 0.0,
        unique_tokens: float | None = None,
        rule: Rule = "step_law",
        fine_tuning: bool = False,
        least_cost: float = LEAST_COST,
    ) -> None:
        self.present = present
        self._runs = list(history or ())
        self._inference = positive("inference_tokens", inference_tokens, zero=True)
        self._unique = None if unique_tokens is None else positive("unique_tokens", unique_tokens)
        self._rule = rule
        self._tuning = fine_tuning
        if not 0 < least_cost < 1:
            raise ValueError(f"`least_cost` must lie between 0 and 1, but got {least_cost!r}.")
        self._least_cost = least_cost
        spent = present.compute * (1 + self._inference / 3 / present.tokens)
        self._budget = spent if budget is None else positive("budget", budget)

    def check(self) -> None:
        """Raise ValueError where the rule for learning rate and batch is none."""
        self._configure(self.present.params, self.present.tokens)

    @cached_property
    def rungs(self) -> LadderTable:
        """The runs of the family, as they would have ended under the present schedule."""
        p = self.present
        return ladder_table(self._runs, p.plan, p.compute / (p.size * p.tokens))

    @cached_property
    def _experts(self) -> tuple[LadderTable, str]:
        """The runs that are as sparse as this one, and what is missing for a mixture of experts."""
        present, rungs = self.present, self.rungs
        sparse = present.active_params is not None and present.active_params < present.params / 1.02
        wanted = math.log(present.params / present.size)
        alike = np.abs(np.log(rungs.total / rungs.params) - wanted) < math.log(_ALIKE)
        if not sparse or not len(rungs):
            return rungs.take(alike), ""
        if not alike.any():
            return rungs.take(alike), words.NO_EXPERTS
        return rungs.take(alike), ""

    @cached_property
    def _tradeoff(self) -> tuple[Tradeoff | None, str, str]:
        """The tradeoff, where it comes from, and why there is none."""
        rungs, lacking = self._experts
        why = lacking
        if self._runs and not len(self.rungs):
            why = words.unread(len(self._runs))
        elif self._runs and not lacking:
            try:
                return rungs.tradeoff(), rungs.source(), ""
            except ValueError as error:
                why = str(error)
        if self.present.unit != "tokens" or self.present.metric != "loss" or lacking:
            return None, "", why or words.NO_FAMILY
        p = self.present
        try:
            return published_tradeoff(p.size, p.tokens, p.compute, p.loss), words.PUBLISHED, ""
        except ValueError as error:
            return None, "", why or str(error)

    def advise(self) -> Advice:
        """What to do about the size; ``"continue"`` where nothing is to be said, with the reason."""
        p = self.present
        if p.mode == "max":
            return self._silent(words.not_a_loss(p.metric), "not a loss")
        first = recipe_first(p, self.rungs, self._unique)
        if first is not None:
            return first
        if self._tuning:
            return tuning_advice(p, self.rungs, self._configure, self._least_cost)
        tradeoff, source, why = self._tradeoff
        if tradeoff is None:
            return self._silent(words.cannot(why), "cannot tell")
        agree, said = tradeoff.agreement(self._budget)
        if not agree:
            return self._silent(words.contradiction(said), "contradiction")
        if tradeoff.scatter > _LARGEST_SCATTER:
            return self._silent(words.scattered(source, tradeoff.scatter), "scattered")
        return self._judge(tradeoff, source)

    def _judge(self, tradeoff: Tradeoff, source: str) -> Advice:
        p = self.present
        best = tradeoff.best(self._budget, self._inference, self._unique)
        lower, upper = best.interval(_LEVEL)
        tokens = self._affordable(tradeoff, p.size)
        if tokens <= 0:
            return self._silent(words.unaffordable(p, self._budget), "cannot tell")
        loss = self._loss(tradeoff, p.size, tokens)
        saved = self._saved(tradeoff, loss)
        large = p.size > best.params
        near = upper if large else lower
        nearest = near if (near < p.size) == large else p.size
        wasted = self._wasted(tradeoff, p.size / nearest * best.params, best)
        experts = self._of_experts(tradeoff)
        evidence: dict[str, Any] = {
            "source": source,
            "budget": self._budget,
            "best": best.to_dict(),
            "present": {"params": p.size, "tokens": p.tokens},
            "factor": p.size / best.params,
            "gain": loss - best.loss,
            "compute_saved": saved,
            "least_waste": wasted,
            "unfinished": self.rungs.unfinished,
            "moved": self.rungs.moved,
            "left_out": self.rungs.left_out,
            "experts": experts,
        }
        told = words.SizeComparison(p, best, source, loss - best.loss, saved, tokens, (lower, upper), self._budget)
        if wasted < self._least_cost:
            inside = saved < self._least_cost
            sentence = told.near_enough() if inside else told.not_sure()
            return Advice("continue", sentence, evidence | {"why": "near" if inside else "unsure"}, step=p.step)
        following = self._configure(best.params, best.tokens)
        evidence["next"] = following.to_dict()
        sure = 0.5 * (1 + math.erf(abs(math.log(p.size / best.params)) / best.sd / math.sqrt(2)))
        return Advice(
            "resize",
            told.resize(following, experts),
            evidence,
            saving=saved,
            cost=0.0,
            confidence=min(max(sure, _CONFIDENT[0]), _CONFIDENT[1]),
            step=p.step,
        )

    def when_data_grows(self, factor: float) -> Advice:
        """How the model should grow when there are so many times the data, and the compute to use them.

        Args:
            factor: New data over present data; 2 for twice as much, below 1 for less.

        Returns:
            Advice to ``"resize"``; ``"continue"`` where the growth cannot be told.

        Raises:
            ValueError: If `factor` is not positive.
        """
        factor, p = positive("factor", factor), self.present
        if p.mode == "max":
            return self._silent(words.not_a_loss(p.metric), "not a loss")
        if self._tuning:
            return tuning_growth(p, self.rungs, factor)
        tradeoff, source, why = self._tradeoff
        if tradeoff is None:
            return self._silent(words.cannot(why), "cannot tell")
        agree, said = tradeoff.agreement(p.compute)
        if not agree:
            return self._silent(words.contradiction(said), "contradiction")
        try:
            now, then = tradeoff.best_for(p.tokens), tradeoff.best_for(p.tokens * factor)
        except ValueError as error:
            return self._silent(words.cannot(str(error)), "cannot tell")
        growth = then.params / now.params
        middle = min(max((now.exponent + then.exponent) / 2, 0.01), 0.99)
        spread = max(now.exponent_sd, then.exponent_sd) / (1 - middle) ** 2 * abs(math.log(factor))
        half = math.exp(1.645 * spread)
        evidence: dict[str, Any] = {
            "source": source,
            "data_factor": factor,
            "growth": growth,
            "interval": [growth / half, growth * half],
            "now": now.to_dict(),
            "then": then.to_dict(),
        }
        if half > _UNSURE:
            return Advice("continue", words.growth_unsure(factor, source), evidence | {"why": "unsure"}, step=p.step)
        following = self._configure(then.params, then.tokens)
        evidence["next"] = following.to_dict()
        sentence = words.growth(p, factor, growth, (growth / half, growth * half), now, then, source, following)
        return Advice("resize", sentence, evidence, cost=0.0, confidence=_LEVEL, step=p.step)

    # ------------------------------------------------------------------ private

    def _affordable(self, tradeoff: Tradeoff, size: float) -> float:
        """Tokens that the budget leaves a model of this size."""
        return self._budget / float(tradeoff.per_token(size)) - self._inference / 3

    def _loss(self, tradeoff: Tradeoff, size: float, tokens: float) -> float:
        return float(tradeoff.loss(size, effective_tokens(tokens, self._unique)))

    def _saved(self, tradeoff: Tradeoff, loss: float) -> float:
        """Share of the budget that a model of the best size does not need for this loss."""
        low, high = math.log(self._budget) - 12, math.log(self._budget)
        for _ in range(40):
            middle = (low + high) / 2
            try:
                reached = tradeoff.best(math.exp(middle), self._inference, self._unique).loss <= loss
            except ValueError:
                reached = False
            low, high = (low, middle) if reached else (middle, high)
        return max(1 - math.exp(high) / self._budget, 0.0)

    def _wasted(self, tradeoff: Tradeoff, size: float, best: BestSize) -> float:
        """What a size wastes, were the best one at the near end of its interval: the same factor off the middle."""
        tokens = self._affordable(tradeoff, size)
        return self._saved(tradeoff, self._loss(tradeoff, size, tokens)) if tokens > 0 else 1.0

    def _of_experts(self, tradeoff: Tradeoff) -> float | None:
        """Change of ln loss for each doubling of all parameters at one active size, where the family shows it."""
        rungs = self.rungs
        if self.present.active_params is None or len(rungs) == len(self._experts[0]):
            return None
        spare = np.log(rungs.total / rungs.params)
        rest = np.log(rungs.loss) - np.log(tradeoff.loss(rungs.params, rungs.tokens))
        spare, rest = spare - spare.mean(), rest - rest.mean()
        slope = float(spare @ rest / (spare @ spare))
        error = float(np.std(rest - slope * spare) / math.sqrt(spare @ spare))
        return slope * math.log(2) if slope < -2 * error else None

    def _configure(self, params: float, tokens: float) -> Configuration:
        """A configuration of an active size; a mixture keeps its share of active parameters."""
        p = self.present
        return next_configuration(
            params,
            tokens,
            params_now=p.size,
            tokens_now=p.tokens,
            shape=p.shape,
            shaped=p.shaped,
            embedding=p.embedding,
            learning_rate=p.rate,
            batch_tokens=p.tokens_per_step,
            rule=self._rule,
        )

    def _silent(self, reason: str, why: str) -> Advice:
        return Advice("continue", reason, {"why": why}, step=self.present.step)
