"""The plan of a Lightning run, read from the attributes of its Trainer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, replace
from math import ceil, inf, isfinite
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.optim.lr_scheduler import ReduceLROnPlateau

from lightning_scaling.schedule.clock import EpochGrid
from lightning_scaling.schedule.plan import Plan
from lightning_scaling.schedule.scheduler_copy import parts
from lightning_scaling.schedule.simulate import SchedulerSpec, plan_from_schedulers

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


def plan_from_trainer(
    trainer: Any, *, step: int | None = None, optimizer: int = 0, group: int | None = None, budget: float = 2.0
) -> Plan:
    """The plan of the run that a Lightning Trainer is making, whichever package it comes from.

    Call it where the schedulers are up to date with the steps made: in ``on_train_start``, ``on_train_batch_end``,
    ``on_validation_end`` or ``on_train_epoch_end``. Nothing is touched, see
    :func:`~lightning_scaling.schedule.simulate.plan_from_schedulers`.

    With manual optimization the module steps its own schedulers. How often, only the run can show: until a step (for
    schedulers stepped by the epoch: an epoch) has been made the plan is unknown, so ask again after that.

    Args:
        trainer: The Trainer, with its training data set up (from ``on_train_start`` on).
        step: Steps completed by the caller's own count; ``None`` to take them from the Trainer. Where several
            optimizers step in one batch, or each in several batches, the caller's count is the better one.
        optimizer: Index of the optimizer whose rate is followed: the main one.
        group: Index of the parameter group; ``None`` for the one with the most parameters.
        budget: Largest number of seconds to spend.

    Returns:
        The plan, in steps of the caller's count. ``total_steps`` is ``None`` where the run has no known end; ``why``
        says what is not known, and what may end the run before ``total_steps``.
    """
    horizon = read_horizon(trainer, step=step)
    optimizers = list(getattr(trainer, "optimizers", []) or [])
    if len(optimizers) <= optimizer:
        why = "The Trainer has no optimizer to read the learning rate from."
        return Plan.constant(1.0, horizon.total_steps, known=False, why=why)
    followed = optimizers[optimizer]
    configs = [
        config
        for config in getattr(trainer, "lr_scheduler_configs", None) or []
        if len(optimizers) == 1 or getattr(config.scheduler, "optimizer", None) in (followed, _inner(followed))
    ]
    torch_optimizer = _inner(followed, configs)
    constant = _Constant(torch_optimizer, group, horizon)
    if _automatic(trainer):
        specs = [_spec(trainer, config) for config in configs]
    else:
        cadences = [_cadence(config.scheduler, horizon) for config in configs]
        if None in cadences:
            name = type(configs[cadences.index(None)].scheduler).__name__
            return constant(f"The module steps {name} itself, and how often does not show yet.")
        specs = [
            SchedulerSpec(c.scheduler, interval) for c, interval in zip(configs, cadences, strict=True) if interval
        ]
    until, why = _takeover(trainer, horizon)
    try:
        return plan_from_schedulers(
            torch_optimizer,
            specs,
            start_step=horizon.step,
            total_steps=horizon.total_steps,
            grid=horizon.grid,
            group=group,
            known_until=until,
            why=" ".join(sentence for sentence in (why, horizon.why) if sentence),
            budget=budget,
        )
    except Exception as error:
        return constant(f"The schedulers could not be read ({type(error).__name__}: {error}).")


def read_horizon(trainer: Any, *, step: int | None = None) -> Horizon:
    """Where the run stands and how far it means to go, from ``max_steps``, ``max_epochs`` and the number of batches.

    ``trainer.global_step`` counts every step of every optimizer, so with manual optimization and ``k`` optimizers per
    batch ``max_steps`` ends the run after ``max_steps / k`` steps of ours. Before the first batch, ``k`` is taken to be
    the number of optimizers; after it, what the run has shown.

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
    ours = round(made / each) if step is None else step
    grid = _grid(trainer, ours, round(factor))
    limits = [_step_limit(trainer, made, each, ours), _epoch_limit(trainer, grid)]
    total = min(limits)
    why = "" if isfinite(total) else _no_end(trainer)
    if _timed(trainer):
        why = (
            "The run ends by the clock (max_time), and how many steps that makes is unknown."
            if not isfinite(total)
            else "The clock (max_time) may end the run before its last step."
        )
    return Horizon(ours, int(total) if isfinite(total) and total >= 1 else None, why, grid)


@dataclass(frozen=True)
class _Constant:
    optimizer: Any
    group: int | None
    horizon: Horizon

    def __call__(self, why: str) -> Plan:
        plan = plan_from_schedulers(self.optimizer, [], total_steps=self.horizon.total_steps, group=self.group)
        return Plan.constant(float(plan.lr[0]), plan.total_steps, known=False, why=why)


def _read(thing: Any, path: str, default: Any) -> Any:
    for name in path.split("."):
        try:
            thing = getattr(thing, name)
        except Exception:
            return default
    return thing


def _inner(optimizer: Any, configs: Sequence[Any] = ()) -> Any:
    """The optimizer that the schedulers are bound to, behind Lightning's or another library's wrapper."""
    bound = [getattr(config.scheduler, "optimizer", None) for config in configs]
    if bound and hasattr(bound[0], "param_groups") and all(found is bound[0] for found in bound):
        return bound[0]
    if isinstance(optimizer, torch.optim.Optimizer):
        return optimizer
    for name in ("_optimizer", "optimizer"):
        inner = getattr(optimizer, name, None)
        if hasattr(inner, "param_groups"):
            return inner
    return optimizer


def _automatic(trainer: Any) -> bool:
    return bool(_read(trainer, "lightning_module.automatic_optimization", True))


def _batches(trainer: Any) -> int | None:
    count = getattr(trainer, "num_training_batches", inf)
    return int(count) if isfinite(count) and count >= 1 else None


def _grid(trainer: Any, step: int, factor: int) -> EpochGrid:
    batches = _batches(trainer)
    accumulate = ((0, factor),) if factor > 1 else _accumulation(trainer)
    epoch = _read(trainer, "fit_loop.epoch_progress.current.completed", None)
    batch = _read(trainer, "fit_loop.epoch_loop.batch_progress.current.ready", None)
    if epoch is None or batch is None:
        grid = EpochGrid(batches, accumulate)
        if step == 0:
            return grid
        epochs, done = grid.place(_one(step))
        return replace(grid, step=step, epoch=int(epochs[0]), batch=int(done[0]))
    return EpochGrid(batches, accumulate, step, int(epoch), int(batch) if _within(trainer, epoch, batch) else 0)


def _within(trainer: Any, epoch: int, batch: int) -> bool:
    """Whether the batches that Lightning holds are those of the present epoch, and not of the one before.

    Between two epochs they are still of the one before. That shows in the number of epochs begun, except after a resume
    at the end of an epoch, from when on Lightning counts one too few; the batches of the whole run tell then.
    """
    if _read(trainer, "fit_loop.epoch_progress.current.ready", 0) > epoch:
        return True
    total = _read(trainer, "fit_loop.epoch_loop.batch_progress.total.ready", 0)
    before = epoch * (_batches(trainer) or 0)
    return bool(abs(total - before - batch) < abs(total - before))


def _accumulation(trainer: Any) -> tuple[tuple[int, int], ...]:
    for callback in getattr(trainer, "callbacks", None) or []:
        scheduling = getattr(callback, "scheduling", None)
        if isinstance(scheduling, Mapping) and hasattr(callback, "get_accumulate_grad_batches"):
            return tuple(sorted({0: 1, **scheduling}.items()))
    return ((0, max(1, int(getattr(trainer, "accumulate_grad_batches", 1) or 1))),)


def _step_limit(trainer: Any, made: int, each: float, ours: int) -> float:
    limit = getattr(trainer, "max_steps", -1)
    if limit is None or limit < 0:
        return inf
    return ours + max(0, ceil((limit - made) / each - 1e-9))


def _epoch_limit(trainer: Any, grid: EpochGrid) -> float:
    limit = getattr(trainer, "max_epochs", -1)
    if limit is None or limit < 0 or grid.batches is None:
        return inf
    return max(int(grid.ends(_one(limit - 1))[0]), grid.step) if limit > grid.epoch else grid.step


def _no_end(trainer: Any) -> str:
    limit = getattr(trainer, "max_epochs", -1)
    if limit is not None and limit >= 0:
        return "The run has no known end: the training data has no length, and max_steps is not set."
    return "The run has no known end: neither max_steps nor max_epochs is set."


def _timed(trainer: Any) -> bool:
    for callback in getattr(trainer, "callbacks", None) or []:
        remaining = getattr(callback, "time_remaining", None)
        try:
            if remaining is not None and remaining() is not None:
                return True
        except Exception:
            continue
    return False


def _takeover(trainer: Any, horizon: Horizon) -> tuple[int | None, str]:
    """The last step before Lightning's weight averaging replaces the scheduler, when it is yet to do so."""
    for callback in getattr(trainer, "callbacks", None) or []:
        start = _read(callback, "swa_start", None)
        if not isinstance(start, int):
            continue
        configs = getattr(trainer, "lr_scheduler_configs", None) or []
        if any(type(config.scheduler).__name__ == "SWALR" for config in configs):
            continue
        epoch = max(start, horizon.grid.epoch)
        if horizon.grid.batches is None:
            return horizon.step, f"{type(callback).__name__} sets the learning rate from epoch {epoch} on."
        until = max(horizon.step, int(horizon.grid.ends(_one(epoch - 1))[0]))
        return until, f"{type(callback).__name__} sets the learning rate after step {until}."
    return None, ""


def _spec(trainer: Any, config: Any) -> SchedulerSpec:
    monitor = getattr(config, "monitor", None) if getattr(config, "reduce_on_plateau", False) else None
    return SchedulerSpec(
        config.scheduler,
        interval=getattr(config, "interval", "epoch"),
        frequency=max(1, int(getattr(config, "frequency", 1))),
        monitor=monitor,
        advance=_advance(_read(trainer, "lightning_module", None)),
    )


def _advance(module: Any) -> Callable[[Any, int, int], None] | None:
    """The module's own ``lr_scheduler_step``, run on a view of the module that it can read but not change."""
    method = getattr(type(module), "lr_scheduler_step", None)
    if method is None or method.__module__.startswith(_LIGHTNING):
        return None

    def advance(scheduler: Any, epoch: int, step: int) -> None:
        method(_View(module, epoch, step), scheduler, None)

    return advance


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
        if isinstance(value, Mapping):
            return copy(value)
        if isinstance(value, (bool, int, float, str, type(None))):
            return value
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


def _one(value: int) -> NDArray[np.int64]:
    return np.array([value], dtype=np.int64)
