"""The record of one training run."""

from __future__ import annotations

import csv
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lightning_scaling._utils.formatting import count, plural, significant
from lightning_scaling._utils.serialization import to_builtins
from lightning_scaling.runs.final_loss import final_loss, is_finished
from lightning_scaling.schedule.plan import Plan

# of the peak rate: some units in the last place of the single-precision numbers that loggers write
_ROUND_OFF = 1e-6


@dataclass(frozen=True, init=False, eq=False)
class Run:
    """A recorded training run: its curve, its plan and what is known about it.

    Args:
        step: Optimizer steps at which the loss was recorded, shape ``(n,)``, strictly increasing.
        loss: Loss at those steps, shape ``(n,)``, in the unit it was logged in (nats per token for language models).
            ``inf`` is a loss that was not finite; ``nan`` is a row without a loss, which carries only the learning
            rate (without an ``lr`` column there is no such row, and ``nan`` too counts as a loss that was not finite).
        lr: Learning rate used at those steps, shape ``(n,)``; ``None`` when unknown.
        total_steps: Optimizer steps the run intended to make.
        planned_lr: ``(steps, lr)``, the planned schedule. Left out, the whole ``lr`` column is the plan.
        params: Number of parameters.
        tokens_per_step: Tokens (or samples, if the run has no tokens) per optimizer step.
        flops_per_step: Training FLOPs (forward and backward) per optimizer step.
        family: Name of the recipe and data set that runs must share to be compared.
        name: Name of the run.
        meta: Anything else worth keeping; builtins only.

    Raises:
        ValueError: If the arrays do not describe a curve.

    Example:
        >>> run = Run([1, 2, 3], [5.0, 4.0, 3.5], total_steps=100)
        >>> run
        Run(100 steps, 3 made, loss 5.00 -> 3.50)
    """

    step: NDArray[np.int64]
    loss: NDArray[np.float64]
    lr: NDArray[np.float64] | None
    total_steps: int
    planned_lr: tuple[NDArray[np.float64], NDArray[np.float64]] | None
    params: int | None
    tokens_per_step: float | None
    flops_per_step: float | None
    family: str | None
    name: str | None
    meta: Mapping[str, Any] = field(default_factory=dict)

    def __init__(
        self,
        step: ArrayLike,
        loss: ArrayLike,
        lr: ArrayLike | None = None,
        *,
        total_steps: int,
        planned_lr: tuple[ArrayLike, ArrayLike] | None = None,
        params: int | None = None,
        tokens_per_step: float | None = None,
        flops_per_step: float | None = None,
        family: str | None = None,
        name: str | None = None,
        meta: Mapping[str, Any] | None = None,
    ) -> None:
        steps, losses = _column("step", step), _column("loss", loss)
        rates = None if lr is None else _rates("lr", lr)
        for label, column in (("loss", losses), ("lr", rates)):
            if column is not None and column.shape != steps.shape:
                counts = f"has {column.size} values but `step` has {steps.size}"
                raise ValueError(f"`{label}` {counts}; give one value per step.")
        if steps.size == 0:
            raise ValueError("A run needs at least one recorded step, but `step` is empty.")
        if not np.all(np.isfinite(steps)) or np.any(steps != np.floor(steps)) or np.any(steps < 0):
            raise ValueError("`step` must hold whole numbers of optimizer steps, not negative.")
        backwards = np.flatnonzero(np.diff(steps) <= 0)
        if backwards.size:
            at = int(backwards[0])
            raise ValueError(
                f"`step` must increase strictly, but step {steps[at]:.0f} is followed by {steps[at + 1]:.0f}; "
                "sort the rows and keep one per step."
            )
        if isinstance(total_steps, bool) or not isinstance(total_steps, int | np.integer) or total_steps < 1:
            raise ValueError(f"`total_steps` must be a whole number of at least 1, but got {total_steps!r}.")
        sizes = {"params": params, "tokens_per_step": tokens_per_step, "flops_per_step": flops_per_step}
        for label, value in sizes.items():
            if value is not None and not (math.isfinite(value) and value > 0):
                raise ValueError(f"`{label}` must be a positive number or None, but got {value!r}.")
        if planned_lr is not None:
            planned_lr = (_column("planned_lr[0]", planned_lr[0]), _rates("planned_lr[1]", planned_lr[1]))
        self.__dict__.update(
            step=steps.astype(np.int64),
            loss=losses if rates is not None else np.where(np.isnan(losses), np.inf, losses),
            lr=rates,
            total_steps=int(total_steps),
            planned_lr=planned_lr,
            params=None if params is None else int(params),
            tokens_per_step=tokens_per_step,
            flops_per_step=flops_per_step,
            family=family,
            name=name,
            meta=dict(meta or {}),
        )

    def __len__(self) -> int:
        return int(self.step.size)

    def __repr__(self) -> str:
        seen = self.loss[np.isfinite(self.loss)]
        facts = [] if self.name is None else [repr(self.name)]
        facts.append(plural(self.total_steps, "step"))
        if self.reached < self.total_steps:
            facts.append(f"{self.reached:,} made")
        if seen.size:
            facts.append(f"loss {significant(float(seen[0]), 3)} -> {significant(float(seen[-1]), 3)}")
        if self.params is not None:
            facts.append(f"{count(self.params)} params")
        return f"{type(self).__name__}({', '.join(facts)})"

    @property
    def plan(self) -> Plan:
        """The learning rate of every step: ``planned_lr``, else the recorded rates, else unknown."""
        if self.planned_lr is not None:
            return Plan(*self.planned_lr, total_steps=self.total_steps)
        if self.lr is not None:
            known = np.isfinite(self.lr)
            if known.any():
                last = int(self.step[known][-1])
                lasting = last >= 0.95 * self.total_steps or np.ptp(self.lr[known]) == 0
                why = "" if lasting else f"the learning rate is recorded up to step {last} only"
                knots = self.step[known], self.lr[known]
                return Plan(*knots, total_steps=self.total_steps, known=bool(lasting), why=why)
        return Plan.constant(total_steps=self.total_steps, known=False, why="no learning rate is recorded")

    @property
    def reached(self) -> int:
        """Last step with a finite loss; 0 where there is none."""
        seen = self.step[np.isfinite(self.loss)]
        return int(seen[-1]) if seen.size else 0

    @property
    def finished(self) -> bool:
        """Whether it came to the end of its plan (:func:`~lightning_scaling.runs.final_loss.is_finished`)."""
        return is_finished(self.reached, self.total_steps)

    @property
    def final_loss(self) -> float | None:
        """Mean loss at the end of the plan (:func:`~lightning_scaling.runs.final_loss.final_loss`); else ``None``."""
        return final_loss(self.step, self.loss, self.total_steps)

    @classmethod
    def from_csv(cls, path: str | os.PathLike[str], *, total_steps: int | None = None, **known: Any) -> Run:
        """Read a curve from a CSV file with a header and the columns ``step,loss[,lr]``; other columns are ignored.

        Rows with an empty loss carry only the learning rate, and nothing where there is no such column; ``nan`` and
        ``inf`` are losses that were not finite.

        Args:
            path: The file.
            total_steps: Optimizer steps the run intended to make; left out, the last step of the file.
            **known: Further arguments of :class:`Run`.

        Raises:
            ValueError: If the file is not such a table, naming the line.
            FileNotFoundError: If there is no such file.
        """
        file = Path(path)
        rows: dict[str, list[float]] = {"step": [], "loss": [], "lr": []}
        with file.open(newline="", encoding="utf-8-sig") as handle:
            reader = csv.DictReader(handle)
            columns = [name.strip() for name in reader.fieldnames or []]
            if not columns:
                raise ValueError(f"{file} is empty; expected a header line `step,loss[,lr]` and rows below it.")
            missing = [name for name in ("step", "loss") if name not in columns]
            if missing:
                raise ValueError(
                    f"{file} has no column `{missing[0]}`; expected `step,loss[,lr]` but found `{','.join(columns)}`."
                )
            reader.fieldnames = columns
            present = [name for name in rows if name in columns]
            for row in reader:
                for name in present:
                    rows[name].append(_number(row[name], name, file, reader.line_num))
        if not rows["step"]:
            raise ValueError(f"{file} has a header but no rows; expected at least one line of `step,loss[,lr]`.")
        steps = np.array(rows["step"])
        if not np.all(np.isfinite(steps)):
            raise ValueError(f"{file} has a row without a step; every row needs a step.")
        known.setdefault("name", file.stem)
        known["total_steps"] = int(steps[-1]) if total_steps is None else total_steps
        losses = np.array(rows["loss"])
        if not rows["lr"]:
            steps, losses = steps[~np.isnan(losses)], losses[~np.isnan(losses)]
        try:
            return cls(steps, losses, rows["lr"] or None, **known)
        except ValueError as error:
            raise ValueError(f"{file}: {error}") from error

    @classmethod
    def from_mlflow(
        cls,
        run_id: str,
        *,
        metric: str | Sequence[str] | None = None,
        tracking_uri: str | None = None,
        lr: str | Sequence[str] | None = None,
        family: str | Sequence[str] | None = None,
        timeout: float = 20.0,
    ) -> Run:
        """Read a run from MLflow, one that this package monitored or any other that logged a loss.

        Args:
            run_id: The run.
            metric: Name of the loss, or several in order of preference. Left out, ``scaling/loss`` and then the usual
                names of training and validation losses (:mod:`lightning_scaling.history.aliases`).
            tracking_uri: Where it is kept; left out, where MLflow would look.
            lr: Name of the learning rate, or several; left out, the usual names.
            family: Tags or params that make up its family; left out, the tag or param ``scaling.family`` or ``family``,
                else the experiment's name.
            timeout: Seconds without an answer after which MLflow counts as unreachable.

        Returns:
            The run. ``meta`` holds its ``run_id``, ``status``, ``start_time`` and ``end_time`` (milliseconds since
            1970), the ``metric``, and what its ``steps`` are: optimizer steps where this package logged them, else
            steps as logged.

        Raises:
            lightning_scaling.history.HistoryError: If it cannot be read or holds no curve.
        """
        # the one import upward, made when it is asked for: the reader stands on a higher floor
        read = import_module("lightning_scaling.history").run_from_mlflow
        run: Run = read(run_id, metric=metric, tracking_uri=tracking_uri, lr=lr, family=family, timeout=timeout)
        return run

    @classmethod
    def from_journal(cls, path: str | os.PathLike[str]) -> Run:
        """Read the journal that a monitor wrote; :func:`~lightning_scaling.replay` says again what was said live.

        Args:
            path: The ``.jsonl`` file, also one of a run that is still training or was broken off.

        Returns:
            The run with every loss, a :class:`~lightning_scaling.runs.events.RecordedRun`. What was made again after a
            resume replaces what it was before. ``meta`` holds ``journal``, the ``metric``, its ``status``,
            ``start_time`` and ``end_time`` (milliseconds since 1970), ``settings`` of the monitor, what it ``learned``
            from past runs, and whether the run is ``open_ended``: ``total_steps`` is then its last step.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: If it is not a journal, was written by a newer version, or holds no finite loss.
        """
        read = import_module("lightning_scaling.tracking.recorded_run").run_from_journal
        run: Run = read(path)
        return run

    def to_dict(self) -> dict[str, Any]:
        """The run as builtins that strict JSON can hold; :meth:`from_dict` reads them back unchanged.

        Returns:
            ``step``, ``loss``, ``lr`` and ``planned_lr`` (a pair) as lists, in which a number that is not finite is
            the text ``"nan"`` or ``"inf"``; ``total_steps``, ``params``, ``tokens_per_step``, ``flops_per_step``,
            ``family``, ``name`` and ``meta``. The events of a recorded run stay in its journal.
        """
        return {field.name: to_builtins(getattr(self, field.name), nonfinite="text") for field in fields(Run)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Run:
        """The run that :meth:`to_dict` described.

        Raises:
            ValueError: If the arrays do not describe a curve.
            TypeError: If there is an entry that :meth:`to_dict` does not make, or one is missing.
        """
        lists = {name: data[name] for name in ("step", "loss", "lr") if data.get(name) is not None}
        curve = {name: [float(value) for value in values] for name, values in lists.items()}
        plan = data.get("planned_lr")
        planned = None if plan is None else ([float(value) for value in plan[0]], [float(value) for value in plan[1]])
        return Run(**{**data, **curve, "planned_lr": planned})

    def to_csv(self, path: str | os.PathLike[str]) -> Path:
        """Write the curve as ``step,loss[,lr]``; :meth:`from_csv` reads it back unchanged.

        Returns:
            The file written.
        """
        file = Path(path)
        header = ["step", "loss"] + ([] if self.lr is None else ["lr"])
        columns = [map(int, self.step), map(_cell, self.loss), *([] if self.lr is None else [map(_cell, self.lr)])]
        with file.open("w", newline="", encoding="utf-8") as handle:
            csv.writer(handle).writerows([header, *zip(*columns, strict=True)])
        return file


def _column(name: str, values: ArrayLike) -> NDArray[np.float64]:
    try:
        column = np.array(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"`{name}` must be a sequence of numbers, but got {type(values).__name__}: {error}") from error
    if column.ndim != 1:
        raise ValueError(f"`{name}` must have one dimension, but got shape {column.shape}.")
    column.flags.writeable = False
    return column


def _rates(name: str, values: ArrayLike) -> NDArray[np.float64]:
    """A column of learning rates; what is below 0 by round-off, as at the end of a schedule, is 0."""
    column = _column(name, values)
    least = -_ROUND_OFF * float(np.nanmax(column, initial=0.0))
    rounded = np.where((column < 0) & (column >= least), 0.0, column)
    rounded.flags.writeable = False
    return rounded


def _number(text: str | None, name: str, file: Path, line: int) -> float:
    if text is None or not text.strip():
        return math.nan
    try:
        value = float(text)
    except ValueError:
        raise ValueError(f"{file}, line {line}: `{name}` is {text!r}, expected a number.") from None
    return math.inf if name == "loss" and math.isnan(value) else value


def _cell(value: float) -> str:
    return "" if math.isnan(value) else repr(float(value))
