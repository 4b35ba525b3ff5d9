"""Sentences on size and data."""

from __future__ import annotations

import math
from dataclasses import dataclass

from lightning_scaling._utils.formatting import count as quantity
from lightning_scaling.advice.config import DEFAULT
from lightning_scaling.advice.resize.next_config import Configuration
from lightning_scaling.advice.resize.state import ModelState
from lightning_scaling.allocation.tradeoff import BestSize

_TWO_DIGITS = 99.5
_ONE_PERCENT = 0.005
PUBLISHED = "published laws of language models"
NO_FAMILY = "There are no past runs of the family to learn from, and published laws count tokens of text."
NO_EXPERTS = "No run of the family has as large a share of its parameters active (`meta['active_params']`)."


def unread(runs: int) -> str:
    """No past run is usable."""
    which = "the only past run does not hold" if runs == 1 else f"none of the {runs} past runs holds"
    return f"{which} its size, its tokens and a falling loss."


def cannot(reason: str) -> str:
    """No estimate is possible."""
    return f"No advice on size: {reason[:1].lower()}{reason[1:]}"


def not_a_loss(metric: str) -> str:
    """The metric is no loss."""
    return f"No advice on size: `{metric}` is to be high, and laws of size and data are laws of losses."


def scattered(source: str, noise: float) -> str:
    """The runs hardly follow any law."""
    return (
        f"No advice on size: the {source} scatter by {noise:.1%} around what their sizes and data explain; settle "
        "their learning rates and batches first."
    )


def contradiction(said: str) -> str:
    """Two ways of reading the family contradict each other."""
    return f"No advice on size: {said}, which contradict each other."


def unaffordable(present: ModelState, budget: float) -> str:
    """Inference alone uses up the budget."""
    return (
        f"No advice on size: a model of {quantity(present.size)} parameters leaves nothing of the {budget:.3g} FLOPs "
        "for training once its inference is paid."
    )


def repeats(present: ModelState, unique: float, new: float) -> str:
    """Too many epochs."""
    return (
        f"The plan goes {present.tokens / unique:.3g} times over the {quantity(unique)} unique {present.unit}, and "
        f"{quantity(present.tokens)} of them with repeats are worth about {quantity(new)} new ones: find more data or "
        "train for fewer steps before changing the size of the model."
    )


def recipe(what: str, now: float, factor: float, carried: float, runs: int, unit: str) -> str:
    """Learning rate or batch unlike those of the better runs."""
    value, other = (f"{now:.2g}", f"{carried:.2g}")
    if what == "batch":
        value, other = f"{quantity(now)} {unit} a step", quantity(carried)
    times = f"{factor:.2g} times the highest" if factor > 1 else f"1/{1 / factor:.2g} of the lowest"
    return (
        f"The {what}, {value}, is {times} of the {runs} better runs of the family, which would suggest about {other} "
        "at this size and data: try that before changing the size of the model."
    )


def _next(best_params: float, best_tokens: float, following: Configuration, unit: str) -> str:
    how = following.sentence(unit)
    how = f": {how}" if how else ""
    return f"next, try {quantity(best_params)} parameters on {quantity(best_tokens)} {unit}{how}"


def _times(factor: float) -> str:
    off = max(factor, 1 / factor)
    return f"{off:.2g}" if off < _TWO_DIGITS else f"{off:,.0f}"


def _share(share: float) -> str:
    return f"{share:.0%}" if share >= _ONE_PERCENT else "less than 1%"


def _off(factor: float, words: tuple[str, str]) -> str:
    return f"{_times(factor)} times too {words[0] if factor > 1 else words[1]}"


@dataclass(frozen=True)
class SizeComparison:
    """What the sentences on one comparison of a run with the best size are made of."""

    present: ModelState
    best: BestSize
    source: str
    gain: float
    saved: float
    tokens: float
    interval: tuple[float, float]
    budget: float

    def _where(self) -> str:
        p, b = self.present, self.best
        active = " active" if p.active_params is not None else ""
        lower, upper = (quantity(end) for end in self.interval)
        return (
            f"For {self.budget:.3g} FLOPs the {self.source} put the best model at {quantity(b.params)}{active} "
            f"parameters (90 % between {lower} and {upper}) and {quantity(b.tokens)} {p.unit}"
        )

    def _factor(self) -> float:
        return self.present.size / self.best.params

    def resize(self, following: Configuration, experts: float | None) -> str:
        """The size is wrong."""
        p, factor = self.present, self._factor()
        more = ""
        if experts is not None:
            more = f"; each doubling of all parameters at one active size lowers the family's loss by {-experts:.1%}"
        if abs(math.log(self.budget / p.compute)) < DEFAULT.resize.same_budget:
            wrong = (
                f"this run's {quantity(p.size)} are {_off(factor, ('many', 'few'))} and its {quantity(self.tokens)} "
                f"{p.unit} {_off(self.tokens / self.best.tokens, ('many', 'few'))}"
            )
        else:
            wrong = f"a model like this one, of {quantity(p.size)}, would be {_off(factor, ('large', 'small'))} for it"
        return (
            f"{self._where()}; {wrong}, so that the better split would end {self.gain:.2g} lower, or as low with "
            f"{self.saved:.0%} less compute; {_next(following.params, self.best.tokens, following, p.unit)}{more}."
        )

    def near_enough(self) -> str:
        """The size is right, or nearly."""
        return (
            f"{self._where()}; this run's {quantity(self.present.size)} waste {_share(self.saved)} of the "
            "compute, too little to change anything."
        )

    def not_sure(self) -> str:
        """The size is probably wrong, but the interval is too wide."""
        factor = self._factor()
        return (
            f"{self._where()}; this run's {quantity(self.present.size)} are {_times(factor)} times "
            f"{'above' if factor > 1 else 'below'} that, too near the interval to call them wrong."
        )


def growth(
    present: ModelState,
    factor: float,
    grown: float,
    interval: tuple[float, float],
    now: BestSize,
    then: BestSize,
    source: str,
    following: Configuration,
) -> str:
    """How the model should follow its data."""
    return (
        f"With x{factor:.3g} the data, {quantity(then.tokens)} instead of {quantity(now.tokens)} {present.unit}, the "
        f"{source} let the best model grow by x{grown:.2f} (90 % between x{interval[0]:.2f} and x{interval[1]:.2f}), "
        f"from {quantity(now.params)} to {quantity(then.params)} parameters, and the compute by "
        f"x{then.flops / now.flops:.3g}; this run has {quantity(present.size)}; "
        f"{_next(following.params, then.tokens, following, present.unit)}."
    )


def growth_unsure(factor: float, source: str) -> str:
    """How the model should follow its data is not known."""
    return (
        f"How a model should grow with x{factor:.3g} the data cannot be worked out from the {source}: the interval is "
        "too wide."
    )


def tuning(
    present: ModelState, best: float, tokens: float, gain: float, saved: float, runs: int, following: Configuration
) -> str:
    """Another base model would be better."""
    return (
        f"Among the sizes of the {runs} fine-tuned runs of the family, {quantity(best)} parameters tuned on "
        f"{quantity(tokens)} {present.unit} with the same compute would end {gain:.2g} lower than this run's "
        f"{quantity(present.size)}, or as low on {saved:.0%} less data; "
        f"{_next(best, tokens, following, present.unit)}."
    )


def tuning_fits(present: ModelState, runs: int) -> str:
    """No other base model is better for certain."""
    return (
        f"Among the sizes of the {runs} fine-tuned runs of the family none is surely better than this run's "
        f"{quantity(present.size)} parameters at the same compute."
    )


def tuning_growth(factor: float, here: float, there: float) -> str:
    """More data for fine-tuning."""
    return (
        f"With x{factor:.3g} the data this run would end at {there:.4g} instead of {here:.4g}; in fine-tuning size and "
        "data multiply, so the model need not grow with them."
    )
