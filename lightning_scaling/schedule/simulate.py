"""The learning rate of every future optimizer step, from live optimizers and schedulers that are only read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from time import perf_counter, thread_time
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.optim.lr_scheduler import ReduceLROnPlateau

from lightning_scaling.schedule.clock import EpochGrid, ticks
from lightning_scaling.schedule.knots import compress, thin
from lightning_scaling.schedule.plan import Plan
from lightning_scaling.schedule.scheduler_copy import CannotCopyError, SchedulerCopies, quietly

Array = NDArray[np.float64]
Steps = NDArray[np.int64]

LOOKAHEAD = 1_000_000
"""Steps simulated beyond the present when the run has no known end."""

MAX_TICKS = 2_000_000
"""Steps of the schedulers simulated at most. One takes 3 to 7 us, so a million take some seconds, once: under 1 %
of a run whose steps take 1 ms."""

MAX_SECONDS = 10.0
SECONDS_PER_TICK = 25e-6
MAX_WAIT = 6.0
"""The simulation ends after ten seconds of processor time, or as many as this for each step of a scheduler if that is
more; by the clock after six times that. Only a slow function of the user's gets there: torch's own schedulers take 2 to
10 us a step, and other programs on the machine take nothing from the processor time of this one."""

# Optimizer steps simulated at a time; what they give is thinned before the next ones, so that memory is bounded.
_WINDOW = 65_536
_TICKS_PER_CHECK = 64
# Fractions of the peak rate: round-off of a rate, and how near to its present value a past has to arrive.
_ROUND_OFF = 1e-9
_SAME_RATE = 1e-6


@dataclass(frozen=True)
class SchedulerSpec:
    """A scheduler and when it is stepped.

    Args:
        scheduler: A scheduler of ``torch.optim.lr_scheduler``, a subclass, or any object that sets rates.
        interval: ``"step"`` or ``"epoch"``.
        frequency: Steps the scheduler at every ``frequency``-th occasion, counted as Lightning does (see
            :func:`~lightning_scaling.schedule.clock.ticks`).
        monitor: Name of the metric that the scheduler is stepped with. Its rates cannot be known ahead then.
        advance: How the scheduler is stepped, ``advance(scheduler, epoch, step)`` with the epoch (from 0) and the
            optimizer steps completed; ``None`` for ``scheduler.step()``.
    """

    scheduler: Any
    interval: str = "step"
    frequency: int = 1
    monitor: str | None = None
    advance: Callable[[Any, int, int], None] | None = None

    @property
    def name(self) -> str:
        """Name of the scheduler's class."""
        return type(self.scheduler).__name__

    @property
    def depends_on_metric(self) -> bool:
        """Whether the rates depend on a metric that training has yet to produce."""
        return self.monitor is not None or isinstance(self.scheduler, ReduceLROnPlateau)


def plan_from_schedulers(
    optimizer: torch.optim.Optimizer,
    specs: Sequence[SchedulerSpec],
    *,
    start_step: int = 0,
    total_steps: int | None = None,
    grid: EpochGrid | None = None,
    known_until: int | None = None,
    why: str = "",
) -> Plan:
    """The plan of a run, from its live optimizer and schedulers.

    Neither is touched, nor is any random state: copies of the schedulers, bound to an optimizer of one number per
    parameter group, are stepped instead, as often as the run will. Beyond two million of their steps
    (:data:`MAX_TICKS`) the plan says up to which step it is known. The rate followed is that of the parameter group
    with the most parameters: forecasts use rates relative to the peak, so groups that share a schedule at different
    rates are alike.

    The rates of the plan are exact where 256 knots suffice for them, within 0.01 % of the peak rate where 512 do, else
    within 0.2 %; jumps stay sharp. A schedule that swings too often for that is followed within 2 %, or at first alone
    and by its mean later; ``why`` says so.

    When the run has made steps already, the plan begins at step 1 if the schedulers, set back to their beginning and
    run forward, arrive at the present rate; else it begins at the next step.

    Functions given to ``LambdaLR`` and its like are called, on copies of what they close over where that is small and
    the user's own. One that raises makes the plan unknown from there; one that answers differently when asked again
    makes it unknown from here.

    Args:
        optimizer: The optimizer. Of several, pass the one whose loss is followed: the plan is that optimizer's alone.
        specs: Its schedulers, in the order in which they are stepped.
        start_step: Optimizer steps completed; the schedulers are up to date with that step.
        total_steps: Optimizer steps the run intends to make; ``None`` when unknown. The plan then covers the next
            million.
        grid: The layout of steps on epochs; left out, epochs have no end.
        known_until: Last step for which the schedulers are in charge, when something else takes over then.
        why: The sentence for an unknown horizon or for ``known_until``.

    Returns:
        The plan. Without schedulers it is constant and known: a rate set by hand shows only when it is used. With
        schedulers that nobody can run ahead of time it is constant from here, ``known=False``, and ``why`` says why.
    """
    unknown = partial(Plan.constant, current_rate(optimizer), total_steps, known=False)
    if not specs:
        return Plan.constant(current_rate(optimizer), total_steps, known=known_until is None, why=why)
    followed = [spec for spec in specs if not spec.depends_on_metric]
    reasons = [_metric_reason(spec) for spec in specs if spec.depends_on_metric][:1]
    if not followed:
        return unknown(why=reasons[0])
    last = max(start_step + LOOKAHEAD if total_steps is None else total_steps, start_step + 1)
    if known_until is not None:
        last = max(min(last, known_until), start_step + 1)
    with quietly():
        try:
            simulation = _Simulation(optimizer, followed, grid or EpochGrid(None, step=start_step, batch=start_step))
            if impurity := simulation.impurity():
                return unknown(why=f"The rates cannot be known ahead: {impurity}.")
            x, y, reason = simulation.ahead(start_step + 1, last)
            past = simulation.past(start_step + 1) if start_step > 0 else None
        except CannotCopyError as error:
            return unknown(why=f"The schedulers cannot be simulated: {error}.")
    if past is not None:
        x, y = np.concatenate([past[0][:-1], x]), np.concatenate([past[1][:-1], y])
    x, y, note = compress(x, y)
    known = not reasons and not reason and known_until is None
    sentences = " ".join(filter(None, [*reasons, reason, why, note]))
    return Plan(x, y, total_steps=total_steps, known=known, why=sentences, source="scheduler")


def current_rate(optimizer: torch.optim.Optimizer) -> float:
    """The present rate of the largest parameter group; 0 where it is no usable rate."""
    return _usable(float(optimizer.param_groups[largest_group(optimizer)]["lr"]))


def has_rate(optimizer: Any) -> bool:
    """Whether an optimizer has a learning rate: some work theirs out at every step and show none."""
    groups = optimizer.param_groups
    return bool(groups) and groups[largest_group(optimizer)].get("lr") is not None


def _usable(rate: float) -> float:
    return rate if np.isfinite(rate) and rate > 0 else 0.0


def largest_group(optimizer: torch.optim.Optimizer) -> int:
    """Index of the parameter group with the most parameters; the first of equals."""
    sizes = [sum(map(_size, group["params"])) for group in optimizer.param_groups]
    return sizes.index(max(sizes))


def _size(parameter: Any) -> int:
    try:
        return int(parameter.numel())
    except Exception:
        return 0  # a lazy parameter that has no shape yet


def _metric_reason(spec: SchedulerSpec) -> str:
    of = f"on the metric {spec.monitor!r}" if spec.monitor else "on a metric"
    return f"{spec.name} changes the learning rate depending {of}, which cannot be known ahead."


class _Simulation:
    """One optimizer's schedulers, run ahead from the present, or again from their beginning.

    Args:
        optimizer: The live optimizer.
        specs: Its schedulers, in the order of their configuration.
        grid: Where the present lies.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, specs: Sequence[SchedulerSpec], grid: EpochGrid) -> None:
        self._optimizer = optimizer
        # Lightning steps those of interval "step" before those of interval "epoch".
        self._specs = sorted(specs, key=lambda spec: spec.interval == "epoch")
        self._grid = grid
        self._began, self._cpu_began, self._ticks = perf_counter(), thread_time(), 0

    def _copies(self) -> SchedulerCopies:
        schedulers = [spec.scheduler for spec in self._specs]
        return SchedulerCopies(self._optimizer, schedulers, largest_group(self._optimizer))

    def impurity(self) -> str:
        """Why the schedulers cannot be run ahead at all, or an empty string."""
        return self._copies().impurity()

    def ahead(self, first: int, last: int) -> tuple[Array, Array, str]:
        """The rates used for steps ``first .. last`` from the present on, and why they end early or are not known."""
        x, y, reason = self._run(self._copies(), self._grid, first, last)
        waiting = [spec.name for spec in self._specs if spec.interval == "epoch"]
        if waiting and self._grid.batches is None:
            reason = f"{waiting[0]} is stepped by the epoch, and how many steps an epoch has is unknown."
        return x, y, reason

    def past(self, present: int) -> tuple[Array, Array] | None:
        """The rates used up to step ``present``, if running the schedulers again from their beginning leads there."""
        grid = self._grid.from_start
        made = [len(ticks(spec.interval, spec.frequency, grid, 1, present)) for spec in self._specs]
        if not self._grid.regular or sum(made) > MAX_TICKS:
            return None
        try:
            copies = self._copies()
            copies.rewind()
            for spec, scheduler, count in zip(self._specs, copies.schedulers, made, strict=True):
                now = getattr(spec.scheduler, "last_epoch", None)
                if now is not None and now - scheduler.last_epoch != count:
                    return None
            x, y, reason = self._run(copies, grid, 1, present)
        except Exception:
            return None
        arrived = not reason and abs(y[-1] - current_rate(self._optimizer)) <= _SAME_RATE * float(np.max(y))
        return (x, y) if arrived else None

    def _run(self, copies: SchedulerCopies, grid: EpochGrid, first: int, last: int) -> tuple[Array, Array, str]:
        record = _Record(first, _usable(float(copies.group["lr"])))
        before = self._ticks
        for begin in range(first, last, _WINDOW):
            found = [ticks(s.interval, s.frequency, grid, begin, min(begin + _WINDOW, last)) for s in self._specs]
            steps, which = np.concatenate(found), np.repeat(np.arange(len(found)), [len(steps) for steps in found])
            order = np.lexsort((which, steps))
            steps, which = steps[order], which[order]
            self._ticks += len(steps)
            if self._ticks - before > MAX_TICKS:
                return record.until(begin, _too_long(begin))
            rates, reason = self._step(copies, steps, which, grid.place(steps)[0])
            # of several schedulers stepped after one optimizer step the last one decides
            decides = np.append(steps[1:] != steps[:-1], True)[: len(rates)]
            lost = record.add(steps[: len(rates)][decides], rates[decides])
            if lost is not None:
                return record.until(lost, f"The schedulers give no rate after step {lost} (NaN or infinity).")
            if reason:
                return record.until(int(steps[len(rates)]), reason)
        return record.until(last, "")

    def _step(self, copies: SchedulerCopies, steps: Steps, which: Steps, epochs: Steps) -> tuple[Array, str]:
        """Step the copies: the rate after each tick, and why not all were made.

        Args:
            copies: The copies.
            steps: Optimizer steps after which one of them is stepped, shape ``(n,)``.
            which: Which one, shape ``(n,)``.
            epochs: The epoch of each step, shape ``(n,)``.
        """
        rates: list[float] = []
        advances = [_advance(*pair) for pair in zip(copies.schedulers, self._specs, strict=True)]
        for step, index, epoch in zip(steps.tolist(), which.tolist(), epochs.tolist(), strict=True):
            if len(rates) % _TICKS_PER_CHECK == _TICKS_PER_CHECK - 1 and self._is_late():
                return np.array(rates), _too_long(step)
            try:
                advances[index](epoch, step)
                rates.append(float(copies.group["lr"]))
            except Exception as error:
                what = f"{self._specs[index].name} fails after step {step} ({type(error).__name__}: {error})"
                return np.array(rates), f"{what}; later rates are not known."
        return np.array(rates), ""

    def _is_late(self) -> bool:
        allowed = max(MAX_SECONDS, SECONDS_PER_TICK * self._ticks)
        return thread_time() - self._cpu_began > allowed or perf_counter() - self._began > MAX_WAIT * allowed


class _Record:
    """The polyline of a rate, thinned as it grows.

    Args:
        first: The first step.
        rate: The rate used for it.
    """

    def __init__(self, first: int, rate: float) -> None:
        self._x, self._y = [np.array([first], dtype=np.float64)], [np.array([rate])]
        self._peak, self._negative = rate, ""

    def add(self, steps: Steps, rates: Array) -> int | None:
        """Go on with a rate that becomes ``rates[i]`` after ``steps[i]``; the step after which it is no number."""
        lost = np.flatnonzero(~np.isfinite(rates))
        rates = rates[: lost[0]] if lost.size else rates
        self._peak = max(self._peak, float(np.max(np.abs(rates), initial=0.0)))
        below = np.flatnonzero(rates < -_ROUND_OFF * self._peak)
        if below.size and not self._negative:
            self._negative = f"The schedulers give a negative rate from step {steps[below[0]] + 1} on."
        used = np.append(self._y[-1][-1], np.maximum(rates, 0.0))
        x, kept = np.unique(np.stack([steps, steps + 1], 1)[: len(rates)], return_index=True)
        y = np.stack([used[:-1], used[1:]], 1).ravel()[kept]
        new = x > self._x[-1][-1]
        if new.any():
            x, y = thin(x[new].astype(np.float64), y[new], _ROUND_OFF * self._peak)
            self._x.append(x)
            self._y.append(y)
        return int(steps[lost[0]]) if lost.size else None

    def until(self, end: int, reason: str) -> tuple[Array, Array, str]:
        """Steps up to ``end``, their rates, and why the rest is not known or a rate is none."""
        x, y = np.concatenate(self._x), np.concatenate(self._y)
        before = x < end
        x, y = np.append(x[before], end), np.append(y[before], np.interp(end, x, y))
        return x, y, self._negative or reason


def _advance(scheduler: Any, spec: SchedulerSpec) -> Callable[[int, int], None]:
    advance = spec.advance
    return (lambda epoch, step: scheduler.step()) if advance is None else partial(advance, scheduler)


def _too_long(step: int) -> str:
    why = "The schedulers can only be stepped one by one, which takes too long"
    return f"{why}: the rates are known up to step {step}."
