"""Live, schedule-aware loss forecasts, deviation alarms and advice for PyTorch Lightning runs."""

from importlib.metadata import PackageNotFoundError, version

from lightning_scaling import laws
from lightning_scaling.allocation import allocate
from lightning_scaling.backtest.many_runs import replay_many
from lightning_scaling.backtest.single_run import replay
from lightning_scaling.engine.monitor import Monitor, Update
from lightning_scaling.runs.history import RunHistory
from lightning_scaling.runs.run import Run

try:
    __version__ = version("lightning-scaling")
except PackageNotFoundError:  # a source tree that is not installed
    __version__ = "0+unknown"

__all__ = ["Monitor", "Run", "RunHistory", "Update", "__version__", "allocate", "laws", "replay", "replay_many"]
