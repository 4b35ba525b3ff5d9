"""Live, schedule-aware loss forecasts, deviation alarms and advice for PyTorch Lightning runs."""

from importlib.metadata import PackageNotFoundError, version

from lightning_scaling import laws
from lightning_scaling.advice import Advice, compare_runs
from lightning_scaling.allocation import Allocation, allocate
from lightning_scaling.backtest import Replay, ReplayCollection, replay, replay_many
from lightning_scaling.detection import Deviation
from lightning_scaling.engine import Monitor, Update
from lightning_scaling.forecast import Forecast, Prediction, WhatIf
from lightning_scaling.runs import Run, RunHistory
from lightning_scaling.schedule import Plan

try:
    __version__ = version("lightning-scaling")
except PackageNotFoundError:  # a source tree that is not installed
    __version__ = "0+unknown"

__all__ = [
    "Advice",
    "Allocation",
    "Deviation",
    "Forecast",
    "Monitor",
    "Plan",
    "Prediction",
    "Replay",
    "ReplayCollection",
    "Run",
    "RunHistory",
    "Update",
    "WhatIf",
    "__version__",
    "allocate",
    "compare_runs",
    "laws",
    "replay",
    "replay_many",
]
