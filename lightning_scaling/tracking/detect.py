"""Targets of a run, from the Trainer's loggers and the active runs of trackers; imports neither."""

from __future__ import annotations

from typing import Any, TypeAlias

from lightning_scaling.tracking.backends import BACKENDS, LoggerTarget
from lightning_scaling.tracking.sink import SinkTarget

Target: TypeAlias = SinkTarget | LoggerTarget


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
    others: list[Any] = []
    try:
        loggers = list(getattr(trainer, "loggers", None) or [])
    except Exception as error:
        loggers = []
        failed.append(f"the Trainer's loggers cannot be listed ({type(error).__name__}: {error})")
    for logger in loggers:
        try:
            found = next((run for one in BACKENDS.values() if (run := one.from_logger(logger)) is not None), None)
        except Exception as error:
            failed.append(f"{type(logger).__name__} has no run to write to ({type(error).__name__}: {error})")
            continue
        if found is None:
            others.append(logger)
        else:
            targets.append(found)
            said.append(f"{found.name} (its {type(logger).__name__})")
    for backend in BACKENDS.values() if not targets else ():
        try:
            active = backend.active()
        except Exception as error:
            failed.append(f"{backend.title}'s active run cannot be read ({type(error).__name__}: {error})")
            continue
        if active is not None:
            targets.append(active)
            said.append(f"{active.name} (the active run)")
    for logger in others:
        try:
            target = LoggerTarget(logger)
        except TypeError as error:
            failed.append(str(error))
        else:
            targets.append(target)
            said.append(f"{target.name} (metrics only)")
    return targets, _sentence(said, failed)


def _sentence(said: list[str], failed: list[str]) -> str:
    start = f"Writing to {', '.join(said)}" if said else "No logger to write to: only the journal and the console"
    return "; ".join([start, *failed]) + "."
