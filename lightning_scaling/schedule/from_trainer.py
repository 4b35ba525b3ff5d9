"""The plan of a Lightning run, read from the attributes of its Trainer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from copy import copy
from dataclasses import dataclass, replace
from functools import partial
from math import ceil, inf, isfinite
from operator import attrgetter
from typing import Any

import torch
from torch.optim.lr_scheduler import ReduceLROnPlateau

from lightning_scaling.schedule.clock import EpochGrid
from lightning_scaling.schedule.plan import Plan
from lightning_scaling.schedule.scheduler_copy import parts
from lightning_scaling.schedule.simulate import SchedulerSpec, current_rate, has_rate, plan_from_schedulers

_LIGHTNING = ("lightning.", "pytorch_lightning.")


@dataclass(frozen=True)
class Horizon:
    """Where a run stands and how far it means to go.

    Args:
        step: Steps completed, counted as the callbacks count them: batches after which an optimizer stepped.
        total_steps: Steps the run intends to make, or ``None``.
        why: Why ``total_steps`` is ``None``, or what else may end the run; empty otherwise.
        grid: How steps fall on epochs and micro-batches.
    """

    step: int
    total_steps: int | None
    why: str
    grid: EpochGrid


def plan_from_trainer(trainer: Any, *, step: int | None = None) -> Plan:
    """The plan of the run that a Lightning Trainer is making, whichever package it comes from.

    Call it where the schedulers are up to date with the steps made: in ``on_train_start``, ``on_train_batch_end``,
    ``on_validation_end`` or ``on_train_epoch_end``. Nothing is touched, see
    :func:`~lightning_scaling.schedule.simulate.plan_from_schedulers`. Of several optimizers the first one is followed.

    With manual optimization the module steps its own schedulers. How often, only the run can show: until a step (for
    schedulers stepped by the epoch: an epoch) has been made the plan is unknown, so ask again after that.

    Args:
        trainer: The Trainer, with its training data set up (from ``on_train_start`` on).
        step: Steps completed by the caller's own count; ``None`` to take them from the Trainer. Where several
            optimizers step in one batch, or each in several batches, the caller's count is the better one.

    Returns:
        The plan, in steps of the caller's count. ``total_steps`` is ``None`` where the run has no known end; ``why``
        says what is not known, and what may end the run before ``total_steps``.
    """
    horizon = read_horizon(trainer, step=step)
    optimizers = list(getattr(trainer, "optimizers", []) or [])
    if not optimizers or not has_rate(_inner(optimizers[0])):
        why = "There is no learning rate to read: the first optimizer has none, or there is no optimizer."
        return Plan.constant(1.0, horizon.total_steps, known=False, why=why)
    configs = list(getattr(trainer, "lr_scheduler_configs", None) or [])
    if len(optimizers) > 1:
        own = (optimizers[0], _inner(optimizers[0]))
        configs = [config for config in configs if getattr(config.scheduler, "optimizer", None) in own]
    optimizer = _inner(optimizers[0], configs)
    unknown = partial(Plan.constant, current_rate(optimizer), horizon.total_steps, known=False)
    if _automatic(trainer):
        advance = _advance(_read(trainer, "lightning_module", None))
        specs = [_spec(config, advance) for config in configs]
    else:
        cadences = [_cadence(config.scheduler, horizon) for config in configs]
        specs = [SchedulerSpec(c.scheduler, cadence) for c, cadence in zip(configs, cadences, strict=True) if cadence]
        if None in cadences:
            name = type(configs[cadences.index(None)].scheduler).__name__
            return unknown(why=f"The module steps {name} itself, and how often does not show yet.")
    until, why = _takeover(trainer, horizon)
    try:
        return plan_from_schedulers(
            optimizer,
            specs,
            start_step=horizon.step,
            total_steps=horizon.total_steps,
            grid=horizon.grid,
            known_until=until,
            why=" ".join(filter(None, (why, horizon.why))),
        )
    except Exception as error:
        return unknown(why=f"The schedulers could not be read ({type(error).__name__}: {error}).")


def read_horizon(trainer: Any, *, step: int | None = None) -> Horizon:
    """Where the run stands and how far it means to go, from ``max_steps``, ``max_epochs`` and the number of batches.

    ``trainer.global_step`` counts every step of every optimizer, so with manual optimization and ``k`` optimizers per
    batch ``max_steps`` ends the run after ``max_steps / k`` steps of the caller's count. Before the first batch, ``k``
    is taken to be the number of optimizers; after it, what the run has shown.

    Args:
        trainer: The Trainer.
        step: Steps completed by the caller's own count; ``None`` to take them from the Trainer.

    Returns:
        The horizon.
    """
    made = int(getattr(trainer, "global_step", 0))
    each, factor = 1.0, 1.0
    if not _automatic(trainer):
        batches_done = int(_read(trainer, "fit_loop.total_batch_idx", -1)) + 1
        each = float(max(1, len(getattr(trainer, "optimizers", []) or [])))
        if step is None and made and batches_done:
            each = max(1.0, made / batches_done)
        elif step:
            each = made / step if made else each
            factor = max(1.0, batches_done / step)
    own = round(made / each) if step is None else step
    grid = _grid(trainer, own, round(factor))
    by_steps, by_epochs = _limit(trainer, "max_steps"), _limit(trainer, "max_epochs")
    if any(_read(callback, "swa_start", None) is not None and _recounts(callback) for callback in _callbacks(trainer)):
        by_epochs -= 1  # weight averaging appends an epoch that only recounts the statistics of batch normalization
    total = own + max(0.0, ceil((by_steps - made) / each - 1e-9)) if isfinite(by_steps) else inf
    if isfinite(by_epochs) and grid.batches is not None:
        end = max(int(grid.ends(int(by_epochs) - 1)), grid.step) if by_epochs > grid.epoch else grid.step
        total = min(total, end)
    endless, why = not isfinite(total), ""
    if _timed(trainer):
        later = "The run ends by the clock (max_time), and how many steps that makes is unknown."
        why = later if endless else "The clock (max_time) may end the run before its last step."
    elif endless:
        unset = "neither max_steps nor max_epochs is set"
        no_length = "the training data has no length, and max_steps is not set"
        why = f"The run has no known end: {no_length if isfinite(by_epochs) else unset}."
    return Horizon(own, int(total) if isfinite(total) and total >= 1 else None, why, grid)


def _read(thing: Any, path: str, default: Any) -> Any:
    try:
        return attrgetter(path)(thing)
    except Exception:
        return default


def _limit(trainer: Any, name: str) -> float:
    limit = getattr(trainer, name, None)
    return inf if limit is None or limit < 0 else float(limit)


def _inner(optimizer: Any, configs: Sequence[Any] = ()) -> Any:
    """The optimizer that the schedulers are bound to, behind Lightning's or another library's wrapper."""
    bound = [getattr(config.scheduler, "optimizer", None) for config in configs]
    if bound and hasattr(bound[0], "param_groups") and all(found is bound[0] for found in bound):
        return bound[0]
    if not isinstance(optimizer, torch.optim.Optimizer):
        for name in ("_optimizer", "optimizer"):
            if hasattr(inner := getattr(optimizer, name, None), "param_groups"):
                return inner
    return optimizer


def _automatic(trainer: Any) -> bool:
    return bool(_read(trainer, "lightning_module.automatic_optimization", True))


def _callbacks(trainer: Any) -> list[Any]:
    return getattr(trainer, "callbacks", None) or []


def _grid(trainer: Any, step: int, factor: int) -> EpochGrid:
    count = getattr(trainer, "num_training_batches", inf)
    batches = int(count) if isfinite(count) and count >= 1 else None
    grid = EpochGrid(batches, ((0, factor),) if factor > 1 else _accumulation(trainer), step)
    epoch = _read(trainer, "fit_loop.epoch_progress.current.completed", None)
    batch = _read(trainer, "fit_loop.epoch_loop.batch_progress.current.ready", None)
    if epoch is not None and batch is not None:
        return replace(grid, epoch=int(epoch), batch=int(batch) if _within(trainer, epoch, batch, batches) else 0)
    if step == 0:
        return grid
    epoch, batch = grid.from_start.place(step)
    return replace(grid, epoch=int(epoch), batch=int(batch))


def _within(trainer: Any, epoch: int, batch: int, batches: int | None) -> bool:
    """Whether the batches that Lightning holds are those of the present epoch, and not of the one before.

    Between two epochs they are still of the one before. That shows in the number of epochs begun, except after a resume
    at the end of an epoch, from when on Lightning counts one too few; the batches of the whole run decide then.
    """
    if _read(trainer, "fit_loop.epoch_progress.current.ready", 0) > epoch:
        return True
    rest = _read(trainer, "fit_loop.epoch_loop.batch_progress.total.ready", 0) - epoch * (batches or 0)
    return bool(abs(rest - batch) < abs(rest))


def _accumulation(trainer: Any) -> tuple[tuple[int, int], ...]:
    for callback in _callbacks(trainer):
        scheduling = getattr(callback, "scheduling", None)
        if isinstance(scheduling, Mapping) and hasattr(callback, "get_accumulate_grad_batches"):
            return tuple(sorted({0: 1, **scheduling}.items()))
    return ((0, max(1, int(getattr(trainer, "accumulate_grad_batches", 1) or 1))),)


def _timed(trainer: Any) -> bool:
    """Whether a callback ends the run by the clock."""
    for callback in _callbacks(trainer):
        with suppress(Exception):
            if callback.time_remaining() is not None:
                return True
    return False


def _recounts(callback: Any) -> bool:
    """Whether a callback averages weights of a model with batch normalization, whose statistics it recounts."""
    return bool(getattr(callback, "_model_contains_batch_norm", False))


def in_statistics_pass(trainer: Any) -> bool:
    """Whether the present epoch only recounts the statistics of batch normalization: nothing is trained in it."""
    ends = [_read(callback, "swa_end", None) for callback in _callbacks(trainer) if _recounts(callback)]
    return any(end is not None and trainer.current_epoch == end + 1 for end in ends)


def _takeover(trainer: Any, horizon: Horizon) -> tuple[int | None, str]:
    """The last step before Lightning's weight averaging replaces the scheduler, when it is yet to do so."""
    configs = getattr(trainer, "lr_scheduler_configs", None) or []
    if any(type(config.scheduler).__name__ == "SWALR" for config in configs):
        return None, ""
    for callback in _callbacks(trainer):
        start = _read(callback, "swa_start", None)
        if isinstance(start, int):
            epoch = max(start, horizon.grid.epoch)
            if horizon.grid.batches is None:
                return horizon.step, f"{type(callback).__name__} sets the learning rate from epoch {epoch} on."
            until = max(horizon.step, int(horizon.grid.ends(epoch - 1)))
            return until, f"{type(callback).__name__} sets the learning rate after step {until}."
    return None, ""


def _spec(config: Any, advance: Callable[[Any, int, int], None] | None) -> SchedulerSpec:
    return SchedulerSpec(
        config.scheduler,
        interval=getattr(config, "interval", "epoch"),
        frequency=max(1, int(getattr(config, "frequency", 1))),
        monitor=getattr(config, "monitor", None) if getattr(config, "reduce_on_plateau", False) else None,
        advance=advance,
    )


def _advance(module: Any) -> Callable[[Any, int, int], None] | None:
    """The module's own ``lr_scheduler_step``, run on a view of the module that it can read but not change."""
    method = getattr(type(module), "lr_scheduler_step", None)
    if method is None or method.__module__.startswith(_LIGHTNING):
        return None
    return lambda scheduler, epoch, step: method(_View(module, epoch, step), scheduler, None)


class _View:
    """What a module's ``lr_scheduler_step`` may ask of the module: where the run is, and plain settings."""

    def __init__(self, module: Any, epoch: int, step: int) -> None:
        self.current_epoch = epoch
        self.global_step = step
        self._module = module

    def __getattr__(self, name: str) -> Any:
        if name == "trainer":
            return _View(self._module, self.current_epoch, self.global_step)
        value = getattr(self._module, name)
        if isinstance(value, bool | int | float | str | Mapping | None):
            return copy(value)
        raise AttributeError(f"lr_scheduler_step asks for {name!r}, which only a real step has")


def _cadence(scheduler: Any, horizon: Horizon) -> str | None:
    """How often the module has stepped a scheduler so far, if that shows."""
    if isinstance(scheduler, ReduceLROnPlateau):
        return "epoch"
    made = getattr(scheduler, "last_epoch", None)
    if made is None:
        made = getattr(next(parts(scheduler)), "last_epoch", None)
    if not made:
        return None
    if made == horizon.step:
        return "step"
    return "epoch" if made == horizon.grid.epoch and horizon.grid.batches is not None else None
