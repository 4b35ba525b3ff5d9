"""Tradeoff of size against data from finished runs, by two approaches combined."""

from __future__ import annotations

import contextlib
import math
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lightning_scaling._utils.formatting import count
from lightning_scaling._utils.validation import positive, probability
from lightning_scaling.allocation.checks import columns
from lightning_scaling.allocation.comparison import NEAR
from lightning_scaling.allocation.drifting_power_law import normal_quantile
from lightning_scaling.allocation.frontier import Frontier, fit_frontier
from lightning_scaling.allocation.isoflop import IsoflopMinima, MinimaStatus, isoflop_minima
from lightning_scaling.allocation.root_finding import minimum, root
from lightning_scaling.allocation.task import INFERENCE_SHARE
from lightning_scaling.laws.catalogue.dense.data_constrained import DataConstrained

Array = NDArray[np.float64]

FEWEST_RUNS, FEWEST_SIZES = 6, 3
_SAME_SIZE = 1.05
_LEVEL = 0.9
_SEARCHED = math.log(1e3)
REPEAT_DECAY = float(DataConstrained.published_constants[0].values["R_D_star"])
"""Repeats of a token after which a further one is worth 1/e of a new one (Muennighoff et al. 2023)."""


class NoTradeoffError(ValueError):
    """The runs, or the budget, leave no best size, with the reason."""


@dataclass(frozen=True)
class BestSize:
    """The best use of a budget.

    Attributes:
        flops: The budget, training and inference together.
        params: Size with the least loss.
        tokens: Training tokens that the budget leaves it.
        loss: Loss there.
        sd: Standard deviation of ln params.
        exponent: d ln params / d ln flops.
        exponent_sd: Its standard deviation.
    """

    flops: float
    params: float
    tokens: float
    loss: float
    sd: float
    exponent: float
    exponent_sd: float

    def interval(self, level: float = _LEVEL) -> tuple[float, float]:
        """Interval of the size."""
        half = normal_quantile(probability("level", level)) * self.sd
        return self.params * math.exp(-half), self.params * math.exp(half)

    def to_dict(self) -> dict[str, Any]:
        """The result as builtins, with the 90 % interval of the size."""
        return {**vars(self), "interval": list(self.interval())}


@dataclass(frozen=True, eq=False)
class Tradeoff:
    """Size against data as runs show it.

    Two estimates of the best size of a budget are joined: the frontier of all runs
    (:class:`~lightning_scaling.allocation.frontier.Frontier`), and the minima of those that share budgets
    (:func:`~lightning_scaling.allocation.isoflop_minima`), where at least one shows a minimum. Each is weighted by its
    inverse variance; the interval holds both their errors and their disagreement.

    Attributes:
        frontier: The first estimate.
        minima: The second, ``None`` where the runs share no budget that shows a minimum.
        runs: How many runs it rests on.
        sizes: Smallest and largest size among them.
        flops: Smallest and largest compute.
        scatter: Median relative distance of the losses from what it says of their sizes and data; below .01 in every
            published ladder looked at.
    """

    frontier: Frontier
    minima: IsoflopMinima | None
    runs: int
    sizes: tuple[float, float]
    flops: tuple[float, float]
    scatter: float
    _per_token: tuple[float, float] = field(repr=False)

    def log_size(self, log_flops: ArrayLike) -> tuple[Array, Array]:
        """Mean and standard deviation of the logarithm of the best size, of the shape of `log_flops`."""
        at = np.asarray(log_flops, dtype=np.float64)
        first, first_sd = self.frontier.log_size(at)
        if self.minima is None:
            return first, first_sd
        second, second_sd = self.minima.log_size(at)
        share = second_sd**-2 / (first_sd**-2 + second_sd**-2)
        mean = (1 - share) * first + share * second
        spread = (1 - share) * (first_sd**2 + (first - mean) ** 2) + share * (second_sd**2 + (second - mean) ** 2)
        return mean, np.sqrt(spread)

    def exponent(self, log_flops: float) -> tuple[float, float]:
        """Mean and standard deviation of d ln params / d ln flops."""
        step = 0.05
        mean = float(np.diff(self.log_size([log_flops - step, log_flops + step])[0])[0]) / (2 * step)
        spread = self.frontier.exponent(log_flops)[1]
        if self.minima is not None:
            lower, upper = self.minima.exponent_interval(_LEVEL)
            spread = max(min(spread, (upper - lower) / 2 / normal_quantile(_LEVEL)), abs(mean - self.minima.exponent))
        return mean, spread

    def per_token(self, params: ArrayLike) -> Array:
        """Training FLOPs per token of sizes, as the runs count them."""
        constant, slope = self._per_token
        return np.exp(constant + slope * np.log(np.asarray(params, dtype=np.float64)))

    def loss(self, params: ArrayLike, tokens: ArrayLike) -> Array:
        """Loss of sizes trained on tokens."""
        size = np.asarray(params, dtype=np.float64)
        flops = np.log(self.per_token(size) * np.asarray(tokens, dtype=np.float64))
        off = np.log(size) - self.log_size(flops)[0]
        return np.asarray(self.frontier.level(flops) * (1 + self.frontier.excess(off, flops)))

    def best(self, flops: float, inference_tokens: float = 0.0, unique_tokens: float | None = None) -> BestSize:
        """The best use of a budget.

        Args:
            flops: The budget, training and inference together.
            inference_tokens: Tokens to be processed after training, each at a third of the training cost (Sardana et
                al. 2024, arXiv 2401.00448, equation 3).
            unique_tokens: Distinct training tokens there are: repeats count as :func:`effective_tokens` says.

        Raises:
            ValueError: An argument is not positive.
            NoTradeoffError: Inference leaves nothing for training.
        """
        budget = positive("flops", flops)
        later = positive("inference_tokens", inference_tokens, zero=True)
        mean, sd = (float(value) for value in self.log_size(math.log(budget)))
        exponent, exponent_sd = self.exponent(math.log(budget))
        size = math.exp(mean)
        if later or unique_tokens is not None:
            size = self._searched(mean, budget, later, unique_tokens)
        tokens = budget / float(self.per_token(size)) - INFERENCE_SHARE * later
        loss = float(self.loss(size, effective_tokens(tokens, unique_tokens)))
        return BestSize(budget, size, tokens, loss, sd, exponent, exponent_sd)

    def _searched(self, centre: float, budget: float, later: float, unique_tokens: float | None) -> float:
        """The best size where inference or repeats pull it away from that of training alone."""

        def left(log_size: Array) -> Array:
            return np.asarray(budget / self.per_token(np.exp(log_size)) - INFERENCE_SHARE * later)

        def loss(log_size: Array) -> Array:
            tokens = left(log_size)
            seen = effective_tokens(np.maximum(tokens, 1.0), unique_tokens)
            return np.where(tokens > 0, self.loss(np.exp(log_size), seen), np.inf)

        low, high = centre - _SEARCHED, centre + _SEARCHED / 3
        if not left(np.array(low)) > 0:
            raise NoTradeoffError(f"{count(later)} inference tokens leave nothing of {budget:.3g} FLOPs for training.")
        return math.exp(float(minimum(loss, low, high).x[0]))

    def best_for(self, tokens: float) -> BestSize:
        """The size, and so the budget, for which given tokens are the best amount of data.

        Args:
            tokens: The training tokens.

        Raises:
            ValueError: `tokens` is not positive.
            NoTradeoffError: No size is the best for them.
        """
        wanted = math.log(positive("tokens", tokens))
        low, high = math.log(self.sizes[0]) - _SEARCHED, math.log(self.sizes[1]) + _SEARCHED

        def too_big(log_size: Array) -> Array:
            return np.asarray(log_size - self.log_size(np.log(self.per_token(np.exp(log_size))) + wanted)[0])

        found = root(too_big, low, high)
        if found.edge[0]:
            raise NoTradeoffError(
                f"The runs show no size for which {count(tokens)} tokens are the best amount of data."
            )
        size = math.exp(float(found.x[0]))
        return self.best(float(self.per_token(size)) * tokens)

    def agreement(self, flops: float) -> tuple[bool, str]:
        """Whether the two estimates agree at a budget, and what they are in a sentence.

        They contradict each other when they lie more than a factor 1.5 apart and their 90 % intervals do not overlap.
        """
        if self.minima is None:
            return True, "The runs share no budgets, so that nothing can be compared with the frontier."
        estimates = (each.log_size(math.log(flops)) for each in (self.frontier, self.minima))
        (first, first_sd), (second, second_sd) = ((float(mean), float(sd)) for mean, sd in estimates)
        apart = abs(first - second)
        agree = apart <= math.log(NEAR) or apart <= normal_quantile(_LEVEL) * (first_sd + second_sd)
        said = (
            f"at {flops:.3g} FLOPs the frontier of the runs puts the best size at {count(math.exp(first))} "
            f"parameters, the minima at equal compute at {count(math.exp(second))}"
        )
        return agree, said


def effective_tokens(tokens: ArrayLike, unique_tokens: float | None) -> Array:
    """Number of new tokens with the same effect as tokens with repeats.

    ``U + U R (1 - exp(-(tokens/U - 1)/R))`` with ``R`` 15.39:
    Muennighoff et al. 2023 (arXiv 2305.16264), equation 5; that their law devalues parameters too is left out.

    Args:
        tokens: Tokens seen in training.
        unique_tokens: Distinct ones there are, ``U``; ``None`` for no limit.
    """
    seen = np.asarray(tokens, dtype=np.float64)
    if unique_tokens is None:
        return seen
    repeats = np.maximum(seen / unique_tokens - 1, 0.0)
    return np.where(repeats > 0, unique_tokens * (1 + REPEAT_DECAY * -np.expm1(-repeats / REPEAT_DECAY)), seen)


def fit_tradeoff(params: Any, tokens: Any, loss: Any, *, flops: Any = None, error: Any = None) -> Tradeoff:
    """Work out from finished runs how size and data are best balanced.

    Args:
        params: Size of each run, shape ``(n,)``.
        tokens: Its training tokens, shape ``(n,)``.
        loss: Its final loss, shape ``(n,)``.
        flops: Its training compute; left out, ``6 * params * tokens``.
        error: Relative error of each loss beyond the noise that all share; left out, none.

    Returns:
        The tradeoff.

    Raises:
        ValueError: A column is not of numbers, or lengths differ.
        NoTradeoffError: A number is not positive and finite, or the runs are too few or too similar to determine a best
            size, with the reason. It is a ValueError.
    """
    table = columns(params=params, tokens=tokens, loss=loss)
    if flops is not None:
        table |= columns(params=params, flops=flops)
    for name, values in table.items():
        if not np.all(np.isfinite(values) & (values > 0)):
            raise NoTradeoffError(f"`{name}` must be positive and finite in every run; leave the others out.")
    size, data, y = table["params"], table["tokens"], table["loss"]
    compute = table.get("flops", 6 * size * data)
    # Sizes within 5 % of each other count once.
    distinct = 1 + int(np.sum(np.diff(np.sort(np.log(size))) > math.log(_SAME_SIZE)))
    if distinct == 1:
        raise NoTradeoffError(f"All {len(y)} runs have about one size, and one size cannot show which is best.")
    if distinct < FEWEST_SIZES or len(y) < FEWEST_RUNS:
        raise NoTradeoffError(
            f"There are {len(y)} runs of {distinct} sizes; at least {FEWEST_RUNS} runs of {FEWEST_SIZES} sizes are "
            "needed to determine which size is best."
        )
    minima = None
    with contextlib.suppress(ValueError):  # no budget is shared by three sizes
        minima = isoflop_minima(size, y, flops=compute)
    if minima is not None and minima.status == MinimaStatus.NO_MINIMUM:
        minima = None
    error = None if error is None else np.broadcast_to(np.asarray(error, float), y.shape)
    frontier = fit_frontier(np.log(size), np.log(compute), y, error)
    slope, constant = np.polyfit(np.log(size), np.log(compute / data), 1)
    sizes, budgets = ((float(values.min()), float(values.max())) for values in (size, compute))
    made = Tradeoff(frontier, minima, len(y), sizes, budgets, 0.0, (float(constant), float(slope)))
    return replace(made, scatter=float(np.median(np.abs(np.log(made.loss(size, compute / made.per_token(size)) / y)))))
