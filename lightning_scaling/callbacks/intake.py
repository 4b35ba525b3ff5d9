"""What happens at every batch: one small record, and nothing that can wait until the flush."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import compress
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from lightning_scaling.callbacks.reading import kept_rate, loss_of, owned, read_parts, same_value, scaled_stack
from lightning_scaling.callbacks.tally import Array, BatchSize
from lightning_scaling.schedule.simulate import largest_group

_LOSS = "the loss that `training_step` returns"

Record = tuple[Any, BatchSize | None, int, int, Any]


@dataclass
class Columns:
    """Records of consecutive micro-batches, one entry each; what belongs to a step is in its last micro-batch.

    Attributes:
        parts: Their values, some dozens stacked on the device at a time.
        present: Whether each has a value.
        sizes: What each holds.
        done: Optimizer steps done after each.
        rates: Learning rate of the last step at each.
        error: What went wrong while stacking.
    """

    parts: list[Tensor] = field(default_factory=list)
    present: list[bool] = field(default_factory=list)
    sizes: list[BatchSize | None] = field(default_factory=list)
    done: list[int] = field(default_factory=list)
    rates: list[Any] = field(default_factory=list)
    error: Exception | None = None

    def add(self, records: list[Record]) -> None:
        """Append records, letting go of their tensors one by one: many small ones in use slow down everything else."""
        if not records:
            return
        values, sizes, factors, done, rates = zip(*records, strict=True)
        self.sizes += sizes
        self.done += done
        self.rates += rates
        present = [value is not None for value in values]
        self.present += present
        if not all(present):
            values, factors = tuple(compress(values, present)), tuple(compress(factors, present))
        if values:
            try:
                self.parts.append(scaled_stack(values, factors))
            except Exception as error:  # told at the flush, where all ranks meet
                self.error = error

    def read(self) -> tuple[Array, NDArray[np.bool_]]:
        """The values, ``nan`` where there is none, and where there is one; one transfer.

        Raises:
            Exception: What went wrong while stacking.
        """
        if self.error is not None:
            raise self.error
        present = np.array(self.present, dtype=bool)
        values = np.full(present.size, np.nan)
        if self.parts:
            values[present] = read_parts(self.parts)
        return values, present


class Intake:
    """Takes what each micro-batch has to give, at the cost of a few microseconds.

    The two functions that are called in the training loop are closures over all they need: right after a training
    step little is left in the processor's caches, and every object touched there costs.

    Args:
        trainer: The Trainer, about to train.
        module: The module in training.
        size: What a batch holds.
        metric: Name of a logged metric to follow instead of the loss.

    Attributes:
        take: Called with outputs and batch after each training step; says whether to flush.
        before_step: Called with the optimizer before each of its steps.
        manual: Whether the module optimizes by hand.
        per_step: Whether the followed metric may have a value at every step.
        metric_seen: Whether it has had one.
        compact: How many records are kept before their tensors are stacked into one.
        seconds: Time that this has taken.
    """

    compact = 64
    take: Callable[[Any, Any], bool]
    before_step: Callable[[Any], None]

    def __init__(self, trainer: Any, module: Any, size: Callable[[Any], BatchSize], metric: str | None) -> None:
        self.manual = not module.automatic_optimization
        self.per_step = metric is not None
        self.metric_seen = False
        self.seconds = 0.0
        self._trainer = trainer
        self._metric = metric
        self._last: Any = None
        self._records: list[Record] = []
        self._columns = Columns()
        self._flush_at = 1
        self._room = [1]
        self._rate: list[Any] = [None]
        self.progress = _step_progress(trainer, self.manual)
        optimizers = list(trainer.optimizers)
        self._main = optimizers[0] if optimizers else None
        self._group = 0 if self._main is None else largest_group(self._main)
        self.before_step = self._rate_taker(len(optimizers) > 1)
        self.take = self._taker(size) if metric is None else self._metric_taker(size)

    def _rate_taker(self, several: bool) -> Callable[[Any], None]:
        main, group, cell = self._main, self._group, self._rate
        if main is None:
            return lambda optimizer: None

        def before_step(optimizer: Any) -> None:
            if several and optimizer is not main:
                return
            rate = main.param_groups[group]["lr"]
            cell[0] = rate if rate.__class__ is float else kept_rate(rate)

        return before_step

    def _taker(self, size: Callable[[Any], BatchSize]) -> Callable[[Any, Any], bool]:
        records, room, rate = self._records, self._room, self._rate
        keep, trainer, manual, progress = records.append, self._trainer, self.manual, self.progress

        def take(outputs: Any, batch: Any) -> bool:
            try:
                loss = outputs["loss"]
            except (LookupError, TypeError):
                loss = loss_of(outputs)
            if manual or loss.__class__ is not Tensor:
                loss = owned(loss, _LOSS, clone=manual)
            keep((loss, size(batch), trainer.accumulate_grad_batches, progress.completed, rate[0]))
            return len(records) >= room[0] and self._full()

        return take

    def _metric_taker(self, size: Callable[[Any], BatchSize]) -> Callable[[Any, Any], bool]:
        records, room, rate = self._records, self._room, self._rate
        before = self.progress.completed

        def take(outputs: Any, batch: Any) -> bool:
            nonlocal before
            done = self.progress.completed
            value = self.look() if self.per_step and done != before else None
            before = done
            records.append((value, size(batch), 1, done, rate[0]))
            return len(records) >= room[0] and self._full()

        return take

    def look(self) -> Tensor | None:
        """The followed metric if it has a value that was not seen before; stays on its device."""
        value = self._trainer.callback_metrics.get(self._metric)
        if value is None or same_value(value, self._last):
            return None
        self._last = value
        self.metric_seen = True
        return owned(value, f"the metric `{self._metric}`", clone=False)

    def look_between(self) -> Tensor | None:
        """A new value of the followed metric at the end of a validation or at either end of an epoch.

        A metric first met here is not one of single steps and is from then on looked for only here. One that single
        steps have is passed over: its mean over the epoch bears the same name.
        """
        if self._metric is None:
            return None
        of_steps = self.per_step and self.metric_seen
        value = self.look()
        if of_steps:
            return None
        if value is not None:
            self.per_step = False
        return value

    def limp(self) -> bool:
        """Keep only the counters that decide when ranks meet; says whether to flush."""
        self._records.append((None, None, 1, self.progress.completed, None))
        return len(self._records) >= self._room[0] and self._full()

    def _full(self) -> bool:
        """Make the records compact; says whether it is time to flush."""
        begun = perf_counter()
        self._columns.add(self._records)
        self._records.clear()
        self.seconds += perf_counter() - begun
        self._room[0] = max(min(self._flush_at - self.pending, self.compact), 1)
        return self.pending >= self._flush_at

    def make_room(self, batches: int) -> None:
        """Set at how many pending micro-batches the next flush comes."""
        self._flush_at = batches
        self._room[0] = max(min(batches - len(self._columns.done), self.compact), 1)

    @property
    def pending(self) -> int:
        """Micro-batches that wait to be read; alike on all ranks."""
        return len(self._columns.done) + len(self._records)

    @property
    def rate(self) -> Any:
        """Learning rate of the last step, a float or a device scalar; ``None`` before the first."""
        return self._rate[0]

    def drain(self) -> Columns:
        """Everything that was taken since the last call."""
        columns, self._columns = self._columns, Columns()
        columns.add(self._records)
        self._records.clear()
        return columns

    def count_batches(self) -> None:
        """Take every batch for a step from now on: the optimizers are used behind Lightning's back."""
        self.progress.every_batch = True
        if self._main is not None:
            self._rate[0] = kept_rate(self._main.param_groups[self._group]["lr"])


class _GlobalStep:
    """``trainer.global_step`` in the shape of Lightning's own tracker."""

    def __init__(self, trainer: Any) -> None:
        self._trainer = trainer

    @property
    def completed(self) -> int:
        return int(self._trainer.global_step)


class _ManualSteps:
    """Optimizer steps under manual optimization; batches, where Lightning does not get to see the steps."""

    def __init__(self, trainer: Any) -> None:
        self.every_batch = False
        self._trainer = trainer

    @property
    def completed(self) -> int:
        trainer = self._trainer
        return int(trainer.fit_loop.total_batch_idx + 1 if self.every_batch else trainer.global_step)


def _step_progress(trainer: Any, manual: bool) -> Any:
    """The object whose ``completed`` counts optimizer steps; one attribute instead of the chain behind the property."""
    if manual:
        return _ManualSteps(trainer)
    try:
        tracker = trainer.fit_loop.epoch_loop.automatic_optimization.optim_progress.optimizer.step.total
        return tracker if tracker.completed == trainer.global_step else _GlobalStep(trainer)
    except AttributeError:
        return _GlobalStep(trainer)
