"""Capture of losses, learning rates and counters, read from the device in blocks.

Nothing here imports Lightning: the Trainer is used through what it offers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from lightning_scaling._utils.state import AttributeState
from lightning_scaling.callbacks.aggregation import COUNT, HIGH, LOSS, LOW, SAMPLES, TOKENS, Array, Block, Rows, running
from lightning_scaling.callbacks.batch_hooks import BatchHooks, BatchRecords
from lightning_scaling.callbacks.batch_size_meter import BatchSizeMeter
from lightning_scaling.callbacks.device_reads import CaptureError, read_numbers
from lightning_scaling.callbacks.distributed import Ranks

_MAX_PENDING = 4096  # batches; bounds the memory of a run that flushes seldom
_FLUSH_INTERVAL = 5.0  # seconds of training: fresh enough for charts, rare enough to cost nothing
_STATE_VERSION = 1
COUNTERS = ("micro_batches", "optimizer_steps", "steps", "skipped", "samples", "tokens", "flops", "seconds")
_FAILED, _ELAPSED, _OWN, _SKIPPED, _PACE, _READY = range(6)


class Capture(AttributeState):
    """Own counters and pending values of one training run.

    Args:
        sizes: Measures what batches hold.
        metric: Name of a logged metric to follow; ``None`` follows the loss that ``training_step`` returns.
        clock: Monotonic clock in seconds.

    Attributes:
        hooks: Called at every batch; from :meth:`attach` on.
        ranks: The processes of the run; from :meth:`attach` on.
        micro_batches: Batches that each rank has trained on.
        optimizer_steps: Calls of ``optimizer.step`` of all optimizers together.
        steps: Batches, or groups of accumulated batches, after which at least one optimizer stepped.
        flushes: How often pending values were reduced over the ranks; alike on all of them.
        lockstep: Whether every rank is certain to train on as many batches in each epoch.
        skipped: Micro-batches of all ranks without a loss (``training_step`` returned ``None``).
        samples: Samples of all ranks; ``None`` when they cannot be counted.
        tokens: Tokens of all ranks; ``None`` when they are not counted.
        flops: Training FLOPs of all ranks; ``None`` when they are not known.
        seconds: Wall time spent in training, earlier fits included; up to date at flushes.
        own_seconds: The part of ``seconds`` that went into monitoring, set by the caller; rank 0's after a flush.
        extra_reductions: Called at each flush for further numbers to be summed over the ranks, as many on each of them.
        reduced_extras: Their sums at the latest flush.
        ready: Whether rank zero has something for the others, set by the caller there; after a flush, on all ranks,
            whether they know that they all take it now.
    """

    STATE = (*COUNTERS, "own_seconds", "_partial", "_last_step")

    def __init__(self, sizes: BatchSizeMeter, *, metric: str | None, clock: Callable[[], float]) -> None:
        self.metric = metric
        self.micro_batches = self.optimizer_steps = self.steps = self.flushes = self.skipped = 0
        self.samples: int | None = 0
        self.tokens: int | None = 0
        self.flops: int | None = 0
        self.seconds = self.own_seconds = 0.0
        self.extra_reductions: Callable[[], Array] = lambda: np.zeros(0)
        self.reduced_extras: Array = np.zeros(0)
        self._sizes, self._clock = sizes, clock
        self._partial: list[Any] = [0.0, 0]
        self._last_step = 0
        self._paced: list[float] = [0.0, 0.0]
        self.ready = False

    def attach(self, trainer: Any, module: Any) -> None:
        """Begin, or go on, with this Trainer; called when training starts and everything has been restored."""
        self.hooks = BatchHooks(trainer, module, self._sizes, self.metric)
        self._trainer = trainer
        self.ranks = Ranks(trainer)
        self.lockstep = self.ranks.have_as_many_batches(trainer)
        self._done = self.hooks.progress.completed
        if not self.hooks.manual:
            self.steps = self.optimizer_steps = self._done
        elif self.optimizer_steps != self._done:
            stepped = getattr(trainer.fit_loop.epoch_loop, "_batches_that_stepped", self._done)
            self.steps, self.optimizer_steps = min(self._done, int(stepped)), self._done
        self.begin()

    def detach(self) -> None:
        """Let go of the Trainer and of all that belongs to it; the counters stay."""
        del self.hooks, self._trainer, self.ranks, self.extra_reductions

    def begin(self) -> None:
        """Start the clock; the next batch is flushed at once."""
        self._since = self._paced_at = self._clock()
        self._paced, self._paced_from = [0.0, 0.0], self._position
        self._target = 0
        self.hooks.make_room(1)

    @property
    def _by_steps(self) -> bool:
        """Whether flushes are counted in steps.

        Ranks whose data end at different batches accumulate shorter groups at different batches, too: what they do
        in the same order are the steps, at each of which Lightning exchanges the gradients.
        """
        return not self.lockstep and not self.hooks.manual and int(self._trainer.accumulate_grad_batches) > 1

    @property
    def _position(self) -> int:
        """Steps or batches of this rank up to the last flush, whichever all ranks do in the same order."""
        return self.steps if self._by_steps else self.micro_batches

    def aim(self, next_update: int | None = None) -> None:
        """Set the next flush: after the batches of some seconds, or earlier so that an update is made in time.

        Under several ranks only numbers that they share decide, so that all flush together whatever their engines say
        and wherever each of them has flushed for itself.

        Args:
            next_update: Step at which the engine wants an update.
        """
        group = 1 if self.hooks.manual else int(self._trainer.accumulate_grad_batches)
        if self._together:
            block = max(_MAX_PENDING // group, 1) if self._by_steps else _MAX_PENDING
            taken, elapsed = self._paced
            if taken and elapsed > 0:
                block = int(min(_FLUSH_INTERVAL * taken / elapsed, block))
            if next_update is not None and next_update > self.steps and self.alone:
                block = min(block, (next_update - self.steps) * group - self._partial[1])
            self._target = self._position + max(block, 1)
        self.hooks.make_room(max(self._target - self._position, 1))

    def too_early(self) -> bool:
        """Whether the steps up to the next flush are not done yet; their batches are then waited for."""
        left = self._target - self.hooks.progress.completed if self._by_steps else 0
        if left > 0:
            self.hooks.make_room(self.hooks.pending + left)
        return left > 0

    @property
    def alone(self) -> bool:
        """Whether this is the only rank."""
        return self.ranks.world == 1

    @property
    def stepless(self) -> bool:
        """Whether no optimizer has been seen to step, as when optimizers are used behind Lightning's back."""
        return self.hooks.manual and self.hooks.progress.completed == 0

    @property
    def lossless(self) -> bool:
        """Whether not one of the batches so far had a loss."""
        return self.metric is None and 0 < self.micro_batches * self.ranks.world <= self.skipped

    @property
    def counted(self) -> int | None:
        """Samples or tokens of all ranks so far, whichever is counted."""
        return self.samples if self._sizes.unit == "samples" else self.tokens

    def counters(self) -> dict[str, float]:
        """Rate and counters as of the last flush, by name; what is not known is left out."""
        found = {name: getattr(self, name) for name in ("samples", "tokens", "flops", "seconds")}
        found["lr"] = read_numbers([self.hooks.rate])[0]
        return {name: float(value) for name, value in found.items() if value is not None}

    def totals(self) -> dict[str, Any]:
        """All counters as of the last flush, by name."""
        return {name: getattr(self, name) for name in COUNTERS}

    @property
    def at_the_end(self) -> bool:
        """Whether training ended where it does on every rank: after all steps, or all epochs of as many batches."""
        loop, most = self._trainer.fit_loop, self._trainer.max_steps
        if isinstance(most, int) and 0 < most <= self._trainer.global_step:
            return True
        epochs = loop.max_epochs
        return bool(self.lockstep and epochs and epochs > 0 and loop.epoch_progress.current.processed >= epochs)

    @property
    def between_epochs(self) -> bool:
        """Whether every rank is certain to be here, at an end of an epoch or of a validation."""
        return self.lockstep and not self._trainer.should_stop

    def flush(self, *, together: bool, looking: bool = False, closing: bool = False) -> Block:
        """Read what is pending in one transfer, sum it over the ranks and update the counters.

        Args:
            together: Whether every rank is certain to be here, at the same point between its steps. Where it is not,
                nothing is reduced, so that none can wait for another for ever: the other ranks' batches are taken to
                equal those of this one.
            looking: Whether the followed metric may have a new value here, measured at the present step.
            closing: Whether an epoch or the training ends here.

        Raises:
            CaptureError: If this or another rank could not go on.
        """
        self._together = together = together or self.alone
        every_batch = self.stepless and self.hooks.pending and (closing or self.hooks.pending >= _MAX_PENDING)
        if every_batch:
            self.hooks.count_batches()
        elif self.stepless and self.metric is None:
            nothing = np.zeros((1, 6))
            nothing[0, [LOSS, COUNT]] = np.multiply(self._partial, self.ranks.world)
            self.reduced_extras = np.zeros(0)
            return self._block(nothing, [None], self.steps, self.seconds)
        columns = self.hooks.drain()
        batches = len(columns.done)
        done = np.arange(1, batches + 1) if every_batch else np.array(columns.done, dtype=np.int64)
        ends = np.flatnonzero(np.diff(done, prepend=self._done)) + 1
        now = self._clock()
        elapsed, self._since = now - self._since, now
        header = np.zeros(6)
        if self.ranks.first:
            header[[_ELAPSED, _OWN, _PACE, _READY]] = elapsed, self.own_seconds, now - self._paced_at, self.ready
        try:
            if self.hooks.failure is not None:
                raise self.hooks.failure
            value = self.hooks.look_between() if looking else None
            rows = self._rows(columns, ends, value, header)
        except Exception as error:
            self.hooks.failure = error
            header[_FAILED] = 1.0
            rows = np.zeros((ends.size + 1, 6))
        self.reduced_extras = self.extra_reductions()
        if together:
            header, self.reduced_extras, rows = self.ranks.sum_parts(header, self.reduced_extras, rows)
            self.flushes += 1
        else:
            world = self.ranks.world
            header[_SKIPPED] *= world
            self.reduced_extras, rows = self.reduced_extras * world, rows * world
        before = (self.steps, self.seconds)
        self.steps += ends.size
        self.micro_batches += batches
        if batches:
            self.optimizer_steps += int(done[-1]) - self._done
            self._done = self.hooks.progress.completed if every_batch else int(done[-1])
        self.skipped += round(header[_SKIPPED])
        self.seconds += float(header[_ELAPSED])
        self.ready = bool(header[_READY]) and together
        if together:
            self.own_seconds = float(header[_OWN])
            self._paced = [self._position - self._paced_from, self._paced[1] + float(header[_PACE])]
            self._paced_at = now
        if header[_FAILED] and together:  # otherwise the others hear of it at the next flush
            others = f"it failed on {round(header[_FAILED])} other rank(s)"
            raise CaptureError(str(self.hooks.failure or others)) from self.hooks.failure
        rates = columns.rates if ends.size == batches else [columns.rates[end - 1] for end in ends]
        return self._block(rows, [*rates, self.hooks.rate], *before)

    def _rows(self, columns: BatchRecords, ends: NDArray[np.intp], value: Tensor | None, header: Array) -> Array:
        """The rows of this rank, see :class:`Rows`; notes the skipped micro-batches in the header."""
        rows = Rows(ends, len(columns.sizes))
        rows.add_sizes(columns.sizes)
        values = rows.values
        read, present = columns.read()
        if self.metric is not None:
            now = read_numbers([value])
            values[:, LOSS] = np.append(read[ends - 1], now)
            values[:, COUNT] = np.append(present[ends - 1], value is not None)
            values[values[:, COUNT] == 0, LOSS] = 0.0
            return values
        if present.all():
            values[:, COUNT] = rows.lengths
            rows.add(LOSS, read)
        else:
            header[_SKIPPED] = present.size - int(present.sum())
            rows.add(COUNT, present.astype(np.float64))
            rows.add(LOSS, np.where(present, read, 0.0))
        values[0, [LOSS, COUNT]] += self._partial
        rows.average()
        return values

    def _block(self, rows: Array, rates: list[Any], steps_before: int, seconds_before: float) -> Block:
        steps = len(rows) - 1
        share, world = self.ranks.copies, self.ranks.world
        if self.metric is None:
            # Every rank goes on with the mean over ranks of the open group: the group's mean comes out the same.
            self._partial = [float(rows[-1, LOSS]) / world, round(rows[-1, COUNT] / world)]
            rows[-1, COUNT] = 0.0
        samples, self.samples = running(self.samples, rows[:, SAMPLES], share)
        tokens, self.tokens = running(self.tokens, rows[:, TOKENS], share)
        flops, self.flops = running(self.flops, rows[:, LOW], share, rows[:, HIGH])
        step = np.append(np.arange(1, steps + 1), steps)
        seconds = seconds_before + step * ((self.seconds - seconds_before) / max(steps, 1))
        seconds[-1] = self.seconds
        step += steps_before
        keep = (rows[:, COUNT] > 0) & (step > self._last_step)
        if keep[-1] and steps:
            keep[-2] = False
        chosen = step[keep]
        if chosen.size:
            self._last_step = int(chosen[-1])
        counted = [None if column is None else column[keep] for column in (samples, tokens, flops)]
        loss = rows[keep, LOSS] / rows[keep, COUNT]
        return Block(chosen, loss, read_numbers(rates)[keep], seconds[keep], *counted)

    def state_dict(self) -> dict[str, Any]:
        """The counters as builtins; flush first."""
        return {"version": _STATE_VERSION, **super().state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the counters of :meth:`state_dict`.

        Raises:
            ValueError: If a newer version of the package wrote them.
        """
        if state["version"] > _STATE_VERSION:
            raise ValueError(
                f"the saved counters have version {state['version']}, but this version of lightning-scaling reads up "
                f"to {_STATE_VERSION}; update the package"
            )
        super().load_state_dict(state)
