"""Allocations: the best use of a compute budget, and the cost of other uses."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lightning_scaling._utils.enums import StrEnum
from lightning_scaling._utils.formatting import count
from lightning_scaling._utils.validation import positive, probability
from lightning_scaling.allocation.choice import Choice, weigh
from lightning_scaling.allocation.comparison import Comparison
from lightning_scaling.allocation.solve import Bounds, Optimum, at_flops, point_values
from lightning_scaling.allocation.task import Task
from lightning_scaling.laws.results import Fit

Array = NDArray[np.float64]
Interval = tuple[float, float]


class Status(StrEnum):
    """What is known against an allocation, the least serious first."""

    OK = "ok"
    EXTRAPOLATED = "extrapolated"
    AT_BOUNDS = "at_bounds"
    UNCERTAIN = "uncertain"
    UNIDENTIFIED = "unidentified"
    CONTRADICTED = "contradicted"
    NO_OPTIMUM = "no_optimum"


_SHOWN_FACTORS = (1.5, 2.0, 3.0)


@dataclass(frozen=True)
class IsoflopCurve:
    """Loss against size at one budget.

    Attributes:
        flops: The budget.
        params: Sizes, shape ``(points,)``.
        tokens: Training tokens the budget leaves, same shape.
        loss: Loss, same shape; inf where it leaves none.
    """

    flops: float
    params: Array
    tokens: Array
    loss: Array


@dataclass(frozen=True)
class Alternative:
    """The optimum with other values of the inputs that were tried.

    Attributes:
        given: The values.
        params: Optimal size with them.
        tokens: Optimal tokens.
        flops: Budget.
        loss: Loss there.
    """

    given: Mapping[str, float]
    params: float
    tokens: float
    flops: float
    loss: float


@dataclass(frozen=True, eq=False, repr=False)
class Allocation:
    """The best use of a compute budget under a law.

    Attributes:
        params: Best size of the model, in the law's own count (`size` names it); nan without an optimum.
        tokens: Best number of training tokens, repeats included.
        flops: The budget: training, and inference where `inference_tokens` was given.
        loss: The loss there.
        exponent: ``d ln params / d ln flops`` along the optima, at this budget.
        status: ``"ok"``; ``"extrapolated"``: more than tenfold outside of what the law was fitted on;
            ``"at_bounds"``: the best size within the bounds given is one of their ends; ``"uncertain"``: the minima of
            the runs themselves lead to another size, though not beyond doubt; ``"unidentified"``: the fit does not
            determine its own parameters; ``"contradicted"``: the minima lead elsewhere beyond doubt (see `comparison`),
            so this must not be acted upon; ``"no_optimum"``: the loss has no minimum along the budget.
        message: What lies behind the status, and what else to know, in sentences.
        law: Name of the law.
        size: ``"params"`` or ``"active_params"``: what `params` counts.
        level: Probability of the intervals shown.
        extrapolation: Factor by which params or tokens lie outside of the range fitted on, 1 inside, nan if unknown.
        training_flops: The part of the budget spent on training.
        inference_tokens: Tokens to be processed after training.
        unique_tokens: Distinct training tokens there are, or None.
        given: Values of the law's other inputs; of those tried, the best.
        alternatives: The optimum for each combination of values tried, best first; empty when nothing was to choose.
        choice: What the choice asked about costs, where two of flops, params and tokens were given.
        comparison: The law's optimum against the minima of the runs, where there are enough of them.
    """

    params: float
    tokens: float
    flops: float
    loss: float
    exponent: float
    status: Status
    message: str
    law: str
    size: str
    level: float
    extrapolation: float
    training_flops: float
    inference_tokens: float
    unique_tokens: float | None
    given: Mapping[str, Any]
    alternatives: tuple[Alternative, ...]
    choice: Choice | None
    comparison: Comparison | None
    _fit: Fit = field(repr=False)
    _task: Task = field(repr=False)
    _draws: Optimum | None = field(repr=False)
    _bounds: Bounds = field(repr=False)
    _fixed: tuple[str, ...] = field(repr=False)

    @property
    def ok(self) -> bool:
        """Whether nothing speaks against acting on it."""
        return self.status == Status.OK

    @property
    def ratio(self) -> float:
        """Training tokens per parameter."""
        return self.tokens / self.params

    @property
    def epochs(self) -> float | None:
        """How often each distinct token is seen; None where their number was not given."""
        return None if self.unique_tokens is None else self.tokens / self.unique_tokens

    def intervals(self, level: float | None = None) -> dict[str, Interval | None]:
        """Intervals of what was estimated.

        For params, tokens, flops, ratio and exponent they come from the draws of the fit: they say how well its points
        determine the optimum if the law holds, and are widened to hold what the minima of the runs say, where there are
        such. For the loss: what a run there would show (:meth:`Fit.interval`). Published constants come without the
        correlations of their errors, so nothing is known of theirs.

        Args:
            level: Probability, between 0 and 1; left out, that of the allocation.

        Returns:
            Lower and upper end by name; both the same for what was given; None where it is unknown.

        Raises:
            ValueError: `level` is not between 0 and 1.
        """
        level = self.level if level is None else probability("level", level)
        result = {name: self._of_loss(level) if name == "loss" else self._of_draws(name, level) for name in _SHOWN}
        if self.comparison is not None and "flops" in self._fixed and math.isfinite(self.params):
            low, high = (self.params * end for end in self.comparison.shifts(level))
            budget = np.array([self.flops])
            most, fewest = (float(self._task.tokens_for(np.array([size]), budget)[0]) for size in (low, high))
            measured = {"params": (low, high), "tokens": (fewest, most), "ratio": (fewest / high, most / low)}
            for name, ends in measured.items():
                both = (*(result[name] or (float(getattr(self, name)),)), *ends)
                result[name] = min(both), max(both)
        return result

    def _of_draws(self, name: str, level: float) -> Interval | None:
        value = float(getattr(self, name))
        if name in self._fixed:
            return value, value
        if self._draws is None or not math.isfinite(value):
            return None
        drawn = {**vars(self._draws), "params": self._draws.size, "ratio": self._draws.tokens / self._draws.size}[name]
        if not len(values := drawn[~np.isnan(drawn)]):
            return None
        lower, upper = np.quantile(values, [(1 - level) / 2, (1 + level) / 2], method="inverted_cdf")
        return (float(lower), float(upper)) if upper > lower else None

    def _of_loss(self, level: float) -> Interval | None:
        if "loss" in self._fixed:
            return self.loss, self.loss
        if self._draws is None or not math.isfinite(self.loss):
            return None
        inputs = self._task.inputs(np.array([self.params]), np.array([self.tokens]))
        lower, upper = (float(np.ravel(end)[0]) for end in self._fit.interval(level, **inputs))
        return (lower, upper) if math.isfinite(lower) and math.isfinite(upper) and upper > lower else None

    def off_by(self, factor: float) -> Choice:
        """What it costs to spend the same budget on a model that is too big or too small.

        Args:
            factor: Size over the optimal size: 2 is twice too big, 0.5 half of it.

        Raises:
            ValueError: `factor` is not a positive number, or there is no optimum to be off from.
        """
        factor = positive("factor", factor)
        self._need_optimum()
        return weigh(self._task, point_values(self._fit.params), self.params * factor, self.flops, self._bounds)

    def isoflop(
        self, budgets: float | Sequence[float] | None = None, points: int = 61, span: float = 30.0
    ) -> list[IsoflopCurve]:
        """Curves of loss against size, one per budget, for figures.

        Args:
            budgets: Budgets in FLOPs; left out, this one.
            points: Sizes per curve.
            span: How far the curve reaches on either side of its optimum, as a factor.

        Raises:
            ValueError: A budget is not positive, there are fewer than 3 points, `span` is not above 1, or there is no
                optimum.
        """
        self._need_optimum()
        if points < 3 or not span > 1:
            raise ValueError(f"A curve needs at least 3 points and a span above 1, but got {points} and {span!r}.")
        wanted = [self.flops] if budgets is None else [positive("budgets", b) for b in np.ravel(np.asarray(budgets))]
        curves = []
        for budget in wanted:
            best = at_flops(self._task, point_values(self._fit.params), np.array([[budget]]), self._bounds)
            params = float(best.size[0]) * np.geomspace(1 / span, span, points)
            tokens = self._task.tokens_for(params, np.array(budget))
            loss = self._task.loss(self._fit.params, params, tokens)
            curves.append(IsoflopCurve(budget, params, np.maximum(tokens, 0.0), loss))
        return curves

    def _need_optimum(self) -> None:
        if self.status == Status.NO_OPTIMUM:
            raise ValueError(f"There is no optimum to start from: {self.message}")

    @property
    def misallocation(self) -> dict[float, Choice]:
        """The cost of being off by the factors 1.5, 2 and 3, too big."""
        return {factor: self.off_by(factor) for factor in _SHOWN_FACTORS}

    def summary(self) -> str:
        """A table for people."""
        lines = [f"Allocation under {self.law}: {self.status.replace('_', ' ')}"]
        if self.status != Status.NO_OPTIMUM:
            lines.append(f"{'':22}{'best':>10}   {self.level:.0%} interval")
            lines += [f"{name:22}{value:>10}   {ends}" for name, value, ends in allocation_rows(self)]
        return "\n".join([*lines, *remarks(self)])

    def __repr__(self) -> str:
        return (
            f"Allocation({self.law}, flops={self.flops:.3g}: params={count(self.params)}, tokens={count(self.tokens)}, "
            f"loss={self.loss:.4f}; {self.status.replace('_', ' ')})"
        )

    def _repr_html_(self) -> str:
        return f"<pre>{escape(self.summary())}</pre>"

    def to_dict(self) -> dict[str, Any]:
        """The allocation as builtins.

        Keys: the attributes ``params``, ``tokens``, ``flops``, ``loss``, ``ratio``, ``epochs``, ``exponent``,
        ``training_flops``, ``inference_tokens``, ``unique_tokens``, ``extrapolation``, ``status``, ``message``,
        ``law``, ``size`` and ``level``; ``intervals`` (ends or None by name, see :meth:`intervals`); ``given`` (other
        inputs of the law); ``alternatives`` (one dict per value tried); ``choice`` and ``comparison`` (dicts or None);
        ``off_by`` (a choice by factor).
        """
        off = {} if self.status == Status.NO_OPTIMUM else self.misallocation
        return {name: value for name, value in vars(self).items() if not name.startswith("_")} | {
            "ratio": self.ratio,
            "epochs": self.epochs,
            "status": self.status.value,
            "intervals": {name: list(ends) if ends else None for name, ends in self.intervals().items()},
            "given": {name: value for name, value in self.given.items() if isinstance(value, int | float)},
            "alternatives": [vars(a) | {"given": dict(a.given)} for a in self.alternatives],
            "choice": self.choice.to_dict() if self.choice else None,
            "off_by": {f"{factor:g}": choice.to_dict() for factor, choice in off.items()},
            "comparison": self.comparison.to_dict() if self.comparison else None,
        }


_PLAIN = "{:.3g}".format
_SHOWN: Mapping[str, Callable[[float], str]] = {
    "params": count,
    "tokens": count,
    "flops": _PLAIN,
    "loss": "{:.4f}".format,
    "ratio": _PLAIN,
    "exponent": _PLAIN,
}
_TITLES = {"ratio": "tokens per parameter", "exponent": "exponent of size"}


def _waste(off: tuple[float, Choice]) -> str:
    factor, choice = off
    known = math.isfinite(choice.extra_compute)
    return f"x{factor:g}: {choice.extra_compute:.0%}" if known else f"x{factor:g}: it leaves no tokens"


def allocation_rows(found: Allocation) -> list[tuple[str, str, str]]:
    """Name, value and interval of everything an allocation says, as text."""
    intervals = found.intervals()
    fixed = {name for name, ends in intervals.items() if ends is not None and ends[0] == ends[1]}
    rows = []
    for name, show in _SHOWN.items():
        ends = intervals[name]
        title = "active params" if name == "params" and found.size == "active_params" else _TITLES.get(name, name)
        note = "unknown" if ends is None else "given" if name in fixed else f"{show(ends[0])} to {show(ends[1])}"
        rows.append((title, show(getattr(found, name)), note))
    if found.epochs is not None:
        rows.append(("epochs", f"{found.epochs:.3g}", f"of {count(found.unique_tokens or math.nan)} distinct tokens"))
    if found.inference_tokens:
        share = 1.0 - found.training_flops / found.flops
        rows.append(("inference", count(found.inference_tokens), f"tokens, {share:.0%} of the budget"))
    for name, value in found.given.items():
        tried = len({other.given.get(name) for other in found.alternatives})
        note = f"best of {tried}" if tried > 1 else "given"
        rows.append((name, f"{value:g}" if isinstance(value, int | float) else "a function", note))
    return rows


def remarks(found: Allocation) -> list[str]:
    """What being off costs, the choice, the alternatives, and what to know: a line each."""
    lines = []
    if found.status != Status.NO_OPTIMUM:
        lines.append(f"Compute wasted by a model too big by {', '.join(map(_waste, found.misallocation.items()))}")
        if found.choice is not None:
            lines.append(f"The choice: {found.choice}.")
        for other in found.alternatives[1:]:
            values = ", ".join(f"{name} {value:g}" for name, value in other.given.items())
            lines.append(
                f"Instead with {values}: {count(other.params)} on {count(other.tokens)} tokens, "
                f"{other.flops:.3g} FLOPs, loss {other.loss:.4f}"
            )
    return [*lines, found.message] if found.message else lines
