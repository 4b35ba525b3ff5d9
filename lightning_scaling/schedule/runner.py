"""Running copies of schedulers ahead of a run: stepped where that is quick, in tables where it is not."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from time import perf_counter
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from lightning_scaling.schedule.clock import EpochGrid, ticks
from lightning_scaling.schedule.formulas import Table
from lightning_scaling.schedule.knots import thin
from lightning_scaling.schedule.scheduler_copy import CannotCopyError, Replica, impure
from lightning_scaling.schedule.tables import chain, scan, tabulate

Array = NDArray[np.float64]
Steps = NDArray[np.int64]
Points = tuple[Array, Array, str]
"""Steps, the rates used for them (linear in between), and why they end early, or an empty string."""

_STEPPED = 5_000
_MOST_STEPPED = 400_000
_CHECKED = 5_000
_WINDOW = 1_000_000
_DENSE = 200_000
_BLOCKS = 2_048
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
        count = 0
        for window in _windows(first, last):
            count += sum(len(steps) for steps in self._ticks(grid, *window))
            if count > _STEPPED:
                break
        if count > _STEPPED and all(spec.advance is None for spec in self.specs):
            try:
                points = self._computed(grid, first, last, rewound)
            except Exception:
                points = None  # a scheduler that is not built as expected can still be stepped
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

    def _computed(self, grid: EpochGrid, first: int, last: int, rewound: bool) -> Points | None:
        """The rates by tables, or ``None`` if there are none or if they do not agree with stepping."""
        scratch = self._replica(rewound)
        start = scratch.rate
        tables: list[Table] = []
        for index, spec in enumerate(self.specs):
            steps_each = spec.interval == "step"
            most = last - first if steps_each else len(ticks(spec.interval, spec.frequency, grid, first, last))
            table = tabulate(scratch, index, most)
            if table is None:
                return None
            tables.append(table)
        seen, rates, _ = self._walk(self._replica(rewound), grid, first, min(last, first + _WINDOW), _CHECKED)
        made = [0] * len(tables)
        xs: list[Array] = []
        ys: list[Array] = []
        rate, size = start, 0
        for begin, end in _windows(first, last):
            found = self._ticks(grid, begin, end)
            steps, after = self._window(tables, found, made, rate)
            if begin == first and not _agree(seen, rates, steps, after):
                return None
            x, y = _points(steps, np.concatenate([[rate], after]), begin, end)
            rate = float(y[-1])
            if size > _DENSE:
                x, y = _means(x, y)
            else:
                x, y = _thinned(x, y)
            size += len(x)
            xs.append(x[1:] if xs else x)
            ys.append(y[1:] if ys else y)
            if not np.isfinite(rate):
                break
        return _usable(np.concatenate(xs), np.concatenate(ys), "")

    def _window(self, tables: list[Table], found: list[Steps], made: list[int], rate: float) -> tuple[Steps, Array]:
        """The steps of a window after which a scheduler is stepped, and the rates then; counts up ``made``."""
        own_maps = []
        for index, (table, own) in enumerate(zip(tables, found, strict=True)):
            own_maps.append(table(np.arange(made[index] + 1, made[index] + len(own) + 1, dtype=np.int64)))
            made[index] += len(own)
        with np.errstate(all="ignore"):
            if len(tables) == 1:
                return found[0], scan(*own_maps[0], rate)
            steps = np.unique(np.concatenate(found))
            a, b = np.ones(len(steps)), np.zeros(len(steps))
            for own, maps in zip(found, own_maps, strict=True):
                at = np.searchsorted(steps, own)
                a[at], b[at] = chain((a[at], b[at]), maps)
            return steps, scan(a, b, rate)


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


def _means(x: Array, y: Array) -> tuple[Array, Array]:
    """Means over equal blocks, for a stretch of a rate that swings too often to be kept in full."""
    area = np.concatenate([[0.0], np.cumsum(np.diff(x) * (y[1:] + y[:-1]) / 2)])
    edges = np.linspace(x[0], x[-1], _BLOCKS + 1)
    means = np.diff(np.interp(edges, x, area)) / np.diff(edges)
    centres = (edges[1:] + edges[:-1]) / 2
    return np.concatenate([[x[0]], centres, [x[-1]]]), np.concatenate([[means[0]], means, [means[-1]]])


def _agree(seen: Steps, rates: Array, steps: Steps, after: Array) -> bool:
    changed = np.append(seen[1:] != seen[:-1], True) if len(seen) else np.empty(0, dtype=bool)
    changed[-1:] = False  # the last step seen may not have seen all of its schedulers
    seen, rates = seen[changed], rates[changed]
    if len(seen) > len(steps) or np.any(steps[: len(seen)] != seen):
        return False
    scale = float(np.max(np.abs(rates), initial=0.0))
    return bool(np.all(np.abs(after[: len(seen)] - rates) <= _AGREE * scale))


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
