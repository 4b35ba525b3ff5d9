"""Rates of a scheduler copy at any of its future ticks, for schedules that depend on the epoch alone."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable
from typing import Any

from torch.optim import lr_scheduler as lrs

from lightning_scaling.schedule.scheduler_copy import Replica

_JUMPS = (lrs.LRScheduler.step, lrs.CosineAnnealingWarmRestarts.step)


def rate_after(replica: Replica, index: int, count: int) -> Callable[[int], float] | None:
    """The rate after any number of ticks up to ``count`` of one scheduler of a replica, asked in any order.

    Torch's ``step(epoch)`` puts a scheduler to an epoch, by its closed form where it has one. It is used where the rate
    there depends neither on the present rate nor on what was asked before.

    Returns:
        The function, which raises where the scheduler does; ``None`` where the schedule can only be stepped.
    """
    scheduler = replica.schedulers[index]
    group = replica.optimizer.param_groups[replica.group]
    if isinstance(scheduler, lrs.SequentialLR):
        move, places = _sequence(scheduler, count)
    elif isinstance(scheduler, lrs.ChainedScheduler):
        move, places = _chain(scheduler, group), []
    else:
        move, places = _single(scheduler), []
    if move is None:
        return None

    def ask(ticks: int, rate: float = 1.0) -> float:
        group["lr"] = rate
        move(ticks)
        return float(group["lr"])

    for place in sorted({1, (1 + count) // 2, count, *places}):
        try:
            asked = [ask(place, rate) for rate in (1.0, 0.5, 1.0)]
        except Exception:  # past the end of a schedule: what comes of it shows where the ticks are asked for
            continue
        if len(set(asked)) > 1:
            return None
    return ask


def _single(scheduler: Any) -> Callable[[int], None] | None:
    now = getattr(scheduler, "last_epoch", None)
    if not isinstance(now, int) or getattr(type(scheduler), "step", None) not in _JUMPS:
        return None
    return lambda ticks: scheduler.step(now + ticks)


def _chain(scheduler: Any, group: dict[str, Any]) -> Callable[[int], None] | None:
    """How to move a chain of schedulers that each multiply the rate, so that their factors multiply in any order."""
    parts, initial = scheduler._schedulers, float(group["initial_lr"])
    moves = [_single(part) for part in parts]
    factors = all(hasattr(part, "_get_closed_form_lr") and not getattr(part, "eta_min", 0) for part in parts)
    if type(scheduler).step is not lrs.ChainedScheduler.step or not factors or not initial:
        return None

    def move(ticks: int) -> None:
        rate = initial
        for step in moves:
            assert step is not None
            step(ticks)
            rate *= float(group["lr"]) / initial
        group["lr"] = rate

    return None if None in moves else move


def _sequence(scheduler: Any, count: int) -> tuple[Callable[[int], None] | None, list[int]]:
    """How to move a sequence of single schedulers, and for each of them a number of ticks that leads into it."""
    parts, milestones, now = scheduler._schedulers, list(scheduler._milestones), scheduler.last_epoch
    moves = [_single(part) for part in parts]
    if type(scheduler).step is not lrs.SequentialLR.step or None in moves:
        return None, []
    present = bisect_right(milestones, now)
    # what leads each part to its own epoch: the present one goes on, a later one begins at its milestone
    begins = [0, *milestones]
    offsets = [0 if i == present else now - begins[i] - part.last_epoch for i, part in enumerate(parts)]

    def move(ticks: int) -> None:
        at = bisect_right(milestones, now + ticks)
        step = moves[at]
        assert step is not None
        step(ticks + offsets[at])

    return move, [tick for milestone in milestones if 0 < (tick := milestone - now + 1) <= count]
