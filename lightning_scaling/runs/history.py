"""A collection of training runs."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from html import escape
from importlib import import_module
from typing import Any, overload

import numpy as np

from lightning_scaling._utils.formatting import count, plural, significant
from lightning_scaling.runs.run import Run

# rows of the table shown in a notebook
_SHOWN = 30


class RunHistory(Sequence[Run]):
    """Past runs in the order given, most of them finished. A slice keeps all that is known of the whole.

    Args:
        runs: The runs.
        skipped: How many others were left out, by reason.
        lacking: How many of the runs lack something, by what it is.
        source: Where they come from.
        calibration: The correction of the intervals of forecasts that use them as a prior, a
            :class:`~lightning_scaling.forecast.calibration.Calibration`; ``None`` leaves the intervals as they are.

    Raises:
        TypeError: If something other than a :class:`Run` is among them.
    """

    def __init__(
        self,
        runs: Iterable[Run] = (),
        *,
        skipped: Mapping[str, int] | None = None,
        lacking: Mapping[str, int] | None = None,
        source: str | None = None,
        calibration: Any = None,
    ) -> None:
        self._runs = list(runs)
        self._skipped = dict(skipped or {})
        self._lacking = dict(lacking or {})
        self.source = source
        self.calibration = calibration
        for run in self._runs:
            if not isinstance(run, Run):
                raise TypeError(f"A RunHistory holds Run objects, but got {type(run).__name__}.")

    def __len__(self) -> int:
        return len(self._runs)

    @overload
    def __getitem__(self, index: int) -> Run: ...

    @overload
    def __getitem__(self, index: slice) -> RunHistory: ...

    def __getitem__(self, index: int | slice) -> Run | RunHistory:
        return self.with_runs(self._runs[index]) if isinstance(index, slice) else self._runs[index]

    def with_runs(self, runs: Iterable[Run]) -> RunHistory:
        """Other runs, such as some of these, with the source, the calibration and the counts of this history."""
        return RunHistory(
            runs, skipped=self._skipped, lacking=self._lacking, source=self.source, calibration=self.calibration
        )

    def __iter__(self) -> Iterator[Run]:
        return iter(self._runs)

    def __repr__(self) -> str:
        sizes = [run.params for run in self._runs if run.params is not None]
        facts = [plural(len(self), "run")]
        if sizes:
            ends = [count(size) for size in sorted({min(sizes), max(sizes)})]
            facts.append(f"{'-'.join(ends)} params")
        return f"RunHistory({', '.join(facts)})"

    def _repr_html_(self) -> str:
        """A table of the runs for notebooks, at most 30 of them."""
        cells = ("".join(f"<td>{escape(cell)}</td>" for cell in _cells(run)) for run in self._runs[:_SHOWN])
        rows = "".join(f"<tr>{row}</tr>" for row in cells)
        head = "".join(f"<th>{name}</th>" for name in ("run", "family", "params", "steps", "reached", "last loss"))
        more = len(self) - _SHOWN
        rest = f"<p>and {more:,} more</p>" if more > 0 else ""
        return f"<p>{escape(self.summary())}</p><table><tr>{head}</tr>{rows}</table>{rest}"

    @property
    def skipped(self) -> dict[str, int]:
        """How many runs were left out, by reason."""
        return dict(self._skipped)

    @property
    def lacking(self) -> dict[str, int]:
        """How many of the runs taken lack something, such as a parameter count or an end, by what it is."""
        return dict(self._lacking)

    def summary(self) -> str:
        """One line: how many runs there are, what some lack, and how many were left out and why."""
        line = plural(len(self), "run")
        line += f" of {self.source}" if self.source else ""
        line += f" ({_counts(self._lacking)})" if self._lacking else ""
        left = sum(self._skipped.values())
        return line + (f"; {left:,} left out ({_counts(self._skipped)})." if left else ".")

    @classmethod
    def from_csv(cls, folder: str | os.PathLike[str], **known: Any) -> RunHistory:
        """Read every ``*.csv`` of a folder as a finished run (see :meth:`Run.from_csv`), and its ``calibration.json``.

        Raises:
            ValueError: If the folder holds no CSV file, or one of them is not a curve.
        """
        # an import upward, made when it is asked for: the reader stands on a higher floor
        history: RunHistory = import_module("lightning_scaling.history").history_from_folder(folder, **known)
        return history

    @classmethod
    def from_mlflow(
        cls,
        experiment: str,
        *,
        tracking_uri: str | None = None,
        metric: str | Sequence[str] | None = None,
        lr: str | Sequence[str] | None = None,
        family: str | Sequence[str] | None = None,
        filter: str | None = None,
        max_runs: int = 5000,
        cache: bool = True,
        timeout: float = 20.0,
    ) -> RunHistory:
        """Read the runs of an MLflow experiment, those that this package monitored and all others that logged a loss.

        A run that is still training, or was broken off, is taken with what it shows so far if its planned length is
        known. What cannot be used is left out and counted, never fatal: see :attr:`skipped` and :meth:`summary`, which
        is also logged. Curves hold at most 300 points, means of the values in between.

        Args:
            experiment: Name or id of the experiment.
            tracking_uri: Where it is kept; left out, where MLflow would look.
            metric: Name of the loss, or several in order of preference. Left out, ``scaling/loss`` and then the usual
                names of training and validation losses (:mod:`lightning_scaling.history.aliases`). The name that a
                monitored run was told to follow is good too.
            lr: Name of the learning rate, or several; left out, the usual names.
            family: Tags or params that make up the family; a run without one of them is left out. Left out, the family
                is the tag or param ``scaling.family`` or ``family``, else the experiment's name.
            filter: Condition in MLflow's search syntax, such as ``"params.width = '256'"``.
            max_runs: The latest so many runs are looked at.
            cache: Whether curves of runs that have ended are kept on disk, in the folder ``LIGHTNING_SCALING_CACHE``
                or the system's folder for caches.
            timeout: Seconds without an answer after which MLflow counts as unreachable.

        Returns:
            The runs, oldest first.

        Raises:
            lightning_scaling.history.HistoryError: If MLflow cannot be reached or has no such experiment.
        """
        # an import upward, made when it is asked for: the reader stands on a higher floor
        read = import_module("lightning_scaling.history").history_from_mlflow
        names = {"tracking_uri": tracking_uri, "metric": metric, "lr": lr, "family": family, "filter": filter}
        history: RunHistory = read(experiment, **names, max_runs=max_runs, cache=cache, timeout=timeout)
        return history


def _cells(run: Run) -> tuple[str, ...]:
    seen = run.loss[np.isfinite(run.loss)]
    return (
        run.name or "",
        run.family or "",
        "" if run.params is None else count(run.params),
        f"{run.total_steps:,}",
        f"{run.reached:,}",
        significant(float(seen[-1])) if seen.size else "",
    )


def _counts(counted: Mapping[str, int]) -> str:
    return ", ".join(f"{number:,} {what}" for what, number in counted.items())
