"""Contributions of the plan to the loss: progress made by the rate, and the gain of its fall."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lightning_scaling.schedule.plan import Plan

Array = NDArray[np.float64]

ANNEAL_RATES = (0.003, 0.01, 0.03, 0.1)
"""Speeds ``C`` at which a fall of the rate takes effect, per step at the peak rate (Luo et al. 2025 fit 0.11)."""

_GRID = 320
_QUANTA = 160
_FLOOR = 1e-3
_DECAY_AHEAD = 0.1
_DECAY_SEEN = 0.15
_DECAY_HELD = 0.15
_DECAY_SHOWS = 0.03


class Progress:
    r"""Progress and annealing of a plan, on a grid of steps; rates are relative to the peak, so no unit is involved.

    Progress is ``P(s) = sum_{i<=s} r_i ** q`` with ``r`` the rate over its peak. The gain of annealing follows the form
    of the Multi-Power Law (Luo et al. 2025, arXiv 2503.12811, section 3):
    ``LD_C(s) = sum_k (r_{k-1} - r_k) * G(r_k ** -gamma * S_k(s))``, ``G(x) = 1 - (1 + C x) ** -beta``,
    ``S_k(s) = sum_{i=k..s} r_i``. Rises of the rate after the warm-up count negative; the warm-up does not count.

    Args:
        plan: What the run intends to do.
        horizon: Step at which the forecasts end; progress is relative to its value there.
        power: The exponent ``q`` of progress.
        beta: The exponent of ``G`` (Luo et al. 2025 fit .58 to .60).
        gamma: How much a low rate slows the effect of its fall (Luo et al. 2025 fit .64 to .66 in absolute rates).
        unit: Measure by another plan: its peak rate, its warm-up and its whole progress are the units, and ``q``,
            ``beta`` and ``gamma`` its own. Progress may then exceed 1.
    """

    def __init__(
        self,
        plan: Plan,
        horizon: float,
        *,
        power: float = 0.75,
        beta: float = 0.59,
        gamma: float = 1.0,
        unit: Progress | None = None,
    ) -> None:
        self.plan = plan
        self.horizon = float(horizon)
        self._arguments = (power, beta, gamma, unit)
        self._unit: tuple[float, float, float, float, float] = (
            (plan.peak, plan.warmup_end, power, beta, gamma) if unit is None else unit._unit
        )
        peak, warmup_end, power, beta, gamma = self._unit
        knots = plan.steps[(plan.steps > 0) & (plan.steps < horizon)]
        if knots.size > _GRID:
            knots = knots[np.linspace(0, knots.size - 1, _GRID).astype(int)]
        grid = np.unique(
            np.concatenate([[0.0], np.linspace(0, horizon, _GRID + 1), np.geomspace(1, max(horizon, 2), 100), knots])
        )
        self._grid = grid[grid <= horizon]
        rate = plan.at(self._grid) / peak if peak > 0 else np.ones_like(self._grid)
        self._progress = _integral(self._grid, rate**power)
        self._beta = beta
        self._distance, self._size = self._falls(rate, warmup_end, gamma)
        self._annealing = np.stack([self._gain(c) for c in ANNEAL_RATES])
        reach = float(np.interp(horizon, self._grid, self._progress))
        self._whole: float = reach if unit is None else unit._whole
        self._progress /= max(self._whole, 1e-300)
        self._rate = rate

    def __reduce__(self) -> tuple[Any, ...]:
        return (_rebuilt, (self.plan, self.horizon, *self._arguments))

    def _falls(self, rate: Array, warmup_end: float, gamma: float) -> tuple[Array, Array]:
        grid = self._grid
        plain = _integral(grid, rate)
        falls = -np.diff(rate)
        falls[grid[1:] <= warmup_end] = 0.0
        moved = np.flatnonzero(np.abs(falls) > 1e-9)
        self.travel = np.concatenate([[0.0], np.cumsum(np.maximum(falls, 0.0))])
        if moved.size == 0:
            return np.zeros((grid.size, 1)), np.zeros(1)
        # Neighbouring falls are merged into quanta of equal travel: a cosine needs no more than ~160 of them.
        order = np.cumsum(np.abs(falls[moved]))
        group = np.minimum((order / order[-1] * _QUANTA).astype(int), _QUANTA - 1)
        weight = np.bincount(group, np.abs(falls[moved])) + 1e-300
        size = np.bincount(group, falls[moved])
        middle = (plain[moved] + plain[moved + 1]) / 2
        level = np.maximum((rate[moved] + rate[moved + 1]) / 2, _FLOOR)
        at = np.bincount(group, np.abs(falls[moved]) * middle) / weight
        slow = np.bincount(group, np.abs(falls[moved]) * level) / weight
        used = size != 0
        at, slow, size = at[used], np.maximum(slow[used], _FLOOR), size[used]
        return np.maximum(plain[:, None] - at, 0.0) * slow**-gamma, size

    def _gain(self, speed: float) -> NDArray[np.float64]:
        return np.asarray((1 - (1 + speed * self._distance) ** -self._beta) @ self._size)

    def progress(self, step: ArrayLike) -> NDArray[np.float64]:
        """Progress up to a step over progress up to the horizon, in ``(0, 1]``, shape of ``step``."""
        value = np.interp(np.asarray(step, dtype=np.float64), self._grid, self._progress)
        return np.asarray(np.maximum(value, 1e-12))

    def annealing(self, step: ArrayLike) -> NDArray[np.float64]:
        """``LD_C`` at steps of shape ``(n,)`` for every ``C`` of :data:`ANNEAL_RATES`, shape ``(4, n)``."""
        at = np.asarray(step, dtype=np.float64)
        return np.stack([np.interp(at, self._grid, row) for row in self._annealing])

    def anneal(self, step: ArrayLike, speed: float) -> NDArray[np.float64]:
        """``LD_C`` at steps of any shape for one ``C``, of the shape of ``step``."""
        return np.interp(np.asarray(step, dtype=np.float64), self._grid, self._gain(speed))

    def fallen(self, step: float) -> float:
        """How much of the peak rate has been given up on the way to a step, summed over all falls."""
        return float(np.interp(step, self._grid, self.travel))

    def reaches(self, travel: float) -> float:
        """The last step by which the rate has fallen by no more than ``travel`` of its peak."""
        return float(self._grid[int(np.searchsorted(self.travel, travel, side="right")) - 1])

    def rate(self, step: float) -> float:
        """Planned rate at a step over the peak rate."""
        return float(np.interp(step, self._grid, self._rate))

    def unseen(self, step: float) -> bool:
        """Whether most of a fall of the rate has yet to show in the losses: its gain is then not known of this run."""
        shown = self.fallen(step - _DECAY_SHOWS * self.horizon)
        return self.fallen(self.horizon) - shown > _DECAY_AHEAD and shown < _DECAY_SEEN

    def tells_up_to(self, step: float) -> float:
        """The last step of which what has shown by a step tells: soon after a fall that has yet to show begins."""
        if not self.unseen(step):
            return self.horizon
        shown = self.fallen(step - _DECAY_SHOWS * self.horizon)
        return max(self.reaches(shown + _DECAY_HELD), float(step))


def _rebuilt(plan: Plan, horizon: float, power: float, beta: float, gamma: float, unit: Progress | None) -> Progress:
    """Pickles hold the arguments alone: the grid is much larger than the plan."""
    return Progress(plan, horizon, power=power, beta=beta, gamma=gamma, unit=unit)


def _integral(grid: NDArray[np.float64], rate: NDArray[np.float64]) -> NDArray[np.float64]:
    total = np.concatenate([[0.0], np.cumsum(np.diff(grid) * (rate[1:] + rate[:-1]) / 2)])
    return np.asarray(total + rate[0])
