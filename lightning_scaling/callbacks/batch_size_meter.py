"""What each micro-batch holds, at the cost of a look at its shapes."""

from __future__ import annotations

from collections.abc import Mapping
from time import perf_counter
from typing import Any

from torch import Tensor

from lightning_scaling.callbacks.aggregation import BatchSize
from lightning_scaling.compute import BatchCounter, FlopMeter

_MOST_SHAPES = 4096


class BatchSizeMeter:
    """Samples, tokens and FLOPs of micro-batches; measures each new batch shape once and remembers it.

    Args:
        count: As in :class:`~lightning_scaling.compute.BatchCounter`.
        flops: As in :class:`~lightning_scaling.compute.FlopMeter`.
        module: The LightningModule in training.

    Attributes:
        by_shape: Whether shapes alone tell what a batch holds.
        seconds: Time spent on measuring.
    """

    def __init__(self, count: Any, flops: Any, module: Any) -> None:
        self.seconds = 0.0
        self._counter = BatchCounter(count)
        self._meter = FlopMeter(flops, counter=self._counter)
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
        lasting = self.by_shape and not isinstance(size.samples, Tensor) and not isinstance(size.tokens, Tensor)
        if lasting and len(self._known) < _MOST_SHAPES:
            self._known[key] = size
        return size, lasting and len(self._known) < _MOST_SHAPES

    def look(self, batch: Any) -> BatchSize:
        """Count a batch, measuring its FLOPs if no batch of its shape has been seen."""
        samples, tokens = self._counter.samples_and_tokens(batch)
        flops = self._meter.per_batch(batch)
        if flops is None and self._meter.wanting:
            begun = perf_counter()
            flops = self._meter.measure(self._module, batch)
            self.seconds += perf_counter() - begun
        return BatchSize(samples, tokens, None if flops is None else round(flops))

    def detach(self) -> None:
        """Let go of the module."""
        self._module = None

    def refresh(self) -> bool:
        """Measure anew if parameters were added, frozen or unfrozen; says whether."""
        changed = self._meter.refresh(self._module)
        if changed:
            self._known.clear()
        return changed

    @property
    def unit(self) -> str:
        """What is counted: ``"tokens"`` or ``"samples"``."""
        return self._counter.unit

    @property
    def provenance(self) -> str | None:
        """Where the FLOPs come from; ``None`` when they are not known."""
        return self._meter.provenance

    @property
    def note(self) -> str:
        """What the cross-check of the FLOPs found."""
        return self._meter.note

    def sentences(self) -> list[str]:
        """What is counted, and how."""
        return [self._counter.describe(), self._meter.describe()]

    def state_dict(self) -> dict[str, Any]:
        """The FLOPs of the shapes measured so far, as builtins."""
        return self._meter.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take back what was measured, as long as the parameters are the same."""
        self._meter.load_state_dict(state)
