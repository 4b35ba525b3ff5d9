"""Prior-predictive paths, used before enough losses have been observed."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray

from lightning_scaling._utils.stats import robust_std
from lightning_scaling.forecast.config import DEFAULT
from lightning_scaling.forecast.priors.base import ShapePrior, shape_parameters
from lightning_scaling.forecast.priors.config import PriorConfig
from lightning_scaling.runs.curve import Points
from lightning_scaling.schedule.progress import ANNEAL_RATES, Progress

# Nodes and weights of a normal distribution's third-order Gauss-Hermite rule.
_NODES = ((-math.sqrt(3), 1 / 6), (0.0, 2 / 3), (math.sqrt(3), 1 / 6))


@dataclass(frozen=True)
class ObservedLevel:
    """A level of the loss at a step, and the scale of its error, that a prior path goes through."""

    step: float
    level: float
    scale: float

    @classmethod
    def of(cls, points: Points, config: PriorConfig = DEFAULT.prior) -> ObservedLevel | None:
        """The level that the last few points show; ``None`` without a finite one."""
        finite = np.flatnonzero(np.isfinite(points.loss))[-config.level_points :]
        if not finite.size:
            return None
        loss = points.loss[finite]
        step, level = float(np.median(points.step[finite])), float(np.median(loss))
        return cls(step, level, max(robust_std(loss), config.min_level_error * abs(level)))


class PriorPath:
    """Curves of the shapes of a prior through one observed level, weighted by prior density.

    Args:
        progress: What the plan contributes.
        prior: Prior of the shape.
        anchor: Level that the curves go through.
        config: The tuned numbers.
    """

    def __init__(self, progress: Progress, prior: ShapePrior, anchor: ObservedLevel, config: PriorConfig) -> None:
        self._progress = progress
        self._anchor = anchor
        self._min_progress = config.min_progress
        self._speed = ANNEAL_RATES.index(config.anneal_rate)
        nodes = list(product(_NODES, repeat=3))
        self._weight = np.array([math.prod(weight for _, weight in node) for node in nodes])
        pairs = shape_parameters(prior)
        shape = np.array([[m * math.exp(s * x) for (x, _), (m, s) in zip(node, pairs, strict=True)] for node in nodes])
        self._alpha, self._kappa, slope = shape.T
        # The slope is relative to the level at the end: the curve is A * (1 + slope / alpha * f) with f zero there.
        self._slope = slope / self._alpha
        self._at_anchor = 1 + self._slope * self._f(np.array([anchor.step]))[:, 0]

    def _f(self, steps: NDArray[np.float64]) -> NDArray[np.float64]:
        """Shape of the curve above its end, ``(shapes, n)``."""
        log = np.log(np.maximum(self._progress.progress(steps), self._min_progress))
        gain = self._progress.annealing(steps)[self._speed]
        end = self._progress.annealing([self._progress.horizon])[self._speed]
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
