"""Cost of a choice of size against the optimum of the same budget."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from lightning_scaling._utils.formatting import count
from lightning_scaling.allocation.solve import Bounds, Values, at_flops, cheapest_flops
from lightning_scaling.allocation.task import Task


@dataclass(frozen=True)
class Choice:
    """A way of spending a budget, held against the best one for the same budget.

    Attributes:
        params: Size of the model.
        tokens: Training tokens; 0 where the budget leaves none for a model of this size.
        flops: Budget, training and inference together.
        loss: Loss there; inf without tokens.
        factor: Size over the optimal size.
        loss_given_up: Loss above that of the optimum, in the unit of the loss.
        equivalent_flops: The smaller budget that reaches the same loss when it is spent at its own optimum; 0 where
            every budget does better.
        extra_compute: Budget over that smaller one, minus one: 0.19 means 19 % more compute than that loss needs.
    """

    params: float
    tokens: float
    flops: float
    loss: float
    factor: float
    loss_given_up: float
    equivalent_flops: float
    extra_compute: float

    def __str__(self) -> str:
        if not math.isfinite(self.loss):
            return f"{count(self.params)} parameters leave no training tokens within {self.flops:.3g} FLOPs"
        off = f"x{self.factor:.3g}" if self.factor >= 1 else f"x1/{1 / self.factor:.3g}"
        return (
            f"{count(self.params)} parameters on {count(self.tokens)} tokens ({off} the optimal size): loss "
            f"{self.loss:.4f}, {self.loss_given_up:.2g} above the optimum, at {self.extra_compute:.0%} more compute "
            "than that loss needs"
        )

    def to_dict(self) -> dict[str, float]:
        """The choice as builtins."""
        return dict(vars(self))


def weigh(task: Task, values: Values, params: float, flops: float, bounds: Bounds) -> Choice:
    """What a model of a given size costs against the best one for the same budget.

    Args:
        task: The law and its costs.
        values: The estimates, each of shape ``(1, 1)``.
        params: The size.
        flops: The budget, training and inference together.
        bounds: Sizes between which the best one is searched.
    """
    best = at_flops(task, values, np.array([[flops]]), bounds)
    size, budget = np.array([params]), np.array([flops])
    tokens = task.tokens_for(size, budget)
    loss = float(task.loss(values, size, tokens).ravel()[0])
    needed = 0.0
    if math.isfinite(loss):
        needed = min(cheapest_flops(task, values, max(loss, float(best.loss[0])), bounds, flops), flops)
    return Choice(
        params=params,
        tokens=max(float(tokens[0]), 0.0),
        flops=flops,
        loss=loss,
        factor=params / float(best.size[0]),
        loss_given_up=loss - float(best.loss[0]),
        equivalent_flops=needed,
        extra_compute=flops / needed - 1.0 if needed > 0 else math.inf,
    )
