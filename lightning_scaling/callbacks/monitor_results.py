"""Results of a monitor, while it trains and afterwards."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from lightning_scaling.advice import Advice
from lightning_scaling.callbacks.capture import COUNTERS
from lightning_scaling.callbacks.guard import GuardedCallback
from lightning_scaling.callbacks.session import Session
from lightning_scaling.callbacks.settings import Settings
from lightning_scaling.callbacks.spawned import SpawnedResults
from lightning_scaling.detection import Deviation
from lightning_scaling.engine.monitor import Monitor
from lightning_scaling.forecast import Forecast, WhatIf
from lightning_scaling.runs.run import Run
from lightning_scaling.schedule import Plan


class Ended:
    """Counters of a run that was not trained by this object.

    Args:
        counted: State of its :class:`~lightning_scaling.callbacks.capture.Capture`.
    """

    def __init__(self, counted: Mapping[str, Any]) -> None:
        self._counted = counted

    def run_fields(self) -> dict[str, Any]:
        """What is known of the run besides its curve, as arguments of :class:`~lightning_scaling.runs.run.Run`."""
        counted = self._counted
        steps, known = counted["steps"] or 1, counted["samples"] if counted["tokens"] is None else counted["tokens"]
        return {
            "tokens_per_step": known and known / steps,
            "flops_per_step": counted["flops"] and counted["flops"] / steps,
        }

    def totals(self) -> dict[str, Any]:
        """All counters, by name."""
        return {name: self._counted[name] for name in COUNTERS}

    @property
    def overhead(self) -> float:
        """Time the monitor took, as a fraction of the training time."""
        seconds = self._counted["seconds"]
        return self._counted["own_seconds"] / seconds if seconds else 0.0


class MonitorResults(GuardedCallback):
    """What a monitor has found out so far."""

    _settings: Settings
    _latest: Monitor | None
    _ended: Ended | None
    _session: Session | None
    _last_session: Session | None
    _spawned: SpawnedResults

    @property
    def _engine(self) -> Monitor | None:
        """The engine of the latest fit, also of one in processes of its own."""
        state = self._spawned.receive()
        if state is not None:
            self._restore(state)
        return self._latest

    def _restore(self, state: Mapping[str, Any]) -> None:
        """Know again what a state that was saved knows of a run."""
        engine = Monitor(Plan.from_dict(state["engine"]["plan"]), self._settings.for_engine(state["params"]))
        engine.load_state_dict(state["engine"])
        engine.finish()
        self._latest, self._last_session = engine, None
        self._ended = Ended(state["capture"])

    @property
    def followed(self) -> str | None:
        """Name of the metric followed; ``None`` for the training loss."""
        return self._settings.monitor

    @property
    def run(self) -> Run | None:
        """The run recorded so far; ``None`` before the first finite loss."""
        if self._engine is None or len(self._engine.curve) == 0:
            return None
        source = self._last_session or self._ended
        return self._engine.run(**({} if source is None else source.run_fields()))

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
        if self._engine is None or self._last_session is None:
            return {} if self._ended is None else self._ended.totals()
        return self._last_session.capture.totals()

    @property
    def overhead(self) -> float:
        """Time the monitor has taken during training, as a fraction of the training time; 0 before training.

        Counted are its own calls in the training loop, those of single steps by sampling. Not counted are what
        Lightning spends on calling any callback, the threads that write to MLflow, and what is done once: measuring
        FLOPs, working out the plan, drawing the figures.
        """
        if self._engine is None or self._last_session is None:
            return 0.0 if self._ended is None else self._ended.overhead
        return self._last_session.budget.fraction

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
