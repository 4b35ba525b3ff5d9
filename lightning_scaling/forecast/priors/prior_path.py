"""A path from beliefs alone: for a run that has shown a level, or nothing at all."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray

from lightning_scaling.forecast.priors.base import ShapePrior
from lightning_scaling.runs.curve import Points
from lightning_scaling.schedule.progress import ANNEAL_RATES, Progress

# Nodes and weights of a normal distribution's third-order Gauss-Hermite rule.
_NODES = ((-math.sqrt(3), 1 / 6), (0.0, 2 / 3), (math.sqrt(3), 1 / 6))
_SPEED = ANNEAL_RATES.index(0.01)
_EARLIEST = 0.02
_LAST = 5
_UNSURE = 0.02


@dataclass(frozen=True)
class ObservedLevel:
    """What a presumed path goes through: a level of the loss, at a step, and the scale of its error."""

    step: float
    level: float
    scale: float

    @classmethod
    def of(cls, points: Points) -> ObservedLevel | None:
        """The level that the last few points show; ``None`` without a finite one."""
        finite = np.flatnonzero(np.isfinite(points.loss))[-_LAST:]
        if not finite.size:
            return None
        loss = points.loss[finite]
        level = float(np.median(loss))
        spread = 1.4826 * float(np.median(np.abs(loss - level)))
        return cls(float(np.median(points.step[finite])), level, max(spread, _UNSURE * abs(level)))


class PriorPath:
    """Curves of all the shapes a prior believes in, through one anchor, weighted by that belief.

    Args:
        progress: What the plan contributes.
        prior: Beliefs about the shape.
        anchor: Where the curves go through.
    """

    def __init__(self, progress: Progress, prior: ShapePrior, anchor: ObservedLevel) -> None:
        self._progress = progress
        self._anchor = anchor
        spreads = (prior.alpha_spread, prior.kappa_spread, prior.slope_spread)
        medians = (prior.alpha, prior.kappa, prior.slope)
        nodes = list(product(_NODES, repeat=3))
        self._weight = np.array([math.prod(weight for _, weight in node) for node in nodes])
        shape = np.array(
            [[m * math.exp(s * x) for (x, _), m, s in zip(node, medians, spreads, strict=True)] for node in nodes]
        )
        self._alpha, self._kappa, slope = shape.T
        # The slope is relative to the level at the end: the curve is A * (1 + slope / alpha * f) with f zero there.
        self._slope = slope / self._alpha
        self._at_anchor = 1 + self._slope * self._f(np.array([anchor.step]))[:, 0]

    def _f(self, steps: NDArray[np.float64]) -> NDArray[np.float64]:
        """Shape of the curve above its end, ``(shapes, n)``."""
        log = np.log(np.maximum(self._progress.progress(steps), _EARLIEST))
        gain = self._progress.annealing(steps)[_SPEED]
        end = self._progress.annealing([self._progress.horizon])[_SPEED]
        share = (self._kappa * self._alpha)[:, None]
        above: NDArray[np.float64] = np.exp(-self._alpha[:, None] * log) - 1 + share * (end - gain)
        return above

    def __call__(self, steps: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Medians and scales at the given steps."""
        share = (1 + self._slope[:, None] * self._f(steps)) / self._at_anchor[:, None]
        mean = self._weight @ share
        spread = np.sqrt(self._weight @ (share - mean) ** 2)
        level = abs(self._anchor.level)
        return self._anchor.level * mean, np.hypot(level * spread, self._anchor.scale)
