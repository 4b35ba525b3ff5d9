"""Advice on the size of the model and the amount of data."""

from __future__ import annotations

import math
from collections.abc import Iterable
from functools import cached_property
from typing import Any

import numpy as np

from lightning_scaling._utils.validation import positive
from lightning_scaling.advice.config import DEFAULT, ResizeConfig
from lightning_scaling.advice.resize import messages as words
from lightning_scaling.advice.resize.fine_tuning import tuning_advice, tuning_growth
from lightning_scaling.advice.resize.next_config import Configuration, Rule, next_configuration
from lightning_scaling.advice.resize.published import published_tradeoff
from lightning_scaling.advice.resize.recipe import recipe_first
from lightning_scaling.advice.resize.state import LadderTable, ModelState, ladder_table
from lightning_scaling.advice.result import Advice, FindingCode
from lightning_scaling.allocation.drifting_power_law import normal_quantile
from lightning_scaling.allocation.task import INFERENCE_SHARE
from lightning_scaling.allocation.tradeoff import BestSize, Tradeoff, effective_tokens
from lightning_scaling.runs.run import Run

_SEARCH_LOG_RANGE, _BISECTIONS = 12, 40
_DENSE_RATIO = 1.02


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
        least_cost: See above; left out, a tenth.
        config: Tuned numbers.

    Raises:
        ValueError: If a number is out of its range.
    """

    def __init__(
        self,
        present: ModelState,
        history: Iterable[Run] | None = None,
        *,
        budget: float | None = None,
        inference_tokens: float = 0.0,
        unique_tokens: float | None = None,
        rule: Rule = "step_law",
        fine_tuning: bool = False,
        least_cost: float | None = None,
        config: ResizeConfig = DEFAULT.resize,
    ) -> None:
        self.present = present
        self._runs = list(history or ())
        self._inference = positive("inference_tokens", inference_tokens, zero=True)
        self._unique = None if unique_tokens is None else positive("unique_tokens", unique_tokens)
        self._rule = rule
        self._tuning = fine_tuning
        self._config = config
        least_cost = config.least_cost if least_cost is None else least_cost
        if not 0 < least_cost < 1:
            raise ValueError(f"`least_cost` must lie between 0 and 1, but got {least_cost!r}.")
        self._least_cost = least_cost
        spent = present.compute * (1 + self._inference * INFERENCE_SHARE / present.tokens)
        self._budget = spent if budget is None else positive("budget", budget)

    def check(self) -> None:
        """Raise ValueError where the rule for learning rate and batch is none."""
        self._configure(self.present.params, self.present.tokens)

    @cached_property
    def table(self) -> LadderTable:
        """The runs of the family, as they would have ended under the present schedule."""
        p = self.present
        return ladder_table(self._runs, p.plan, p.compute / (p.size * p.tokens), self._config)

    @cached_property
    def _experts(self) -> tuple[LadderTable, str]:
        """The runs that are as sparse as this one, and what is missing for a mixture of experts."""
        present, table = self.present, self.table
        sparse = present.active_params is not None and present.active_params < present.params / _DENSE_RATIO
        wanted = math.log(present.params / present.size)
        alike = np.abs(np.log(table.total / table.params) - wanted) < math.log(self._config.same_sparsity_ratio)
        if not sparse or not len(table):
            return table.take(alike), ""
        if not alike.any():
            return table.take(alike), words.NO_EXPERTS
        return table.take(alike), ""

    @cached_property
    def _tradeoff(self) -> tuple[Tradeoff | None, str, str]:
        """The tradeoff, where it comes from, and reason there is none."""
        table, lacking = self._experts
        reason = lacking
        if self._runs and not len(self.table):
            reason = words.unread(len(self._runs))
        elif self._runs and not lacking:
            try:
                return table.tradeoff(), table.source, ""
            except ValueError as error:
                reason = str(error)
        if self.present.unit != "tokens" or self.present.metric != "loss" or lacking:
            return None, "", reason or words.NO_FAMILY
        p = self.present
        try:
            return published_tradeoff(p.size, p.tokens, p.compute, p.loss, self._config), words.PUBLISHED, ""
        except ValueError as error:
            return None, "", reason or str(error)

    def advise(self) -> Advice:
        """What to do about the size; ``"continue"`` where nothing is to be said, with the reason."""
        p = self.present
        if p.mode == "max":
            return self._silent(words.not_a_loss(p.metric), FindingCode.NOT_A_LOSS)
        first = recipe_first(p, self.table, self._unique, self._config)
        if first is not None:
            return first
        if self._tuning:
            return tuning_advice(p, self.table, self._configure, self._least_cost, self._config)
        tradeoff, source, reason = self._tradeoff
        if tradeoff is None:
            return self._silent(words.cannot(reason), FindingCode.SIZE_UNKNOWN)
        agree, said = tradeoff.agreement(self._budget)
        if not agree:
            return self._silent(words.contradiction(said), FindingCode.ESTIMATES_CONTRADICT)
        if tradeoff.scatter > self._config.max_scatter:
            return self._silent(words.scattered(source, tradeoff.scatter), FindingCode.RUNS_SCATTERED)
        return self._judge(tradeoff, source)

    def _judge(self, tradeoff: Tradeoff, source: str) -> Advice:
        p = self.present
        best = tradeoff.best(self._budget, self._inference, self._unique)
        lower, upper = best.interval(self._config.level)
        tokens = self._affordable(tradeoff, p.size)
        if tokens <= 0:
            return self._silent(words.unaffordable(p, self._budget), FindingCode.SIZE_UNKNOWN)
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
            "unfinished": self.table.unfinished,
            "moved": self.table.moved,
            "left_out": self.table.left_out,
            "experts": experts,
        }
        sentences = words.SizeComparison(p, best, source, loss - best.loss, saved, tokens, (lower, upper), self._budget)
        if wasted < self._least_cost:
            inside = saved < self._least_cost
            sentence = sentences.near_enough() if inside else sentences.not_sure()
            code = FindingCode.SIZE_NEAR_OPTIMUM if inside else FindingCode.SIZE_UNCERTAIN
            return Advice("continue", sentence, evidence, step=p.step, code=code)
        following = self._configure(best.params, best.tokens)
        evidence["next"] = following.to_dict()
        sure = 0.5 * (1 + math.erf(abs(math.log(p.size / best.params)) / best.sd / math.sqrt(2)))
        return Advice(
            "resize",
            sentences.resize(following, experts),
            evidence,
            saving=saved,
            cost=0.0,
            confidence=min(max(sure, self._config.confidence[0]), self._config.confidence[1]),
            step=p.step,
            code=FindingCode.SIZE_OFF_OPTIMUM,
        )

    def when_data_grows(self, factor: float) -> Advice:
        """How the model should grow when there are so many times the data, and the compute to use them.

        Args:
            factor: New data over present data; 2 for twice as much, below 1 for less.

        Returns:
            Advice to ``"resize"``; ``"continue"`` where the growth is not known.

        Raises:
            ValueError: If `factor` is not positive.
        """
        factor, p = positive("factor", factor), self.present
        if p.mode == "max":
            return self._silent(words.not_a_loss(p.metric), FindingCode.NOT_A_LOSS)
        if self._tuning:
            return tuning_growth(p, self.table, factor, self._config)
        tradeoff, source, reason = self._tradeoff
        if tradeoff is None:
            return self._silent(words.cannot(reason), FindingCode.SIZE_UNKNOWN)
        agree, said = tradeoff.agreement(p.compute)
        if not agree:
            return self._silent(words.contradiction(said), FindingCode.ESTIMATES_CONTRADICT)
        try:
            now, then = tradeoff.best_for(p.tokens), tradeoff.best_for(p.tokens * factor)
        except ValueError as error:
            return self._silent(words.cannot(str(error)), FindingCode.SIZE_UNKNOWN)
        growth = then.params / now.params
        middle = min(max((now.exponent + then.exponent) / 2, 0.01), 0.99)
        spread = max(now.exponent_sd, then.exponent_sd) / (1 - middle) ** 2 * abs(math.log(factor))
        half = math.exp(normal_quantile(self._config.level) * spread)
        evidence: dict[str, Any] = {
            "source": source,
            "data_factor": factor,
            "growth": growth,
            "interval": [growth / half, growth * half],
            "now": now.to_dict(),
            "then": then.to_dict(),
        }
        if half > self._config.max_growth_ratio:
            sentence = words.growth_unsure(factor, source)
            return Advice("continue", sentence, evidence, step=p.step, code=FindingCode.SIZE_UNCERTAIN)
        following = self._configure(then.params, then.tokens)
        evidence["next"] = following.to_dict()
        sentence = words.growth(p, factor, growth, (growth / half, growth * half), now, then, source, following)
        return Advice("resize", sentence, evidence, 0.0, 0.0, self._config.level, p.step, FindingCode.DATA_GROWTH)

    # ------------------------------------------------------------------ private

    def _affordable(self, tradeoff: Tradeoff, size: float) -> float:
        """Tokens that the budget leaves a model of this size."""
        return self._budget / float(tradeoff.per_token(size)) - self._inference * INFERENCE_SHARE

    def _loss(self, tradeoff: Tradeoff, size: float, tokens: float) -> float:
        return float(tradeoff.loss(size, effective_tokens(tokens, self._unique)))

    def _saved(self, tradeoff: Tradeoff, loss: float) -> float:
        """Share of the budget that a model of the best size does not need for this loss."""
        low, high = math.log(self._budget) - _SEARCH_LOG_RANGE, math.log(self._budget)
        for _ in range(_BISECTIONS):
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
        table = self.table
        if self.present.active_params is None or len(table) == len(self._experts[0]):
            return None
        spare = np.log(table.total / table.params)
        rest = np.log(table.loss) - np.log(tradeoff.loss(table.params, table.tokens))
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

    def _silent(self, reason: str, code: FindingCode) -> Advice:
        return Advice("continue", reason, step=self.present.step, code=code)
