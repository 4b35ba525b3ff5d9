"""Torch schedulers as tables: what each tick does to the learning rate, for a million ticks at once.

Every scheduler of ``torch.optim.lr_scheduler`` maps the rate at a tick affinely, ``rate <- a * rate + b``: decays have
``b = 0``, schedules that are functions of the epoch have ``a = 0``, and cosine and averaging schedules have both.
Affine maps compose, so chains and sequences of schedulers are tables too, and a blocked scan runs a table as stepping
would.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
from torch.optim import lr_scheduler as lrs
from torch.optim.swa_utils import SWALR

from lightning_scaling.schedule.formulas import Array, Maps, Table, Ticks, leaf_table, untouched
from lightning_scaling.schedule.scheduler_copy import Replica


def tabulate(replica: Replica, index: int, count: int) -> Table | None:
    """The table of one scheduler of a replica for its next ``count`` ticks, or ``None`` when there is none for it."""
    return _tree(replica.schedulers[index], replica, count)


def scan(a: Array, b: Array, start: float) -> Array:
    """Run ``x[i] = a[i] * x[i - 1] + b[i]`` from ``x[-1] = start``, shape ``(n,)``; NaN where a map is."""
    if not a.any():
        return b
    count = len(a)
    block = max(1, int(np.sqrt(count)))
    rows = -(-count // block)
    gain, shift = np.ones(rows * block), np.zeros(rows * block)
    gain[:count], shift[:count] = a, b
    gain, shift = gain.reshape(rows, block).T.copy(), shift.reshape(rows, block).T.copy()
    for i in range(1, block):
        shift[i] += gain[i] * shift[i - 1]
        gain[i] *= gain[i - 1]
    starts = np.empty(rows)
    rate = start
    for i, (last_gain, last_shift) in enumerate(zip(gain[-1].tolist(), shift[-1].tolist(), strict=True)):
        starts[i] = rate
        rate = last_gain * rate + last_shift
    return np.asarray((gain * starts + shift).T.reshape(-1)[:count])


def chain(first: Maps, second: Maps) -> Maps:
    """The maps that do ``first`` and then ``second``."""
    return first[0] * second[0], second[0] * first[1] + second[1]


def _tree(scheduler: Any, replica: Replica, count: int) -> Table | None:
    if isinstance(scheduler, lrs.ChainedScheduler) and untouched(scheduler, lrs.ChainedScheduler):
        tables = [_tree(part, replica, count) for part in scheduler._schedulers]
        return None if None in tables else _chained([table for table in tables if table is not None])
    if isinstance(scheduler, lrs.SequentialLR) and untouched(scheduler, lrs.SequentialLR):
        return _sequential(scheduler, replica, count)
    now = getattr(scheduler, "last_epoch", None)
    if not isinstance(now, int) or hasattr(scheduler, "_schedulers"):
        return None
    leaf = leaf_table(scheduler, replica, now + 1, now + count)
    return None if leaf is None else lambda ticks: leaf(now + ticks)


def _chained(tables: list[Table]) -> Table:
    def table(ticks: Ticks) -> Maps:
        maps = tables[0](ticks)
        for other in tables[1:]:
            maps = chain(maps, other(ticks))
        return maps

    return table


def _sequential(scheduler: Any, replica: Replica, count: int) -> Table | None:
    """One part after the other; from its milestone on a part begins at epoch 0 of its own, from its closed form."""
    milestones = np.asarray(scheduler._milestones, dtype=np.int64)
    now = scheduler.last_epoch
    if np.any(np.diff(milestones) < 0):
        return None
    active = int(np.searchsorted(milestones, now, side="right"))
    bounds = [now, *milestones[active:].tolist(), now + count + 1]
    stages: list[Table] = []
    for offset, (begin, end) in enumerate(pairwise(bounds)):
        part = scheduler._schedulers[active + offset]
        if begin > now + count:
            break
        reach = min(end, now + count + 1) - begin - 1
        if offset == 0:
            stage = _tree(part, replica, max(reach, 0))
        else:
            stage = _restarted(part, replica, begin - now, max(reach, 0))
        if stage is None:
            return None
        stages.append(stage)

    def table(ticks: Ticks) -> Maps:
        a, b = np.empty(ticks.shape), np.empty(ticks.shape)
        starts = np.searchsorted(ticks, milestones[active:] - now)
        for stage, (begin, end) in enumerate(pairwise([0, *starts.tolist(), len(ticks)])):
            if begin < end:
                a[begin:end], b[begin:end] = stages[stage](ticks[begin:end])
        return a, b

    return table


def _restarted(part: Any, replica: Replica, begin: int, count: int) -> Table | None:
    """A part of a sequence from the tick ``begin`` at which it takes over."""
    leaf = leaf_table(part, replica, 1, count)
    if leaf is None or isinstance(part, SWALR):
        return None
    index = replica.group
    group = replica.optimizer.param_groups[index]
    before, group["lr"] = group["lr"], 1.0
    part.last_epoch = 0
    closed = getattr(part, "_get_closed_form_lr", None)
    try:
        value = float((closed or part.get_lr)()[index])
    except Exception:
        return None
    finally:
        group["lr"] = before
    first = (value, 0.0) if isinstance(part, lrs.MultiplicativeLR) else (0.0, value)

    def table(ticks: Ticks) -> Maps:
        if ticks[0] > begin:
            return leaf(ticks - begin)
        a, b = leaf(ticks[1:] - begin) if len(ticks) > 1 else (np.empty(0), np.empty(0))
        return np.append(first[0], a), np.append(first[1], b)

    return table
