"""Simulation of copies of schedulers ahead of a run."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from time import perf_counter
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from lightning_scaling.schedule.clock import EpochGrid, ticks
from lightning_scaling.schedule.jump import rate_after
from lightning_scaling.schedule.knots import thin
from lightning_scaling.schedule.probe import Probe
from lightning_scaling.schedule.scheduler_copy import CannotCopyError, Replica, impure

Array = NDArray[np.float64]
Steps = NDArray[np.int64]
Points = tuple[Array, Array, str]
"""Steps, the rates used for them (linear in between), and why they end early, or an empty string."""

# Ticks up to which every schedule is stepped (about 3 us each), and that check one that is not.
_STEPPED = 20_000
_CHECKED = 5_000
# Ticks stepped at most, deadline or not, of a schedule that can only be stepped.
_MOST_STEPPED = 1_000_000
_WINDOW = 1_000_000
# A schedule that swings too often to be asked where it bends: so many ticks each, then means of so many blocks of so
# many ticks at uneven distances, so that no period can hide.
_FOLLOWED = 20_000
_BLOCKS, _SAMPLES = 512, 32
_GOLDEN = 0.6180339887498949
_AGREE = 1e-6
_THIN = 1e-5
_ROUNDING = 1e-9


class Spec(Protocol):
    """What the runner reads of a :class:`~lightning_scaling.schedule.simulate.SchedulerSpec`."""

    @property
    def scheduler(self) -> Any: ...  # noqa: D102
    @property
    def interval(self) -> str: ...  # noqa: D102
    @property
    def frequency(self) -> int: ...  # noqa: D102
    @property
    def advance(self) -> Callable[[Any, int, int], None] | None: ...  # noqa: D102


class Simulation:
    """One optimizer's schedulers, run ahead from the present, or again from their beginning.

    Args:
        optimizer: The live optimizer.
        specs: Its schedulers, in the order of their configuration.
        grid: Where the present lies.
        group: Index of the parameter group whose rate is followed.
        deadline: Value of ``time.perf_counter()`` at which stepping gives up.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        specs: Sequence[Spec],
        grid: EpochGrid,
        group: int,
        deadline: float,
    ) -> None:
        self.optimizer = optimizer
        # Lightning steps those of interval "step" before those of interval "epoch".
        self.specs = sorted(specs, key=lambda spec: spec.interval == "epoch")
        self.grid = grid
        self.group = group
        self.deadline = deadline

    def unpredictable(self) -> str:
        """Why the schedulers cannot be run ahead at all, or an empty string."""
        reason = impure(self._replica(rewound=False))
        return f"The rates cannot be known ahead: {reason}." if reason else ""

    def ahead(self, first: int, last: int) -> Points:
        """The rates used for steps ``first .. last``, beginning at the present."""
        x, y, reason = self._run(self.grid, first, last, rewound=False)
        waiting = [spec.scheduler for spec in self.specs if spec.interval == "epoch"]
        if waiting and self.grid.batches is None:
            reason = f"{type(waiting[0]).__name__} is stepped by the epoch, and how many steps an epoch has is unknown."
        return x, y, reason

    def past(self, present: int) -> tuple[Array, Array] | None:
        """The rates used up to step ``present``, if running the schedulers again from their beginning leads there."""
        if not self.grid.regular:
            return None
        try:
            replica = self._replica(rewound=True)
            for scheduler, spec in zip(replica.schedulers, self.specs, strict=True):
                made = len(ticks(spec.interval, spec.frequency, self.grid.from_start, 1, present))
                now = getattr(spec.scheduler, "last_epoch", None)
                if now is not None and now - scheduler.last_epoch != made:
                    return None
            x, y, reason = self._run(self.grid.from_start, 1, present, rewound=True)
        except Exception:
            return None
        rate = float(self.optimizer.param_groups[self.group]["lr"])
        arrived = not reason and abs(y[-1] - rate) <= _AGREE * float(np.max(y))
        return (x, y) if arrived else None

    def _replica(self, rewound: bool) -> Replica:
        try:
            made = Replica(self.optimizer, [spec.scheduler for spec in self.specs], self.group, self.deadline)
        except CannotCopyError:
            raise
        except Exception as error:
            raise CannotCopyError(f"copying them fails with {type(error).__name__} ({error})") from error
        if rewound:
            made.rewind()
        return made

    def _run(self, grid: EpochGrid, first: int, last: int, *, rewound: bool) -> Points:
        alone = len(self.specs) == 1 and self.specs[0].advance is None
        if alone and last - first > _STEPPED:
            steps = ticks(self.specs[0].interval, self.specs[0].frequency, grid, first, last)
            points = self._asked(grid, steps, first, last, rewound) if len(steps) > _STEPPED else None
            if points is not None:
                return points
        return self._stepped(grid, first, last, rewound)

    def _ticks(self, grid: EpochGrid, first: int, last: int) -> list[Steps]:
        """For each scheduler the steps after which it is stepped, from ``first`` to ``last - 1``."""
        return [ticks(spec.interval, spec.frequency, grid, first, last) for spec in self.specs]

    def _stepped(self, grid: EpochGrid, first: int, last: int, rewound: bool) -> Points:
        replica = self._replica(rewound)
        start = replica.rate
        seen, rates, reason = self._walk(replica, grid, first, last, _MOST_STEPPED)
        changed = np.append(seen[1:] != seen[:-1], True) if len(seen) else np.empty(0, dtype=bool)
        end = last if not reason else reason[1]
        x, y = _points(seen[changed], np.concatenate([[start], rates[changed]]), first, end)
        return _usable(x, y, reason[0] if reason else "")

    def _walk(
        self, replica: Replica, grid: EpochGrid, first: int, last: int, most: int
    ) -> tuple[Steps, Array, tuple[str, int] | None]:
        """Step the copies: steps after which one was, the rates then, and (why, last known step) of an early end."""
        advances = [spec.advance for spec in self.specs]
        groups = replica.optimizer.param_groups[replica.group]
        seen: list[int] = []
        rates: list[float] = []
        stop: tuple[str, int] | None = None
        for begin, end in _windows(first, last):
            found = self._ticks(grid, begin, end)
            steps = np.concatenate(found)
            which = np.repeat(np.arange(len(found)), [len(steps) for steps in found])
            order = np.lexsort((which, steps))[: most - len(seen)]
            epochs = grid.place(steps[order])[0].tolist()
            for step, index, epoch in zip(steps[order].tolist(), which[order].tolist(), epochs, strict=True):
                scheduler, advance = replica.schedulers[index], advances[index]
                try:
                    if advance is None:
                        scheduler.step()
                    else:
                        advance(scheduler, epoch, step)
                    rate = float(groups["lr"])
                except Exception as error:
                    what = f"{type(scheduler).__name__} fails after step {step} ({type(error).__name__}: {error})"
                    return np.array(seen, np.int64), np.array(rates), (f"{what}; later rates are not known.", step)
                seen.append(step)
                rates.append(rate)
                if len(seen) % 256 == 0 and perf_counter() > self.deadline:
                    stop = _out_of_time(step)
                    break
            if stop is None and len(seen) >= most and seen[-1] < last - 1:
                stop = _out_of_time(seen[-1])
            if stop is not None:
                break
        return np.array(seen, np.int64), np.array(rates), stop

    def _asked(self, grid: EpochGrid, steps: Steps, first: int, last: int, rewound: bool) -> Points | None:
        """The rates of a single scheduler by asking it out of order; ``None`` if it has to be stepped.

        Args:
            grid: Where the run begins.
            steps: Steps after which the scheduler is stepped, shape ``(n,)``.
            first: First step whose rate is asked for.
            last: Last step.
            rewound: Whether the scheduler begins anew.
        """
        count = len(steps)
        replica = self._replica(rewound)
        start = replica.rate
        ask = rate_after(replica, 0, count)
        if ask is None:
            return None
        _, rates, stop = self._walk(self._replica(rewound), grid, first, int(steps[_CHECKED]), _CHECKED)
        if stop is not None or not np.allclose(
            [ask(tick) for tick in range(1, len(rates) + 1)], rates, rtol=0, atol=_AGREE * float(np.max(np.abs(rates)))
        ):
            return None
        # half of the time left, so that a schedule that swings too often can still be followed
        probe = Probe.over(ask, 1, count, (perf_counter() + self.deadline) / 2)
        if probe is None:
            return _followed(ask, steps, first, last, start)
        if count == last - first:
            return _usable(np.append(first, first + probe.x), np.append(start, probe.y), "")
        each = np.append(start, probe(np.arange(1.0, count + 1)))
        return _usable(*_thinned(*_points(steps, each, first, last)), "")


def _followed(ask: Callable[[int], float], steps: Steps, first: int, last: int, start: float) -> Points:
    """The rates of a scheduler that swings too often to be asked where it bends: each at first, then means."""
    count = min(_FOLLOWED, len(steps) - 1)
    x, y = _points(steps[:count], np.array([start, *map(ask, range(1, count + 1))]), first, int(steps[count]))
    edges = np.linspace(count, len(steps), _BLOCKS + 1)
    places = edges[:-1, None] + (np.arange(1, _SAMPLES + 1) * _GOLDEN % 1.0) * np.diff(edges)[:, None]
    means = np.array([np.mean([ask(max(int(tick), 1)) for tick in row]) for row in places])
    centres = steps[((edges[:-1] + edges[1:]) / 2).astype(int)].astype(np.float64)
    used = (centres > x[-1]) & (centres < last)
    return _usable(np.concatenate([x, centres[used], [last]]), np.concatenate([y, means[used], means[-1:]]), "")


def _windows(first: int, last: int) -> Iterator[tuple[int, int]]:
    """Stretches ``(begin, end)`` that share their ends and cover ``first .. last``."""
    for begin in range(first, max(last, first + 1), _WINDOW):
        yield begin, min(begin + _WINDOW, last)


def _out_of_time(step: int) -> tuple[str, int]:
    why = "The schedulers can only be stepped one by one, which takes too long"
    return f"{why}: the rates are known up to step {step}.", step


def _points(steps: Steps, rates: Array, first: int, last: int) -> tuple[Array, Array]:
    """The polyline of a rate that is ``rates[0]`` at ``first`` and becomes ``rates[i + 1]`` after ``steps[i]``."""
    if len(steps) == last - first:
        return np.arange(first, last + 1, dtype=np.float64), rates
    x = np.unique(np.concatenate([[first], steps, steps + 1, [last]]))
    x = x[(x >= first) & (x <= last)]
    return x.astype(np.float64), rates[np.searchsorted(steps, x, side="left")]


def _thinned(x: Array, y: Array) -> tuple[Array, Array]:
    with np.errstate(invalid="ignore"):
        tolerance = _THIN * float(np.nanmax(np.abs(y), initial=0.0))
        while True:
            fewer = thin(x, y, tolerance)
            if len(fewer[0]) > 0.7 * len(x):
                return fewer
            x, y = fewer


def _usable(x: Array, y: Array, reason: str) -> Points:
    """The points as far as they are rates: finite, and not below zero."""
    bad = np.flatnonzero(~np.isfinite(y))
    if len(bad):
        end = max(int(bad[0]), 1)
        x, y = x[:end], np.nan_to_num(y[:end], nan=0.0, posinf=0.0, neginf=0.0)
        reason = f"The schedulers give no rate after step {x[-1]:.0f} (an error, NaN or infinity)."
    below = np.flatnonzero(y < -_ROUNDING * float(np.max(np.abs(y))))
    if len(below):
        reason = f"The schedulers give a negative rate from step {x[below[0]]:.0f} on."
    return x, np.maximum(y, 0.0), reason
