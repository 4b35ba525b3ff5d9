"""The learning rate of every future optimizer step, from live optimizers and schedulers that are only read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import numpy as np
import torch
from torch.optim.lr_scheduler import ReduceLROnPlateau

from lightning_scaling.schedule.clock import EpochGrid
from lightning_scaling.schedule.knots import compress
from lightning_scaling.schedule.plan import Plan
from lightning_scaling.schedule.runner import Simulation
from lightning_scaling.schedule.scheduler_copy import CannotCopyError, quietly

LOOKAHEAD = 1_000_000
"""Steps simulated beyond the present when the run has no known end."""


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

    Raises:
        ValueError: If ``interval`` or ``frequency`` is out of range.
    """

    scheduler: Any
    interval: str = "step"
    frequency: int = 1
    monitor: str | None = None
    advance: Callable[[Any, int, int], None] | None = None

    def __post_init__(self) -> None:
        if self.interval not in ("step", "epoch"):
            raise ValueError(f"`interval` should be 'step' or 'epoch', but got {self.interval!r}.")
        if self.frequency < 1:
            raise ValueError(f"`frequency` should be at least 1, but got {self.frequency}.")

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
    steps_per_epoch: int | None = None,
    grid: EpochGrid | None = None,
    group: int | None = None,
    known_until: int | None = None,
    why: str = "",
    budget: float = 2.0,
    max_knots: int = 1000,
) -> Plan:
    """The plan of a run, from its live optimizer and schedulers.

    Neither is touched, nor is any random state: copies of the schedulers, bound to an optimizer of one number per
    parameter group, are stepped instead. Beyond 20 000 ticks a single scheduler, or a sequence of them, whose rate is a
    function of the epoch alone is asked with torch's ``step(epoch)`` where its rate bends, and checked against 5 000
    real steps; others are stepped for as long as ``budget`` allows, and the plan says up to which step it is known.

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
        steps_per_epoch: Optimizer steps per epoch, for schedulers stepped by the epoch or with a frequency.
        grid: The exact layout of steps on epochs, instead of ``steps_per_epoch``.
        group: Index of the parameter group whose rate counts; ``None`` for the group with the most parameters.
            Forecasts use rates relative to the peak, so groups that share a schedule at different rates are alike.
        known_until: Last step for which the schedulers are in charge, when something else takes over then.
        why: The sentence for an unknown horizon or for ``known_until``.
        budget: Largest number of seconds to spend.
        max_knots: Largest number of knots of the plan, at least 16.

    Returns:
        The plan. Without schedulers it is constant and known: a rate set by hand shows only when it is used. With
        schedulers that nobody can run ahead of time it is constant from here, ``known=False``, and ``why`` says why.

    Raises:
        ValueError: If an argument is out of range.
    """
    _check(start_step, total_steps, steps_per_epoch, max_knots)
    index = largest_group(optimizer) if group is None else group
    rate = _positive(float(optimizer.param_groups[index]["lr"]))
    grid = grid or _simple_grid(start_step, steps_per_epoch)
    followed = [spec for spec in specs if not spec.depends_on_metric]
    reasons = [_metric_reason(spec) for spec in specs if spec.depends_on_metric][:1]
    if not specs:
        return Plan.constant(rate, total_steps, known=known_until is None, why=why)
    if not followed:
        return Plan.constant(rate, total_steps, known=False, why=reasons[0])
    last = max(start_step + LOOKAHEAD if total_steps is None else total_steps, start_step + 1)
    if known_until is not None:
        last = max(min(last, known_until), start_step + 1)
    with quietly():
        try:
            run = Simulation(optimizer, followed, grid, index, perf_counter() + budget)
            if reason := run.unpredictable():
                return Plan.constant(rate, total_steps, known=False, why=reason)
            x, y, reason = run.ahead(start_step + 1, last)
            past = run.past(start_step + 1) if start_step > 0 else None
        except CannotCopyError as error:
            return Plan.constant(rate, total_steps, known=False, why=f"The schedulers cannot be simulated: {error}.")
    if past is not None:
        x, y = np.concatenate([past[0][:-1], x]), np.concatenate([past[1][:-1], y])
    x, y, note = compress(x, y, max_knots=max_knots)
    if reason:
        reasons.append(reason)
    known = not reasons and known_until is None
    reasons.extend(sentence for sentence in (why, note) if sentence)
    return Plan(x, y, total_steps=total_steps, known=known, why=" ".join(reasons), source="scheduler")


def largest_group(optimizer: torch.optim.Optimizer) -> int:
    """Index of the parameter group with the most parameters; the first of equals."""
    sizes = [sum(_size(parameter) for parameter in group["params"]) for group in optimizer.param_groups]
    return sizes.index(max(sizes))


def _size(parameter: Any) -> int:
    try:
        return int(parameter.numel())
    except Exception:
        return 0  # a lazy parameter that has no shape yet


def _check(start_step: int, total_steps: int | None, steps_per_epoch: int | None, max_knots: int) -> None:
    if start_step < 0:
        raise ValueError(f"`start_step` should be at least 0, but got {start_step}.")
    if total_steps is not None and total_steps < 1:
        raise ValueError(f"`total_steps` should be at least 1 or None, but got {total_steps}.")
    if steps_per_epoch is not None and steps_per_epoch < 1:
        raise ValueError(f"`steps_per_epoch` should be at least 1 or None, but got {steps_per_epoch}.")
    if max_knots < 16:
        raise ValueError(f"`max_knots` should be at least 16, but got {max_knots}.")


def _simple_grid(start_step: int, steps_per_epoch: int | None) -> EpochGrid:
    if steps_per_epoch is None:
        return EpochGrid(None, step=start_step, batch=start_step)
    epoch, batch = divmod(start_step, steps_per_epoch)
    return EpochGrid(steps_per_epoch, step=start_step, epoch=epoch, batch=batch)


def _metric_reason(spec: SchedulerSpec) -> str:
    of = f"on the metric {spec.monitor!r}" if spec.monitor else "on a metric"
    return f"{type(spec.scheduler).__name__} changes the learning rate depending {of}, which cannot be known ahead."


def _positive(rate: float) -> float:
    return rate if np.isfinite(rate) and rate > 0 else 0.0
