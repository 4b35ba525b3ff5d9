"""Trackers that a run is written to: one module each, registered here by kind."""

from lightning_scaling.tracking.backends.base import RunTarget
from lightning_scaling.tracking.backends.lightning_logger import LoggerTarget
from lightning_scaling.tracking.backends.mlflow import MLflowTarget

BACKENDS: dict[str, type[RunTarget]] = {MLflowTarget.kind: MLflowTarget}
"""Backends by kind, in the order in which they are asked whether they know a logger; any other logger gets metrics."""

__all__ = ["BACKENDS", "LoggerTarget", "MLflowTarget", "RunTarget"]
