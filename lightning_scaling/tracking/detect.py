"""Targets of a run, from the Trainer's loggers and the active runs of trackers; imports neither."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

from lightning_scaling.tracking.backends import BACKENDS, LoggerTarget, RunTarget
from lightning_scaling.tracking.backends.base import cause_of

Target: TypeAlias = RunTarget | LoggerTarget


def find_targets(trainer: Any) -> tuple[list[Target], str]:
    """Where the run of a Trainer can be written to. Never raises. Call it on rank zero, at ``on_fit_start`` or later.

    An ``MLFlowLogger`` is written to through MLflow itself, so that params, tags, the description and artifacts get
    there too. With none, the MLflow run that is active in this thread is used (``mlflow.start_run()`` or
    ``mlflow.pytorch.autolog()``). All other loggers are given the metrics.

    Args:
        trainer: A Lightning Trainer; only its ``loggers`` are looked at.

    Returns:
        The targets, and one sentence saying what they are or why there is none.
    """
    targets: list[Target] = []
    said: list[str] = []
    failed: list[str] = []

    def attempt(problem: str, find: Callable[..., Any], *args: Any) -> Any:
        """What `find` returns; ``False`` if it raises."""
        try:
            return find(*args)
        except Exception as error:
            failed.append(f"{problem} ({cause_of(error)})" if problem else str(error))
            return False

    def add(target: Any, origin: str) -> None:
        if target:
            targets.append(target)
            said.append(f"{target.name} ({origin})")

    others = []
    loggers = attempt("the Trainer's loggers cannot be listed", lambda: list(getattr(trainer, "loggers", None) or ()))
    for logger in loggers or ():
        name = type(logger).__name__
        found = attempt(f"{name} has no run to write to", _run_of, logger)
        add(found, f"its {name}")
        if found is None:
            others.append(logger)
    for backend in BACKENDS.values() if not targets else ():
        add(attempt(f"{backend.title}'s active run cannot be read", backend.active), "the active run")
    for logger in others:
        add(attempt("", LoggerTarget, logger), "metrics only")
    start = f"Writing to {', '.join(said)}" if said else "No logger to write to: only the journal and the console"
    return targets, "; ".join([start, *failed]) + "."


def _run_of(logger: Any) -> RunTarget | None:
    """The run behind a logger, as the first backend that knows it sees it."""
    return next((run for backend in BACKENDS.values() if (run := backend.from_logger(logger)) is not None), None)
