"""Samples, tokens and FLOPs of micro-batches."""

from __future__ import annotations

from collections.abc import Sequence
from time import perf_counter
from typing import TYPE_CHECKING, Any

from torch import Tensor

from lightning_scaling.callbacks.aggregation import BatchSize
from lightning_scaling.callbacks.guard import Guard
from lightning_scaling.compute import BatchCounter, FlopMeter
from lightning_scaling.compute.shape_flops import ShapeFlops

if TYPE_CHECKING:
    from lightning_scaling.compute.watch import Watch

_MAX_SHAPES = 4096  # remembered; bounds the memory of a run whose batches all differ


class BatchSizeMeter:
    """Samples, tokens and FLOPs of micro-batches, known by their shapes; FLOPs are counted on some of the real steps.

    Args:
        count: As in :class:`~lightning_scaling.compute.BatchCounter`.
        flops: As in :class:`~lightning_scaling.compute.FlopMeter`.
        module: The LightningModule in training.

    Attributes:
        meter: Knows the FLOPs.
        by_shape: Whether shapes alone determine what a batch holds.
        watch: The look at the step under way; ``None`` while there is none.
        seconds: Time spent on watching steps and on estimates.
        error: What went wrong with FLOPs, which are then left out.
    """

    def __init__(self, count: Any, flops: Any, module: Any) -> None:
        self.seconds = 0.0
        self.watch: Watch | None = None
        self.error: Exception | None = None
        self._counter = BatchCounter(count)
        self.meter = FlopMeter(flops, counter=self._counter)
        self._samples_only = BatchCounter("samples")
        self._guard = Guard()
        self._module = module
        self.by_shape = not callable(count) and not callable(flops)
        self._known: dict[Any, BatchSize] = {}

    def find(self, key: Any, batch: Any) -> tuple[BatchSize, bool]:
        """What a batch holds, and whether all batches of its shape hold the same.

        Args:
            key: Its shape, as ``signature`` or in another way of the caller's.
            batch: The batch; tensors stay on their device.
        """
        known = self._known.get(key) if self.by_shape else None
        if known is not None:
            return known, True
        size = self.look(batch)
        lasting = self.by_shape and not any(isinstance(value, Tensor) for value in size[:2])
        if lasting and len(self._known) < _MAX_SHAPES:
            self._known[key] = size
        return size, lasting and len(self._known) < _MAX_SHAPES

    def look(self, batch: Any) -> BatchSize:
        """Count a batch, samples alone once the user's `count` has failed; FLOPs may be those of its shape."""
        sentence = "`count` failed ({cause}); tokens are not counted any more, training continues."
        counted = self._guard.run("count", sentence, self._counter.samples_and_tokens, batch)
        samples, tokens = counted or (self._samples_only.samples_and_tokens(batch)[0], None)
        flops = None
        if self.error is None:
            begun = perf_counter()
            try:
                flops = self.meter.prospect(self._module, batch)
            except Exception as error:
                self.error = error
            self.seconds += perf_counter() - begun
        return BatchSize(samples, tokens, round(flops) if isinstance(flops, (int, float)) else flops)

    def begin(self, batch: Any) -> bool:
        """Look at the step on a batch, which is about to begin, if the meter wants to; returns whether it does."""
        self.end(failed=True)
        try:
            if self.error is None and self.meter.wants(self._module, batch):
                watch = self.meter.watch(self._module, batch)
                self.watch = watch if watch.begin() else None
        except Exception as error:
            self.error = error
        return self.watch is not None

    def end(self, *, failed: bool = False) -> int | None:
        """End the look at a step, in whatever way the step ended; its FLOPs if it was watched and they are known."""
        watch, self.watch = self.watch, None
        if watch is None:
            return None
        flops = watch.end(failed=failed)
        self.seconds += watch.seconds
        return flops

    def pass_over(self, size: BatchSize | None) -> int:
        """How many of the next steps need no :meth:`begin`, as long as their batches hold what this one does."""
        shape = None if size is None else size.flops
        return shape.family.pass_over(shape) if isinstance(shape, ShapeFlops) else 0

    @staticmethod
    def recall(size: BatchSize | None, steps: int) -> None:
        """Take back what is left of :meth:`pass_over`, as batches hold something else now."""
        if steps and size is not None and isinstance(size.flops, ShapeFlops):
            size.flops.family.recall(steps)

    @staticmethod
    def resolve(sizes: Sequence[BatchSize | None]) -> tuple[BatchSize | None, ...]:
        """Put numbers in the place of FLOPs by shape, as they are known by now; what was one object stays one."""
        found: dict[int, BatchSize | None] = {}
        for size in sizes:
            if size is not None and isinstance(size.flops, ShapeFlops) and id(size) not in found:
                found[id(size)] = size._replace(flops=size.flops.figure())
        return tuple([found.get(id(size), size) for size in sizes])

    def detach(self) -> None:
        """Let go of the module."""
        self.end(failed=True)
        self._module = None

    def refresh(self) -> bool:
        """Measure anew if parameters were added, frozen or unfrozen; says whether."""
        if changed := self.meter.refresh(self._module):
            self._known.clear()
        return changed

    @property
    def unit(self) -> str:
        """What is counted: ``"tokens"`` or ``"samples"``."""
        return self._counter.unit

    def sentences(self) -> list[str]:
        """What is counted, and how."""
        return [self._counter.describe(), self.meter.describe()]
