"""The loss curve of a live run in bounded memory: exact sums in bins, and a raw window of the last steps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lightning_scaling._utils.state import AttributeState
from lightning_scaling.runs.final_loss import final_loss
from lightning_scaling.schedule.plan import Plan

_LOG_RESOLUTION = 32
_LINEAR_BINS = 256
_RATE_LEVELS = 64
_MAX_RATE_EDGES = 512
_FAR = 1e13
_WINDOW = 512

# Columns of a bin. Cumulative counters keep the value at the last step of the bin.
_COUNT, _FIRST, _LAST, _STEP_SUM, _LOSS_SUM, _SQUARES, _LR_SUM, _LR_COUNT, _TOKENS, _FLOPS, _SECONDS = range(11)
_ADDED = [_COUNT, _STEP_SUM, _LOSS_SUM, _SQUARES, _LR_SUM, _LR_COUNT]
_REPLACED = [_LAST, _TOKENS, _FLOPS, _SECONDS]


def bin_edges(plan: Plan | None) -> NDArray[np.float64]:
    """Last steps of the bins of a run: log-spaced, at most 1/256 of the plan wide, finer where the rate moves.

    Args:
        plan: What the run intends to do; ``None`` gives log-spaced bins without end.

    Returns:
        Increasing whole steps, shape ``(k,)``; ``k`` is at most about 1,300 however long the run is.
    """
    start = np.arange(1, _LOG_RESOLUTION + 1, dtype=np.float64)
    growth = 1 + 1 / _LOG_RESOLUTION
    total = plan.total_steps if plan is not None else None
    edges = [start]
    if total is None:
        edges.append(np.floor(np.geomspace(_LOG_RESOLUTION, _FAR, int(np.log(_FAR) / np.log(growth)))))
    else:
        width = max(total / _LINEAR_BINS, 1.0)
        turn = min(max(width * _LOG_RESOLUTION, _LOG_RESOLUTION), total)
        if turn > _LOG_RESOLUTION:
            count = max(int(np.log(turn / _LOG_RESOLUTION) / np.log(growth)), 2)
            edges.append(np.floor(np.geomspace(_LOG_RESOLUTION, turn, count)))
        edges.append(np.floor(np.arange(turn, total + width, width)))
        edges.append(np.array([total], dtype=np.float64))
        edges.append(np.floor(np.geomspace(total, total * 64, 6 * _LOG_RESOLUTION)))
    if plan is not None and plan.peak > 0:
        edges.append(_rate_edges(plan))
    merged: NDArray[np.float64] = np.unique(np.concatenate(edges))
    return merged


def _rate_edges(plan: Plan) -> NDArray[np.float64]:
    """Steps at which the planned rate has moved by another 1/64 of its peak."""
    travel = np.concatenate([[0.0], np.cumsum(np.abs(np.diff(plan.lr)))]) / plan.peak * _RATE_LEVELS
    count = min(int(travel[-1]), _MAX_RATE_EDGES)
    if count < 1:
        return np.empty(0)
    edges: NDArray[np.float64] = np.floor(np.interp(np.linspace(0, travel[-1], count + 1), travel, plan.steps))
    return edges


@dataclass(frozen=True)
class LossBlock:
    """Losses in the order of training with what is known of each, as arrays of one length ``n``.

    Attributes:
        step: Optimizer steps, shape ``(n,)``, increasing.
        loss: Losses, shape ``(n,)``.
        lr: Learning rates used, shape ``(n,)``; ``None`` where not recorded.
        tokens: Cumulative tokens or samples, shape ``(n,)``; ``None`` where not recorded.
        flops: Cumulative training FLOPs, shape ``(n,)``; ``None`` where not recorded.
        seconds: Cumulative seconds of training, shape ``(n,)``; ``None`` where not recorded.

    Example:
        >>> block = LossBlock.of([1, 2, 3], [3.0, 2.5, 2.2], lr=[0.1, 0.1, 0.05])
        >>> len(block), block[1:].lr.tolist(), sorted(block.columns())
        (3, [0.1, 0.05], ['loss', 'lr', 'step'])
    """

    step: NDArray[np.float64]
    loss: NDArray[np.float64]
    lr: NDArray[np.float64] | None = None
    tokens: NDArray[np.float64] | None = None
    flops: NDArray[np.float64] | None = None
    seconds: NDArray[np.float64] | None = None

    @classmethod
    def of(cls, step: ArrayLike, loss: ArrayLike, **columns: ArrayLike | None) -> LossBlock:
        """A block of anything that makes arrays, also of single numbers.

        Args:
            step: Optimizer steps.
            loss: Losses.
            **columns: ``lr``, ``tokens``, ``flops`` and ``seconds``.

        Raises:
            ValueError: If the shapes differ.
        """
        steps, losses = _flat(step), _flat(loss)
        if steps.ndim != 1 or steps.shape != losses.shape:
            raise ValueError(
                f"`step` and `loss` must have one equal length, but got shapes {steps.shape} and {losses.shape}."
            )
        others = {name: _flat(values) for name, values in columns.items() if values is not None}
        for name, column in others.items():
            if column.shape != steps.shape:
                raise ValueError(f"`{name}` must have one value per step, shape {steps.shape}, but got {column.shape}.")
        return cls(steps, losses, **others)

    def __len__(self) -> int:
        return int(self.step.size)

    def __getitem__(self, rows: slice | NDArray[np.bool_]) -> LossBlock:
        return LossBlock(**{name: column[rows] for name, column in self.columns().items()})

    def columns(self) -> dict[str, NDArray[np.float64]]:
        """The columns recorded, by name."""
        return {name: column for name, column in vars(self).items() if column is not None}

    def filled(self, name: str) -> NDArray[np.float64]:
        """A column, of ``nan`` where it is not recorded."""
        column: NDArray[np.float64] | None = getattr(self, name)
        return np.full(self.step.shape, np.nan) if column is None else column


@dataclass(frozen=True)
class Points:
    """The curve as arrays of one length: one entry per bin.

    Attributes:
        step: Mean step of the losses in the bin.
        loss: Mean of the finite losses in the bin.
        count: How many losses that is.
        spread: Standard deviation of the losses within the bin; ``nan`` for a single one.
        lr: Mean learning rate used, ``nan`` where none was recorded.
        tokens: Cumulative tokens (or samples) at the last step of the bin, ``nan`` where not recorded.
        flops: Cumulative training FLOPs at the last step of the bin, ``nan`` where not recorded.
        seconds: Cumulative seconds of training at the last step of the bin, ``nan`` where not recorded.
        last: Last step of the bin.
    """

    step: NDArray[np.float64]
    loss: NDArray[np.float64]
    count: NDArray[np.float64]
    spread: NDArray[np.float64]
    lr: NDArray[np.float64]
    tokens: NDArray[np.float64]
    flops: NDArray[np.float64]
    seconds: NDArray[np.float64]
    last: NDArray[np.float64]

    def final_loss(self, total_steps: float | None, *, reached: float | None = None) -> float | None:
        """Mean loss at the end of a plan, or at any other step (:func:`~lightning_scaling.runs.final_loss.final_loss`).

        Args:
            total_steps: The step.
            reached: Last step of the run; left out, that of the last bin.
        """
        return final_loss(self.last, self.loss, total_steps, count=self.count, reached=reached)


class Curve(AttributeState):
    """Loss against progress, bounded in memory whatever the length of the run.

    Losses are summed into bins whose edges depend on the plan and the step alone, so the result does not depend on how
    the points are cut into blocks. Losses that are not finite are counted and left out of every sum.

    Args:
        plan: What the run intends to do; it decides where bins end.
    """

    STATE = ("last_step", "seen", "nonfinite", "nonfinite_tail", "last_nonfinite_step", "broken_at")

    def __init__(self, plan: Plan | None = None) -> None:
        self._edges = bin_edges(plan)
        self._bins = np.empty((256, 11))
        self._size = 0
        self._window: NDArray[np.float64] = np.empty((0, 2))
        self.last_step = -1
        self.seen = 0
        self.nonfinite = 0
        self.nonfinite_tail = 0
        self.last_nonfinite_step: int | None = None
        self.broken_at: int | None = None
        self.segments: list[tuple[int, str]] = []

    def replan(self, plan: Plan) -> None:
        """Let the bins of the steps to come follow another plan."""
        self._edges = bin_edges(plan)

    def mark(self, reason: str, *, resumed: bool = False) -> None:
        """Begin a new segment after the last step seen; of a resume it is only noted, as the curve goes on."""
        self.segments.append((self.last_step, reason))
        if not resumed:
            self.broken_at = self.last_step

    def add(self, step: ArrayLike, loss: ArrayLike, **columns: ArrayLike | None) -> None:
        """Add losses in the order of training; arguments as :meth:`LossBlock.of`.

        Raises:
            ValueError: If the steps do not increase, or do not go beyond the last one, or the shapes differ.
        """
        self.add_block(LossBlock.of(step, loss, **columns))

    def add_block(self, block: LossBlock) -> None:
        """Add a block of losses whose steps go on from the last one.

        Raises:
            ValueError: If the steps do not increase or do not go beyond the last one.
        """
        if not len(block):
            return
        if block.step[0] <= self.last_step or np.any(np.diff(block.step) <= 0):
            raise ValueError(
                f"`step` must increase strictly and go beyond step {self.last_step}, but got {block.step[:8].tolist()}."
            )
        self.last_step = int(block.step[-1])
        self.seen += len(block)
        finite = np.isfinite(block.loss)
        self._count_nonfinite(block.step, finite)
        block = block if finite.all() else block[finite]
        if len(block):
            self._window = np.concatenate([self._window, np.stack([block.step, block.loss], 1)])[-_WINDOW:]
            self._sum(block)

    def _count_nonfinite(self, steps: NDArray[np.float64], finite: NDArray[np.bool_]) -> None:
        bad = np.flatnonzero(~finite)
        if bad.size == 0:
            self.nonfinite_tail = 0
            return
        good = np.flatnonzero(finite)
        self.nonfinite += int(bad.size)
        self.last_nonfinite_step = int(steps[bad[-1]])
        tail = steps.size - 1 - int(good[-1]) if good.size else steps.size
        self.nonfinite_tail = tail if good.size else self.nonfinite_tail + tail

    def _sum(self, block: LossBlock) -> None:
        steps, losses, lr = block.step, block.loss, block.filled("lr")
        owner = np.searchsorted(self._edges, steps, side="left")
        starts = np.concatenate([[0], np.flatnonzero(np.diff(owner)) + 1])
        ends = np.concatenate([starts[1:], [steps.size]]) - 1
        known = np.isfinite(lr)
        rows = np.empty((starts.size, 11))
        rows[:, _COUNT] = ends - starts + 1
        rows[:, _FIRST] = steps[starts]
        rows[:, _LAST] = steps[ends]
        used_lr, lr_known = np.where(known, lr, 0.0), known.astype(np.float64)
        sums = {_STEP_SUM: steps, _LOSS_SUM: losses, _LR_SUM: used_lr, _LR_COUNT: lr_known}
        for column, values in sums.items():
            rows[:, column] = np.add.reduceat(values, starts)
        # Squares about the bin's own mean: a sum of plain squares would lose the small spread of a large loss.
        centred = losses - np.repeat(rows[:, _LOSS_SUM] / rows[:, _COUNT], ends - starts + 1)
        rows[:, _SQUARES] = np.add.reduceat(centred**2, starts)
        for column, name in ((_TOKENS, "tokens"), (_FLOPS, "flops"), (_SECONDS, "seconds")):
            rows[:, column] = block.filled(name)[ends]
        if self._size and self._owner(self._size - 1) == owner[0] and not self._broken(rows[0, _FIRST]):
            open_bin = self._bins[self._size - 1]
            apart = open_bin[_LOSS_SUM] / open_bin[_COUNT] - rows[0, _LOSS_SUM] / rows[0, _COUNT]
            open_bin[_SQUARES] += apart**2 * open_bin[_COUNT] * rows[0, _COUNT] / (open_bin[_COUNT] + rows[0, _COUNT])
            open_bin[_ADDED] += rows[0, _ADDED]
            open_bin[_REPLACED] = rows[0, _REPLACED]
            rows = rows[1:]
        if self._size + len(rows) > len(self._bins):
            self._bins = np.concatenate([self._bins[: self._size], np.empty((self._size + 2 * len(rows), 11))])
        self._bins[self._size : self._size + len(rows)] = rows
        self._size += len(rows)

    def _owner(self, index: int) -> int:
        return int(np.searchsorted(self._edges, self._bins[index, _LAST], side="left"))

    def _broken(self, first: float) -> bool:
        """Whether a change was announced between the open bin and this step."""
        return self.broken_at is not None and self._bins[self._size - 1, _LAST] <= self.broken_at < first

    def __len__(self) -> int:
        return self._size

    @property
    def points(self) -> Points:
        """The bins as arrays."""
        bins = self._bins[: self._size]
        count = bins[:, _COUNT]
        with np.errstate(invalid="ignore", divide="ignore"):
            variance = bins[:, _SQUARES] / (count - 1)
            lr = np.where(bins[:, _LR_COUNT] > 0, bins[:, _LR_SUM] / bins[:, _LR_COUNT], np.nan)
        return Points(
            step=bins[:, _STEP_SUM] / count,
            loss=bins[:, _LOSS_SUM] / count,
            count=count.copy(),
            spread=np.where(count > 1, np.sqrt(np.maximum(variance, 0.0)), np.nan),
            lr=lr,
            tokens=bins[:, _TOKENS].copy(),
            flops=bins[:, _FLOPS].copy(),
            seconds=bins[:, _SECONDS].copy(),
            last=bins[:, _LAST].copy(),
        )

    @property
    def recent(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Steps and losses of the last finite points, at most 512 of each, oldest first."""
        return self._window[:, 0], self._window[:, 1]

    def state_dict(self) -> dict[str, Any]:
        """The curve as builtins."""
        return {
            "edges": self._edges[self._edges >= self.last_step].tolist(),
            "bins": self._bins[: self._size].tolist(),
            "window": self._window.tolist(),
            **super().state_dict(),
            "segments": [[step, reason] for step, reason in self.segments],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from what :meth:`state_dict` returned."""
        self._bins = np.array(state["bins"], dtype=np.float64).reshape(-1, 11)
        self._size = len(self._bins)
        past = self._bins[:-1, _LAST] if self._size else np.empty(0)
        self._edges = np.unique(np.concatenate([past, np.array(state["edges"], dtype=np.float64)]))
        self._window = np.array(state["window"], dtype=np.float64).reshape(-1, 2)
        super().load_state_dict(state)
        self.segments = [(int(step), str(reason)) for step, reason in state["segments"]]


def _flat(values: ArrayLike) -> NDArray[np.float64]:
    return np.atleast_1d(np.asarray(values, dtype=np.float64))
