"""Results of a monitor, while it trains and afterwards."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from lightning_scaling.advice import Advice
from lightning_scaling.callbacks.guard import GuardedCallback
from lightning_scaling.callbacks.session import Session
from lightning_scaling.callbacks.settings import Settings
from lightning_scaling.detection import Deviation
from lightning_scaling.engine.monitor import Monitor
from lightning_scaling.forecast import Forecast, WhatIf
from lightning_scaling.runs.run import Run
from lightning_scaling.schedule import Plan


class MonitorResults(GuardedCallback):
    """What a monitor has found out so far."""

    _settings: Settings
    _engine: Monitor | None
    _ended: dict[str, Any]
    _session: Session | None
    _last_session: Session | None

    @property
    def followed(self) -> str | None:
        """Name of the metric followed; ``None`` for the training loss."""
        return self._settings.monitor

    @property
    def run(self) -> Run | None:
        """The run recorded so far; ``None`` before the first finite loss."""
        if self._engine is None or len(self._engine.curve) == 0:
            return None
        return self._engine.run(**(self._ended if self._last_session is None else self._last_session.run_fields()))

    @property
    def forecast(self) -> Forecast | None:
        """The latest forecast; ``None`` before training."""
        return None if self._engine is None else self._engine.forecast

    @property
    def deviation(self) -> Deviation | None:
        """The latest verdict on the run; ``None`` before training."""
        return None if self._engine is None else self._engine.deviation

    @property
    def advice(self) -> Advice | None:
        """The latest advice; ``None`` before training."""
        return None if self._engine is None else self._engine.advice

    @property
    def advice_log(self) -> list[Advice]:
        """Every advice that differed from the one before, oldest first."""
        return [] if self._engine is None else list(self._engine.advice_log)

    @property
    def forecast_log(self) -> list[dict[str, Any]]:
        """Every forecast made, with the realized loss where it is known; builtins."""
        return [] if self._engine is None else [dict(row) for row in self._engine.forecast_log]

    @property
    def counters(self) -> dict[str, Any]:
        """Counters up to the last flush; empty before training.

        ``steps``, ``optimizer_steps`` (of all optimizers), ``micro_batches`` (of each rank), ``skipped`` (micro-batches
        without a loss), ``samples``, ``tokens`` and ``flops`` (of all ranks; ``None`` if unknown), ``seconds``.
        """
        return {} if self._last_session is None else self._last_session.capture.totals()

    @property
    def overhead(self) -> float:
        """Time the monitor has taken during training, as a fraction of the training time; 0 before training.

        Counted are its own calls in the training loop, those of single steps by sampling. Not counted are what
        Lightning spends on calling any callback, the threads that write to MLflow, and what is done once: measuring
        FLOPs, working out the plan, drawing the figures.
        """
        return 0.0 if self._last_session is None else self._last_session.budget.fraction

    def what_if(self, change: str | Plan, **options: Any) -> WhatIf | None:
        """Forecast of the final loss under another plan from here; ``None`` before training.

        Args:
            change: ``"stop"``, ``"decay"``, ``"longer"``, ``"wsd"`` or another plan.
            **options: Its options, as of :func:`~lightning_scaling.forecast.what_if`.

        Raises:
            ValueError: If the rates of the plan are not known, or the change or an option is none that can be made.
            TypeError: If the change has no such option.
        """
        return None if self._engine is None else self._engine.what_if(change, **options)

    def what_ifs(self, changes: Iterable[str | Plan | tuple[str, Mapping[str, Any]]] | None = None) -> list[WhatIf]:
        """Carrying on, then several changes, by default the usual ones; empty before training."""
        return [] if self._engine is None else self._engine.what_ifs(changes)
