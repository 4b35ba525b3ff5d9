"""Trackers that a run is written to: one module each, registered here by kind."""

from lightning_scaling.tracking.backends.lightning_logger import LoggerTarget
from lightning_scaling.tracking.backends.mlflow import MLflowTarget
from lightning_scaling.tracking.sink import SinkTarget

BACKENDS: dict[str, type[SinkTarget]] = {MLflowTarget.kind: MLflowTarget}
"""Backends by kind, in the order in which they are asked whether they know a logger; any other logger gets metrics."""

__all__ = ["BACKENDS", "LoggerTarget", "MLflowTarget"]
