"""Hooks of each batch: one small record, and nothing that can wait until the flush."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field
from itertools import compress
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from lightning_scaling.callbacks.aggregation import Array, BatchSize
from lightning_scaling.callbacks.batch_size_meter import BatchSizeMeter
from lightning_scaling.callbacks.device_reads import kept_rate, loss_of, owned, read_parts, same_value, stacked
from lightning_scaling.compute.batch_shapes import signature
from lightning_scaling.schedule.simulate import has_rate, largest_group

_LOSS = "the loss that `training_step` returns"
# Losses stacked on the device at a time: many small tensors in use slow the allocator down.
_STACK_SIZE = 16


@dataclass
class BatchRecords:
    """Records of consecutive micro-batches, one entry each; what belongs to a step is in its last micro-batch.

    Attributes:
        sizes: What each holds.
        factors: Number that the loss of each was divided by.
        done: Optimizer steps done after each.
        rates: Learning rate of the last step at each.
        parts: Their values, some dozens stacked on the device at a time.
        present: Whether each has a value.
        error: What went wrong while stacking.
    """

    sizes: tuple[BatchSize | None, ...] = ()
    factors: tuple[int, ...] = ()
    done: tuple[int, ...] = ()
    rates: tuple[Any, ...] = ()
    parts: list[Tensor] = field(default_factory=list)
    present: list[bool] = field(default_factory=list)
    error: Exception | None = None

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
            values[present] = read_parts(self.parts, tuple(compress(self.factors, self.present)))
        return values, present


class BatchHooks:
    """Called at every micro-batch: records its loss and size and the learning rate, and reads nothing from the device.

    Args:
        trainer: The Trainer, about to train.
        module: The module in training.
        sizes: Measures what batches hold.
        metric: Name of a logged metric to follow instead of the loss.

    Attributes:
        manual: Whether the module optimizes by hand.
        per_step: Whether the followed metric may have a value at every step.
        metric_seen: Whether it has had one.
        rate: Learning rate of the last step, a float or a device scalar; ``None`` before the first.
        failure: An error on this rank, after which losses and sizes are left out.
        to_pass: Steps that need not be watched, as long as batches keep their shape.
        seconds: Time that stacking has taken.
    """

    def __init__(self, trainer: Any, module: Any, sizes: BatchSizeMeter, metric: str | None) -> None:
        self.manual = not module.automatic_optimization
        self.per_step = metric is not None
        self.metric_seen = False
        self.rate: Any = None
        self.failure: BaseException | None = None
        self.to_pass, self.seconds = 0, 0.0
        self.progress = _step_progress(trainer, self.manual)
        self._trainer, self._sizes, self._metric = trainer, sizes, metric
        self._last: Any = None
        self._last_key: Any = None
        self._last_found: Any = None
        self._size: BatchSize | None = None
        self._done = self.progress.completed
        self._values: list[Any] = []
        self._records: list[tuple[BatchSize | None, int, int, Any]] = []
        self._stacked = BatchRecords()
        self.make_room(1)
        first = next(iter(trainer.optimizers), None)
        self._main = first if first is not None and has_rate(first) else None
        self._several = len(trainer.optimizers) > 1
        self._group = 0 if self._main is None else largest_group(self._main)

    def before_step(self, optimizer: Any) -> None:
        """Called with the optimizer before each of its steps: keeps the first one's learning rate."""
        main = self._main
        if main is None or (self._several and optimizer is not main):
            return
        rate = main.param_groups[self._group]["lr"]
        self.rate = rate if rate.__class__ is float else kept_rate(rate)

    def take(self, outputs: Any, batch: Any) -> bool:
        """Called after each training step; returns whether to flush."""
        value: Any = None
        size, factor = None, 1
        try:
            if self.failure is None:
                key: Any = None
                kind = batch.__class__
                try:
                    if kind is tuple or kind is list:
                        key = [item.shape for item in batch]
                    elif kind is dict:
                        key = [item.shape for item in batch.values()]
                except AttributeError:  # not all of them are tensors
                    pass
                size = self._size if key is not None and key == self._last_key else self._find(key, batch)
                if self._metric is not None:
                    done, before = self.progress.completed, self._done
                    self._done = done
                    value = self.look() if self.per_step and done != before else None
                else:
                    try:
                        value = outputs["loss"]
                    except (LookupError, TypeError):
                        value = loss_of(outputs)
                    if self.manual or value.__class__ is not Tensor:
                        value = owned(value, _LOSS, clone=self.manual)
                    factor = self._trainer.accumulate_grad_batches
        except Exception as error:
            if self._trainer.world_size == 1:
                raise
            self.failure, value, size = error, None, None
        values = self._values
        values.append(value)
        self._records.append((size, factor, self.progress.completed, self.rate))
        return len(values) >= self._room and self._full()

    def _find(self, key: Any, batch: Any) -> BatchSize:
        """Size of a batch that is not of the shape of the last one."""
        sizes = self._sizes
        if not sizes.by_shape:
            return sizes.look(batch)
        found = signature(batch) if key is None else tuple(key)
        if self._size is None or found != self._last_found:
            sizes.recall(self._size, self.to_pass)
            self.to_pass = 0
            self._size, lasting = sizes.find(found, batch)
            self._last_key, self._last_found = (key, found) if lasting else (None, None)
        return self._size

    def pass_over(self) -> None:
        """See how many of the next steps need not be watched, as long as their batches have this shape."""
        self.to_pass = self._sizes.pass_over(self._size)

    def set_flops(self, flops: int) -> None:
        """Put the FLOPs that the last step was seen to do into its record."""
        size, *rest = self._records[-1]
        if size is not None:
            self._records[-1] = (size._replace(flops=flops), *rest)

    def forget_sizes(self) -> None:
        """Look again at the next batch: batches of one shape may no longer hold what they did."""
        self._last_key = self._last_found = None

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

    def _full(self) -> bool:
        """Stack the values taken, and return whether it is time to flush."""
        begun = perf_counter()
        self._stack()
        self.make_room(self._flush_at)
        self.seconds += perf_counter() - begun
        return self.pending >= self._flush_at

    def _stack(self) -> None:
        values = self._values
        present = [value is not None for value in values]
        self._stacked.present += present
        try:
            if any(present):
                self._stacked.parts.append(stacked(list(compress(values, present))))
        except Exception as error:  # reported at the flush, where all ranks meet
            self._stacked.error = error
        values.clear()

    def make_room(self, batches: int) -> None:
        """Set at how many pending micro-batches the next flush comes."""
        self._flush_at = batches
        self._room = max(min(batches - len(self._stacked.present), _STACK_SIZE), 1)

    @property
    def pending(self) -> int:
        """Micro-batches that wait to be read; alike on all ranks."""
        return len(self._records)

    def drain(self) -> BatchRecords:
        """Everything recorded since the last call."""
        if self._values:
            self._stack()
        columns, self._stacked = self._stacked, BatchRecords(error=self._stacked.error)
        if self._records:
            sizes, columns.factors, columns.done, columns.rates = zip(*self._records, strict=True)
            columns.sizes = self._sizes.resolve(sizes)
        self._records.clear()
        return columns

    def count_batches(self) -> None:
        """Count every batch as a step from now on: the optimizers are used behind Lightning's back."""
        self.progress.every_batch = True
        if self._main is not None:
            self.rate = kept_rate(self._main.param_groups[self._group]["lr"])


class _GlobalStep:
    """``trainer.global_step`` in the shape of Lightning's own tracker; batches, where it does not see the steps."""

    every_batch = False

    def __init__(self, trainer: Any) -> None:
        self._trainer = trainer

    @property
    def completed(self) -> int:
        trainer = self._trainer
        return int(trainer.fit_loop.total_batch_idx + 1 if self.every_batch else trainer.global_step)


def _step_progress(trainer: Any, manual: bool) -> Any:
    """The object whose ``completed`` counts optimizer steps; one attribute instead of the chain behind the property."""
    if not manual:
        with suppress(AttributeError):
            tracker = trainer.fit_loop.epoch_loop.automatic_optimization.optim_progress.optimizer.step.total
            if tracker.completed == trainer.global_step:
                return tracker
    return _GlobalStep(trainer)
