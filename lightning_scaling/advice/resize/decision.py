"""Advice on the size of the model and the amount of data."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from functools import cached_property, partial
from typing import Any, get_args

import numpy as np

from lightning_scaling._utils.formatting import count as quantity
from lightning_scaling._utils.validation import one_of, positive
from lightning_scaling.advice.config import DEFAULT, ResizeConfig
from lightning_scaling.advice.resize.fine_tuning import TuningLaw, tuning_advice, tuning_growth
from lightning_scaling.advice.resize.next_config import Rule, next_configuration
from lightning_scaling.advice.resize.recipe import recipe_first
from lightning_scaling.advice.resize.state import LadderTable, ModelState, ladder_table, published_tradeoff
from lightning_scaling.advice.result import Advice, FindingCode
from lightning_scaling.allocation.drifting_power_law import normal_quantile
from lightning_scaling.allocation.root_finding import halve
from lightning_scaling.allocation.task import INFERENCE_SHARE
from lightning_scaling.allocation.tradeoff import BestSize, NoTradeoffError, Tradeoff, effective_tokens
from lightning_scaling.runs.run import Run

_SEARCH_LOG_RANGE, _BISECTIONS = 12, 40
_TWO_DIGITS = 99.5
_ONE_PERCENT = 0.005


class _NoAdviceError(NoTradeoffError):
    """No advice on size is possible, with the reason and its code."""

    def __init__(self, reason: str, code: FindingCode) -> None:
        super().__init__(reason)
        self.code = code


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
        ValueError: If a number is out of its range, or there is no such rule.
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
        one_of("rule", rule, get_args(Rule))
        self._rule: Rule = rule
        self._tuning = fine_tuning
        self._config = config
        self._least_cost = config.least_cost if least_cost is None else least_cost
        if not 0 < self._least_cost < 1:
            raise ValueError(f"`least_cost` must lie between 0 and 1, but got {least_cost!r}.")
        spent = present.compute * (1 + self._inference * INFERENCE_SHARE / present.tokens)
        self._budget = spent if budget is None else positive("budget", budget)

    @cached_property
    def table(self) -> LadderTable:
        """The runs of the family, as they would have ended under the present schedule."""
        p = self.present
        return ladder_table(self._runs, p.plan, p.compute / (p.size * p.tokens), self._config)

    def advise(self) -> Advice:
        """What to do about the size; ``"continue"`` where nothing is to be said, with the reason."""
        return self._answered(self._judge)

    def when_data_grows(self, factor: float) -> Advice:
        """How the model should grow when there are so many times the data, and the compute to use them.

        Args:
            factor: New data over present data; 2 for twice as much, below 1 for less.

        Returns:
            Advice to ``"resize"``; ``"continue"`` where the growth is not known.

        Raises:
            ValueError: If `factor` is not positive.
        """
        return self._answered(partial(self._growth, positive("factor", factor)))

    # ------------------------------------------------------------------ private

    def _answered(self, answer: Callable[[], Advice]) -> Advice:
        """The answer, or the reason why there is none."""
        p, code = self.present, FindingCode.NOT_A_LOSS
        reason = f"`{p.metric}` is to be high, and laws of size and data are laws of losses."
        if p.mode != "max":
            try:
                return answer()
            except NoTradeoffError as error:
                reason, code = str(error), getattr(error, "code", FindingCode.SIZE_UNKNOWN)
        reason = f"No advice on size: {reason[:1].lower()}{reason[1:]}"
        return Advice("continue", reason, step=p.step, code=code)

    @cached_property
    def _tuning_law(self) -> TuningLaw:
        return TuningLaw(self.table, self._config)

    @cached_property
    def _alike(self) -> LadderTable:
        """The runs that are as sparse as this one."""
        table, wanted = self.table, math.log(self.present.params / self.present.size)
        limit = math.log(self._config.same_sparsity_ratio)
        return table.take(np.abs(np.log(table.total / table.params) - wanted) < limit)

    @cached_property
    def _tradeoff(self) -> tuple[Tradeoff, str]:
        """The tradeoff, and where it comes from; raises NoTradeoffError with the reason where there is none."""
        p, runs, reason = self.present, len(self._runs), ""
        sparse = p.active_params is not None and p.active_params < p.params / self._config.dense_ratio
        if sparse and len(self.table) and not len(self._alike):
            raise NoTradeoffError(
                "No run of the family has as large a share of its parameters active (`meta['active_params']`)."
            )
        if runs and not len(self.table):
            which = "the only past run does not hold" if runs == 1 else f"none of the {runs} past runs holds"
            reason = f"{which} its size, its tokens and a falling loss."
        elif runs:
            try:
                return self._alike.tradeoff(), self._alike.source
            except NoTradeoffError as error:
                reason = str(error)
        if p.unit != "tokens" or p.metric != "loss":
            absent = "There are no past runs of the family to learn from, and published laws count tokens of text."
            raise NoTradeoffError(reason or absent)
        try:
            published = published_tradeoff(p.size, p.tokens, p.compute, p.loss, self._config)
        except NoTradeoffError as error:
            raise NoTradeoffError(reason or str(error)) from None
        return published, "published laws of language models"

    def _agreed(self, flops: float) -> tuple[Tradeoff, str]:
        """The tradeoff and its source, where two ways of reading the family agree at a budget."""
        tradeoff, source = self._tradeoff
        agree, said = tradeoff.agreement(flops)
        if not agree:
            raise _NoAdviceError(f"{said}, which contradict each other.", FindingCode.ESTIMATES_CONTRADICT)
        return tradeoff, source

    def _judge(self) -> Advice:
        p, budget, config = self.present, self._budget, self._config
        first = recipe_first(p, self.table, self._unique, config)
        if first is not None:
            return first
        if self._tuning:
            return tuning_advice(p, self._tuning_law, self._rule, self._least_cost, config)
        tradeoff, source = self._agreed(budget)
        if tradeoff.scatter > config.max_scatter:
            raise _NoAdviceError(
                f"the {source} scatter by {tradeoff.scatter:.1%} around what their sizes and data explain; settle "
                "their learning rates and batches first.",
                FindingCode.RUNS_SCATTERED,
            )
        best = tradeoff.best(budget, self._inference, self._unique)
        lower, upper = best.interval(config.level)
        tokens, loss = self._at(tradeoff, p.size)
        if tokens <= 0:
            raise NoTradeoffError(
                f"a model of {quantity(p.size)} parameters leaves nothing of the {budget:.3g} FLOPs for training once "
                "its inference is paid."
            )
        gain, saved = loss - best.loss, self._saved(tradeoff, loss)
        # What the size wastes, were the best one at the near end of its interval: the same factor off the middle.
        off_nearest = p.size / float(np.clip(p.size, lower, upper))
        wasted = self._saved(tradeoff, self._at(tradeoff, off_nearest * best.params)[1])
        experts = self._of_experts(tradeoff)
        evidence: dict[str, Any] = {
            "source": source,
            "budget": budget,
            "best": best.to_dict(),
            "present": {"params": p.size, "tokens": p.tokens},
            "factor": p.size / best.params,
            "gain": gain,
            "compute_saved": saved,
            "least_waste": wasted,
            "experts": experts,
            **{name: getattr(self.table, name) for name in ("unfinished", "moved", "left_out")},
        }
        active = " active" if p.active_params is not None else ""
        begun = (
            f"For {budget:.3g} FLOPs the {source} put the best model at {quantity(best.params)}{active} parameters "
            f"(90 % between {quantity(lower)} and {quantity(upper)}) and {quantity(best.tokens)} {p.unit}"
        )
        if wasted < self._least_cost:
            return self._kept(begun, best, saved, evidence)
        following = next_configuration(p, best.params, best.tokens, self._rule)
        evidence["next"] = following.to_dict()
        sure = 0.5 * (1 + math.erf(abs(math.log(p.size / best.params)) / best.sd / math.sqrt(2)))
        more = ""
        if experts is not None:
            more = f"; each doubling of all parameters at one active size lowers the family's loss by {-experts:.1%}"
        sentence = (
            f"{begun}; {self._wrong(best, tokens)}, so that the better split would end {gain:.2g} lower, or as low "
            f"with {saved:.0%} less compute; {following.sentence(p.unit)}{more}."
        )
        confidence = min(max(sure, config.confidence[0]), config.confidence[1])
        return Advice("resize", sentence, evidence, saved, 0.0, confidence, p.step, FindingCode.SIZE_OFF_OPTIMUM)

    def _kept(self, begun: str, best: BestSize, saved: float, evidence: dict[str, Any]) -> Advice:
        """The size is right, or nearly, or the interval is too wide to call it wrong."""
        p, code, factor = self.present, FindingCode.SIZE_NEAR_OPTIMUM, self.present.size / best.params
        share = f"{saved:.0%}" if saved >= _ONE_PERCENT else "less than 1%"
        end = f"waste {share} of the compute, too little to change anything"
        if saved >= self._least_cost:
            code, side = FindingCode.SIZE_UNCERTAIN, "above" if factor > 1 else "below"
            end = f"are {_times(factor)} times {side} that, too near the interval to call them wrong"
        sentence = f"{begun}; this run's {quantity(p.size)} {end}."
        return Advice("continue", sentence, evidence, step=p.step, code=code)

    def _wrong(self, best: BestSize, tokens: float) -> str:
        p, factor = self.present, self.present.size / best.params
        if abs(math.log(self._budget / p.compute)) < self._config.same_budget:
            size, data = _off(factor, "many", "few"), _off(tokens / best.tokens, "many", "few")
            return f"this run's {quantity(p.size)} are {size} and its {quantity(tokens)} {p.unit} {data}"
        return f"a model like this one, of {quantity(p.size)}, would be {_off(factor, 'large', 'small')} for it"

    def _growth(self, factor: float) -> Advice:
        p, level = self.present, self._config.level
        if self._tuning:
            return tuning_growth(p, self._tuning_law, factor)
        tradeoff, source = self._agreed(p.compute)
        now, then = tradeoff.best_for(p.tokens), tradeoff.best_for(p.tokens * factor)
        growth = then.params / now.params
        middle = min(max((now.exponent + then.exponent) / 2, 0.01), 0.99)
        spread = max(now.exponent_sd, then.exponent_sd) / (1 - middle) ** 2 * abs(math.log(factor))
        half = math.exp(normal_quantile(level) * spread)
        evidence: dict[str, Any] = {
            "source": source,
            "data_factor": factor,
            "growth": growth,
            "interval": [growth / half, growth * half],
            "now": now.to_dict(),
            "then": then.to_dict(),
        }
        if half > self._config.max_growth_ratio:
            sentence = (
                f"How a model should grow with x{factor:.3g} the data cannot be worked out from the {source}: the "
                "interval is too wide."
            )
            return Advice("continue", sentence, evidence, step=p.step, code=FindingCode.SIZE_UNCERTAIN)
        following = next_configuration(p, then.params, then.tokens, self._rule)
        evidence["next"] = following.to_dict()
        sentence = (
            f"With x{factor:.3g} the data, {quantity(then.tokens)} instead of {quantity(now.tokens)} {p.unit}, the "
            f"{source} let the best model grow by x{growth:.2f} (90 % between x{growth / half:.2f} and "
            f"x{growth * half:.2f}), from {quantity(now.params)} to {quantity(then.params)} parameters, and the "
            f"compute by x{then.flops / now.flops:.3g}; this run has {quantity(p.size)}; {following.sentence(p.unit)}."
        )
        return Advice("resize", sentence, evidence, 0.0, 0.0, level, p.step, FindingCode.DATA_GROWTH)

    def _at(self, tradeoff: Tradeoff, size: float) -> tuple[float, float]:
        """Tokens that the budget leaves a model of a size, and its loss; infinite if there are none."""
        tokens = self._budget / float(tradeoff.per_token(size)) - self._inference * INFERENCE_SHARE
        return tokens, float(tradeoff.loss(size, effective_tokens(tokens, self._unique))) if tokens > 0 else math.inf

    def _saved(self, tradeoff: Tradeoff, loss: float) -> float:
        """Share of the budget that a model of the best size does not need for this loss."""
        if loss == math.inf:
            return 1.0

        def reached(log_flops: float) -> bool:
            try:
                return tradeoff.best(math.exp(log_flops), self._inference, self._unique).loss <= loss
            except NoTradeoffError:
                return False

        top = math.log(self._budget)
        return max(1 - math.exp(halve(reached, top - _SEARCH_LOG_RANGE, top, _BISECTIONS)[1]) / self._budget, 0.0)

    def _of_experts(self, tradeoff: Tradeoff) -> float | None:
        """Change of ln loss for each doubling of all parameters at one active size, where the family shows it."""
        table = self.table
        if self.present.active_params is None or len(table) == len(self._alike):
            return None
        spare = np.log(table.total / table.params)
        rest = np.log(table.loss) - np.log(tradeoff.loss(table.params, table.tokens))
        spare, rest = spare - spare.mean(), rest - rest.mean()
        slope = float(spare @ rest / (spare @ spare))
        error = float(np.std(rest - slope * spare) / math.sqrt(spare @ spare))
        return slope * math.log(2) if slope < -2 * error else None


def _times(factor: float) -> str:
    off = max(factor, 1 / factor)
    return f"{off:.2g}" if off < _TWO_DIGITS else f"{off:,.0f}"


def _off(factor: float, above: str, below: str) -> str:
    return f"{_times(factor)} times too {above if factor > 1 else below}"
