"""Aggregation of the batches of a flush into rows that ranks can sum, and into a block of the curve."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from lightning_scaling.callbacks.device_reads import read_numbers
from lightning_scaling.compute.shape_flops import ShapeFlops

Array = NDArray[np.float64]
Counts = NDArray[np.int64] | NDArray[np.float64]

# One row per step, and a last one for the batches of a group that has not stepped yet. FLOPs travel in two halves, so
# that each sum over ranks is a whole number that float64 holds exactly.
LOSS, COUNT, SAMPLES, TOKENS, LOW, HIGH = range(6)
_HALF = 2**40
_WORD = 2**62


class BatchSize(NamedTuple):
    """What one micro-batch holds: whole numbers, or what they are read from at the flush, or ``None`` if unknown."""

    samples: int | Tensor | None
    tokens: int | Tensor | None
    flops: int | ShapeFlops | None


@dataclass(frozen=True)
class Block:
    """A stretch of training: one row per optimizer step that had a loss, or a value of the followed metric.

    Attributes:
        step: Optimizer step, 1-based, shape ``(n,)``, strictly increasing.
        loss: Loss of the step, the mean over its micro-batches and over the ranks, shape ``(n,)``.
        lr: Learning rate used for the step, shape ``(n,)``; ``nan`` where unknown.
        seconds: Wall time of training up to the step, shape ``(n,)``; linear between flushes.
        samples: Samples seen up to and including the step, all ranks together, shape ``(n,)``; ``None`` if unknown.
        tokens: Tokens likewise; ``None`` when they are not counted.
        flops: Training FLOPs likewise, as floats from ``2**62`` on; ``None`` when they are not known.
    """

    step: NDArray[np.int64]
    loss: Array
    lr: Array
    seconds: Array
    samples: Counts | None
    tokens: Counts | None
    flops: Counts | None

    def __len__(self) -> int:
        return int(self.step.size)

    def at(self, step: int) -> dict[str, float]:
        """Rate and counters at a step of the block, by name; nothing for a step that is not in it."""
        row = int(np.searchsorted(self.step, step))
        if row >= len(self) or self.step[row] != step:
            return {}
        known = {name: column for name, column in vars(self).items() if name not in ("step", "loss")}
        return {name: float(column[row]) for name, column in known.items() if column is not None}

    def columns(self) -> dict[str, Any]:
        """The columns as the engine takes them, by name: of samples, where tokens are not counted."""
        columns = {name: column for name, column in vars(self).items() if name != "samples"}
        return {**columns, "tokens": self.samples if self.tokens is None else self.tokens}


class Rows:
    """The rows of a flush: sums over the micro-batches of each step.

    Args:
        ends: Number of micro-batches up to the end of each step, shape ``(steps,)``.
        batches: Number of micro-batches altogether.

    Attributes:
        values: Columns that ranks sum, shape ``(steps + 1, 6)``.
        lengths: Number of micro-batches of each row.
    """

    def __init__(self, ends: NDArray[np.intp], batches: int) -> None:
        self.steps = ends.size
        self.values = np.zeros((self.steps + 1, 6))
        self.lengths = np.diff(ends, prepend=0, append=batches)
        one_each = self.steps == batches
        self._owner = None if one_each else np.repeat(np.arange(self.steps + 1), self.lengths)

    def add(self, column: int, entries: Array) -> None:
        """Sum entries of micro-batches, shape ``(batches,)``, into a column."""
        if self._owner is None:
            self.values[:-1, column] = entries
        else:
            self.values[:, column] = np.bincount(self._owner, entries, self.steps + 1)

    def add_sizes(self, sizes: Sequence[Any]) -> None:
        """Sum samples, tokens and FLOPs of micro-batches; what is not known makes its column ``nan``."""
        if not sizes:
            return
        first = sizes[0]
        if _all_same(sizes):
            each = [*read_numbers([first.samples, first.tokens]), *_halves(first.flops)]
            self.values[:, SAMPLES:] = np.multiply.outer(self.lengths, each)
            return
        self.add(SAMPLES, read_numbers([size.samples for size in sizes]))
        self.add(TOKENS, read_numbers([size.tokens for size in sizes]))
        for column, halves in zip((LOW, HIGH), np.transpose([_halves(size.flops) for size in sizes]), strict=True):
            self.add(column, halves)

    def average(self) -> None:
        """Turn the losses of each step into their mean and its count into 1, or 0 without a loss."""
        counts = self.values[:-1, COUNT]
        self.values[:-1, LOSS] /= np.maximum(counts, 1.0)
        self.values[:-1, COUNT] = counts > 0


def _all_same(sizes: Sequence[Any]) -> bool:
    """Whether all are one object of plain numbers, as they are while the batch shape stays the same."""
    return len(set(map(id, sizes))) == 1 and not any(isinstance(value, Tensor) for value in sizes[0][:2])


def _halves(flops: int | None) -> tuple[float, float]:
    return (np.nan, np.nan) if flops is None else (float(flops % _HALF), float(flops // _HALF))


def running(
    total: int | None, column: Array, copies: int, high: Array | None = None
) -> tuple[Counts | None, int | None]:
    """Cumulative sums of whole numbers and the new total; ``None`` once something was unknown.

    Args:
        total: Total so far.
        column: What each row adds, shape ``(n,)``.
        copies: How many ranks count the same batch.
        high: The upper halves of numbers whose lower halves are in ``column`` and whose sum may not fit into 64 bits.
    """
    if total is None or np.isnan(column).any():
        return None, None
    whole = np.rint(column).astype(np.int64)
    if high is not None:
        parts = np.rint(high).astype(np.int64)
        fits = float(parts.sum()) * _HALF + total < _WORD
        whole = whole + parts * _HALF if fits else whole.astype(object) + parts.astype(object) * _HALF
    sums = np.cumsum(whole // copies) + total
    return sums.astype(np.float64) if sums.dtype == object else sums, int(sums[-1])
