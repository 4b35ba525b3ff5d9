"""What each micro-batch holds, at the cost of a look at its shapes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from operator import attrgetter
from time import perf_counter
from typing import Any

from torch import Tensor

from lightning_scaling.callbacks.tally import BatchSize
from lightning_scaling.compute import BatchCounter, FlopMeter
from lightning_scaling.compute.shapes import signature

_MOST_SHAPES = 4096


class Sizes:
    """Samples, tokens and FLOPs of micro-batches; measures each new batch shape once and remembers it.

    Args:
        count: As in :class:`~lightning_scaling.compute.BatchCounter`.
        flops: As in :class:`~lightning_scaling.compute.FlopMeter`.
        module: The LightningModule in training.

    Attributes:
        seconds: Time spent on measuring.
    """

    def __init__(self, count: Any, flops: Any, module: Any) -> None:
        self.seconds = 0.0
        self._counter = BatchCounter(count)
        self._meter = FlopMeter(flops, counter=self._counter)
        self._module = module
        self._by_shape = not callable(count) and not callable(flops)
        self._known: dict[Any, BatchSize] = {}

    def reader(self) -> Callable[[Any], BatchSize]:
        """A function of the batch that tells what it holds; tensors stay on their device."""
        if not self._by_shape:
            return self._look
        known, find = self._known, self._find
        shape_of = attrgetter("shape")
        last_key: Any = None
        last: Any = None

        def read(batch: Any) -> BatchSize:
            nonlocal last_key, last
            kind = batch.__class__
            try:
                if kind is Tensor:
                    key = batch.shape
                elif kind is list or kind is tuple:
                    key = tuple(map(shape_of, batch))
                elif kind is dict:
                    key = tuple(map(shape_of, batch.values()))
                else:
                    key = signature(batch)
            except AttributeError:  # not all of them are tensors
                key = signature(batch)
            if key != last_key or not known:
                last = find(key, batch)
                last_key = key if key in known else None
            return last  # type: ignore[no-any-return]

        return read

    def _find(self, key: Any, batch: Any) -> BatchSize:
        size = self._known.get(key)
        if size is None:
            size = self._look(batch)
            counted_by_value = isinstance(size.samples, Tensor) or isinstance(size.tokens, Tensor)
            if not counted_by_value and len(self._known) < _MOST_SHAPES:
                self._known[key] = size
        return size

    def _look(self, batch: Any) -> BatchSize:
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

    def refresh(self) -> None:
        """Measure anew if parameters were added, frozen or unfrozen."""
        if self._meter.refresh(self._module):
            self._known.clear()

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
