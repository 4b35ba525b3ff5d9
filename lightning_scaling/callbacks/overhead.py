"""Time taken by the monitor, held below a share of the training time."""

from __future__ import annotations

from collections.abc import Callable
from statistics import median
from typing import Any

from lightning_scaling.callbacks.batch_hooks import BatchHooks
from lightning_scaling.callbacks.batch_size_meter import BatchSizeMeter
from lightning_scaling.callbacks.capture import Capture
from lightning_scaling.callbacks.gradients import Gradients

# Timed batches whose median is taken for the cost of all; a batch right after a flush is slower than the others.
_TIMED_BATCHES, _SETTLING_BATCHES = 16, 8
_FREE_SECONDS = 0.03  # the least that a run may spend: some ten updates
_MARGIN = 0.9  # of the share, as the time of what comes next is not known
_UPDATE_SECONDS = 0.005  # usual cost of an update; several ranks cannot decide by clocks of their own


class TimedHooks:
    """Passes batches and steps on to those who record them, and times one batch after each flush.

    At most batches there is nothing but to record: what is called is then the recording itself.

    Args:
        hooks: Records losses, sizes and rates.
        gradients: Records gradient norms.
        sizes: Watches steps.
        clock: Monotonic clock in seconds.

    Attributes:
        per_batch: Median cost of the batches timed, in seconds.
        take: Records a batch, given outputs and batch; returns whether to flush.
        before_step: Records the learning rate, given the optimizer.
    """

    take: Callable[[Any, Any], bool]
    before_step: Callable[[Any], None]

    def __init__(
        self, hooks: BatchHooks, gradients: Gradients, sizes: BatchSizeMeter, clock: Callable[[], float]
    ) -> None:
        self.per_batch = 0.0
        self._hooks, self._gradients, self._sizes, self._clock = hooks, gradients, sizes, clock
        self._samples: list[float] = []
        self._timing = False
        self._step_seconds = 0.0
        self._choose()

    def _choose(self) -> None:
        """Call the recording itself, unless there is more to do."""
        gradients = self._gradients
        if self._timing or gradients.follows_batches or gradients.armed or self._sizes.watch is not None:
            self.take, self.before_step = self._take_closely, self._before_step_closely
        else:
            self.take, self.before_step = self._hooks.take, self._hooks.before_step

    def detach(self) -> None:
        """Let go of what is called."""
        del self.take, self.before_step, self._hooks

    def time_next(self) -> None:
        """Time a batch soon, but not one that the flush has slowed down."""
        if not self._timing:
            self._timing, self._to_settle, self._reading = True, _SETTLING_BATCHES, 0.0
            self._choose()

    def batch_started(self, batch: Any) -> None:
        """Have the step on a batch watched if its FLOPs are to be counted."""
        hooks = self._hooks
        if hooks.to_pass:
            hooks.to_pass -= 1
        elif self._sizes.begin(batch):
            self._choose()
        else:
            hooks.pass_over()

    def _before_step_closely(self, optimizer: Any) -> None:
        if self._sizes.watch is not None:
            self._sizes.watch.updating()
        begun = self._clock()
        self._hooks.before_step(optimizer)
        self._step_seconds = self._clock() - begun
        if self._gradients.armed:
            self._gradients.before_step(optimizer)

    def _take_closely(self, outputs: Any, batch: Any) -> bool:
        flops = self._sizes.end()
        begun = self._clock()
        if self._gradients.follows_batches:
            self._gradients.batch_ended(outputs)
        due = self._hooks.take(outputs, batch)
        if flops is not None:
            self._hooks.set_flops(flops)
        if self._timing:
            self._to_settle -= 1
            if self._to_settle <= 0 and self._gradients.seconds == self._reading:  # reading gradients is counted apart
                self._samples = [*self._samples[1 - _TIMED_BATCHES :], self._clock() - begun + self._step_seconds]
                self.per_batch = median(self._samples)
                self._timing = False
                self._gradients.arm()
            self._reading = self._gradients.seconds
        self._choose()
        return due


class OverheadBudget:
    """Books the monitor's own time, and says whether an update would take more than its share.

    Args:
        capture: Counts the training time, and the own time up to the last flush.
        share: Fraction of the training time that the monitor may use; 1 sets no limit.
        clock: Monotonic clock in seconds.
    """

    def __init__(self, capture: Capture, share: float, clock: Callable[[], float]) -> None:
        self.share = share
        self._capture, self._clock = capture, clock
        self._unbooked = 0.0
        self._flushing: float | None = None
        self._updates = 0

    @property
    def fraction(self) -> float:
        """Own time as a fraction of the training time, setup not included; up to date at flushes."""
        return self._capture.own_seconds / max(self._capture.seconds, 1e-9)

    @property
    def spent(self) -> bool:
        """Whether the time booked up to the last flush uses the share up."""
        return self._exceeds(self._capture.own_seconds)

    def _exceeds(self, seconds: float) -> bool:
        return seconds > max(_FREE_SECONDS, _MARGIN * self.share * self._capture.seconds)

    def exceeded(self, step: int) -> bool:
        """Whether an update now would take more than the share.

        Several ranks have to answer alike, so they reckon with rank zero's time and a usual cost of an update.
        """
        spent = self._capture.own_seconds + self._unbooked
        if self._flushing is not None:
            alone = self._capture.alone
            spent += self._clock() - self._flushing if alone else self._updates * _UPDATE_SECONDS
            self._updates += 1
        return self._exceeds(spent)

    def begin_flush(self, begun: float) -> None:
        """The time from here on is that of updates."""
        self._flushing, self._updates = begun, 0

    def end_flush(self, begun: float, batch_seconds: float) -> None:
        """Take note of the time of a flush, and of the batches that it read."""
        self._flushing = None
        self._unbooked = self._clock() - begun + batch_seconds

    def book(self, seconds: float = 0.0) -> None:
        """Add what was taken note of, and some more, to the own time."""
        self._capture.own_seconds += self._unbooked + seconds
        self._unbooked = 0.0

    def __call__(self, step: int) -> bool:
        """Whether the engine is to leave an update at a step out."""
        return self.exceeded(step)

    def __reduce__(self) -> tuple[Any, ...]:
        return (_unlimited, ())


def _unlimited() -> None:
    """A budget in another process: none."""
