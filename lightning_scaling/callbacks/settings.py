"""The arguments of the monitor, checked when it is made: the run must not begin with a mistake in them."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning_scaling._utils.validation import is_count, is_number, one_of
from lightning_scaling.engine.config import MonitorConfig
from lightning_scaling.forecast.metric_scale import scales_for
from lightning_scaling.history.reader_thread import AUTO, MLFLOW
from lightning_scaling.runs.history import RunHistory

_ON_ADVICE = ("warn", "log", "ignore")
_LAWS = ("auto", "relative_multi_power")


@dataclass(frozen=True)
class Settings:
    """Checked arguments of :class:`~lightning_scaling.callbacks.ScalingLawMonitor`, under the same names.

    Raises:
        TypeError: If an argument has a type that it cannot have.
        ValueError: If it has a value that it cannot have.
    """

    monitor: str | None
    mode: str
    bounds: Sequence[float | None] | None
    history: RunHistory | str | Path | bool | None
    law: str
    target: float | None
    alpha: float
    on_advice: str | Callable[[Any], object] | None
    count: str | int | Callable[[Any], Any]
    flops: str | float | Callable[[Any], Any] | None
    params: int | None
    unique_tokens: float | None
    max_overhead: float
    journal: bool | str | Path | None
    name: str | None

    def __post_init__(self) -> None:
        for what, value in (("monitor", self.monitor), ("name", self.name)):
            if not isinstance(value, str | None):
                raise TypeError(f"`{what}` must be a string or None, but got {value!r}.")
            if value is not None and not value.strip():
                raise ValueError(f"`{what}` must not be empty; leave it out or give a name.")
        scales_for(self.monitor, self.mode, self.bounds)
        self._check_history()
        one_of("law", self.law, _LAWS)
        if self.target is not None and not is_number(self.target):
            raise TypeError(f"`target` must be a finite loss or None, but got {self.target!r}.")
        self._check_share("alpha", self.alpha, "the chance of a false alarm over the whole run")
        self._check_share("max_overhead", self.max_overhead, "the fraction of the training time the monitor may use")
        if self.params is not None and not is_count(self.params):
            raise ValueError(f"`params` must be a positive whole number or None, but got {self.params!r}.")
        unique = self.unique_tokens
        if unique is not None and not (is_number(unique) and unique > 0):
            raise ValueError(f"`unique_tokens` must be a positive number or None, but got {unique!r}.")
        if not (self.on_advice is None or self.on_advice in _ON_ADVICE or callable(self.on_advice)):
            choices = '"warn", "log", "ignore", None or a function of the advice'
            raise ValueError(f"`on_advice` must be {choices}, but got {self.on_advice!r}.")
        if self.journal is not None and not isinstance(self.journal, bool | str | os.PathLike):
            raise TypeError(f"`journal` must be a folder, True, False or None, but got {self.journal!r}.")

    def _check_history(self) -> None:
        history = self.history
        if history is None or history is False or isinstance(history, RunHistory):
            return
        if isinstance(history, bool) or not isinstance(history, str | os.PathLike):
            raise TypeError(
                '`history` must be a RunHistory, a folder of CSV files, "mlflow:EXPERIMENT", "auto", None or False, '
                f"but got {type(history).__name__}; wrap runs as `RunHistory([...])`."
            )
        if isinstance(history, str) and history.startswith(MLFLOW):
            if not history.removeprefix(MLFLOW).strip():
                raise ValueError('`history` must name an experiment, as in "mlflow:EXPERIMENT", but got "mlflow:".')
        elif history != AUTO and not (os.fspath(history) and Path(history).is_dir()):
            raise ValueError(
                f"`history` is {os.fspath(history)!r}, which is no folder; give a folder of CSV files, or an MLflow "
                'experiment as "mlflow:EXPERIMENT".'
            )

    def for_engine(self, counted_params: int | None) -> MonitorConfig:
        """The settings of the engine.

        Args:
            counted_params: Number of parameters of the module, where ``params`` is not given.
        """
        names = ("alpha", "target", "monitor", "mode", "bounds", "unique_tokens")
        shared = {name: getattr(self, name) for name in names}
        return MonitorConfig(history=self.past_runs, params=self.params or counted_params, **shared)

    @property
    def past_runs(self) -> RunHistory | None:
        """The history, where it was given as runs and need not be read."""
        return self.history if isinstance(self.history, RunHistory) else None

    @property
    def to_read(self) -> str | Path | None:
        """Where to read the history from in the background: ``"auto"``, ``"mlflow:..."`` or a folder."""
        if isinstance(self.history, RunHistory | bool):
            return None
        return AUTO if self.history is None else self.history

    def _check_share(self, what: str, value: Any, meaning: str) -> None:
        if not is_number(value):
            raise TypeError(f"`{what}` must be a number, but got {value!r}; it is {meaning}.")
        if not 0 < value < 1 and not (what == "max_overhead" and value == 1):
            raise ValueError(f"`{what}` must lie between 0 and 1, but got {value}; it is {meaning}.")

    def journal_folder(self, root: str | os.PathLike[str]) -> Path | None:
        """Where journals of a Trainer with this root folder go; ``None`` for no journal."""
        if self.journal is None or self.journal is False:
            return None
        return Path(root) / "scaling_journals" if self.journal is True else Path(self.journal)
