"""Finds where a run can be written to, from the Trainer's loggers and MLflow's active run; imports neither."""

from __future__ import annotations

import sys
from typing import Any, TypeAlias

from lightning_scaling.tracking.backends.lightning_logger import LoggerTarget
from lightning_scaling.tracking.backends.mlflow import MLflowTarget
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
        if not _is_mlflow_logger(logger):
            others.append(logger)
            continue
        try:
            found = _of_logger(logger)
        except Exception as error:
            failed.append(f"{type(logger).__name__} has no run to write to ({type(error).__name__}: {error})")
        else:
            targets.append(found)
            said.append(f"{found.name} (its {type(logger).__name__})")
    if not targets:
        try:
            active = _active_run()
        except Exception as error:
            failed.append(f"MLflow's active run cannot be read ({type(error).__name__}: {error})")
        else:
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


def _is_mlflow_logger(logger: Any) -> bool:
    named = any(one.__name__ == "MLFlowLogger" for one in type(logger).__mro__)
    return named and hasattr(logger, "_tracking_uri")


def _of_logger(logger: Any) -> MLflowTarget:
    # Lightning has made the run before on_fit_start; the property, which may go over the network, is the fallback.
    run_id = getattr(logger, "_run_id", None) or logger.run_id
    uri = logger._tracking_uri
    if not isinstance(run_id, str) or not run_id:
        raise ValueError("its `run_id` is empty")
    return MLflowTarget(run_id, str(uri))


def _active_run() -> MLflowTarget | None:
    mlflow = sys.modules.get("mlflow")
    if mlflow is None or not hasattr(mlflow, "active_run"):
        return None
    run = mlflow.active_run()
    if run is None:
        return None
    return MLflowTarget(str(run.info.run_id), str(mlflow.get_tracking_uri()))
