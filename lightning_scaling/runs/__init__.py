"""Records of training runs: the run, its curve, its events and its final loss."""

from lightning_scaling.runs.history import RunHistory
from lightning_scaling.runs.run import Run

__all__ = ["Run", "RunHistory"]
