"""The plan of a run: total steps, and the learning rate of every step."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

_WARMUP_LEVEL = 0.99
_SAME_RATE = 1e-3  # of the peak: simulations from other steps differ by less, and no loss shows it
# equally spaced parts of a run at which two schedules are compared
_PROFILE = np.linspace(0.01, 1.0, 50)


@dataclass(frozen=True, init=False)
class Plan:
    """Learning rate of every step of a run, piecewise linear between knots.

    Args:
        steps: Optimizer steps of the knots, shape ``(k,)``, strictly increasing, each at least 0. Step ``s`` is the
            ``s``-th update of the run.
        lr: Learning rate used for those updates, shape ``(k,)``, finite and not negative.
        total_steps: Optimizer steps the run intends to make; ``None`` when it has no known end.
        known: Whether the rates after the present are known. ``False`` means "constant from here, unknown".
        why: One sentence saying why ``known`` is ``False`` or ``total_steps`` is ``None``; empty when all is known.
        source: Where the plan came from, for the record: ``"recorded"``, ``"scheduler"``, ``"constant"``.

    Raises:
        ValueError: If the knots are not a valid schedule.

    Example:
        >>> plan = Plan([1, 100, 1000], [0.0, 3e-4, 3e-5], total_steps=1000)
        >>> float(plan.at(550))
        0.000165
    """

    steps: NDArray[np.float64]
    lr: NDArray[np.float64]
    total_steps: int | None
    known: bool
    why: str
    source: str

    def __init__(
        self,
        steps: ArrayLike,
        lr: ArrayLike,
        *,
        total_steps: int | None = None,
        known: bool = True,
        why: str = "",
        source: str = "recorded",
    ) -> None:
        knots = np.atleast_1d(np.asarray(steps, dtype=np.float64)).copy()
        rates = np.atleast_1d(np.asarray(lr, dtype=np.float64)).copy()
        if knots.ndim != 1 or knots.shape != rates.shape or knots.size == 0:
            wanted = "A plan needs `steps` and `lr` of one equal length of at least 1"
            raise ValueError(f"{wanted}, but got shapes {knots.shape} and {rates.shape}.")
        if not np.all(np.isfinite(knots)) or np.any(knots < 0) or np.any(np.diff(knots) <= 0):
            raise ValueError("The `steps` of a plan must be finite, not negative and strictly increasing.")
        if not np.all(np.isfinite(rates)) or np.any(rates < 0):
            raise ValueError("The `lr` of a plan must be finite and not negative.")
        if total_steps is not None and total_steps < 1:
            raise ValueError(f"`total_steps` must be at least 1 or None, but got {total_steps}.")
        knots.flags.writeable = rates.flags.writeable = False
        total_steps = None if total_steps is None else int(total_steps)
        self.__dict__.update(steps=knots, lr=rates, total_steps=total_steps, known=known, why=why, source=source)

    @classmethod
    def constant(cls, lr: float = 1.0, total_steps: int | None = None, *, known: bool = True, why: str = "") -> Plan:
        """A constant rate; its unit does not matter, as the schedule-aware laws use rates relative to the peak."""
        return cls([1], [lr], total_steps=total_steps, known=known, why=why, source="constant")

    def at(self, step: ArrayLike) -> NDArray[np.float64]:
        """Learning rate used for the given steps (any shape); constant before the first and after the last knot."""
        return np.interp(np.asarray(step, dtype=np.float64), self.steps, self.lr)

    @property
    def peak(self) -> float:
        """The highest learning rate of the plan."""
        return float(self.lr.max())

    @property
    def warmup_end(self) -> int:
        """The first step at 99 % of the peak rate when the plan starts lower than that, else 0."""
        reached = np.flatnonzero(self.lr >= _WARMUP_LEVEL * self.peak)
        first = int(reached[0])
        if first == 0:
            return 0
        below, above = self.lr[first - 1], self.lr[first]
        share = (_WARMUP_LEVEL * self.peak - below) / max(above - below, 1e-300)
        return int(np.ceil(self.steps[first - 1] + share * (self.steps[first] - self.steps[first - 1])))

    @property
    def profile(self) -> NDArray[np.float64]:
        """Rate over the peak at 50 equally spaced parts of the run, shape ``(50,)``; ``nan`` where not known."""
        if not self.known or self.total_steps is None or not self.peak > 0:
            return np.full(_PROFILE.size, np.nan)
        return self.at(_PROFILE * self.total_steps) / self.peak

    def profile_distance(self, other: Plan) -> float:
        """Root mean square difference of two profiles; ``nan`` where one is not known."""
        return float(np.sqrt(np.mean((self.profile - other.profile) ** 2)))

    def agrees_with(self, other: Plan, *, after: int) -> bool:
        """Whether two plans say the same of the steps after one, up to a thousandth of the peak rate."""
        if (self.total_steps, self.known) != (other.total_steps, other.known):
            return False
        knots = np.union1d(self.steps, other.steps)
        knots = np.append(knots[knots > after], after + 1)
        return bool(np.all(np.abs(self.at(knots) - other.at(knots)) <= _SAME_RATE * max(self.peak, other.peak)))

    def then(self, future: Plan, step: int) -> Plan:
        """This plan up to a step and another one after it; the other one alone if it covers the past itself."""
        if future.steps[0] <= 1 or future.source == "constant":
            return future
        old, new = self.steps <= step, future.steps > step
        if not old.any() or not new.any():
            return future
        steps = np.concatenate([self.steps[old], future.steps[new]])
        return Plan(**{**vars(future), "steps": steps, "lr": np.concatenate([self.lr[old], future.lr[new]])})

    def to_dict(self) -> dict[str, Any]:
        """The plan as builtins, for checkpoints and journals."""
        return {**vars(self), "steps": self.steps.tolist(), "lr": self.lr.tolist()}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Plan:
        """The plan that :meth:`to_dict` described."""
        return cls(**data)
