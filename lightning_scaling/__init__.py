"""Live, schedule-aware loss forecasts, deviation alarms and advice for PyTorch Lightning runs."""

from importlib.metadata import PackageNotFoundError, version

from lightning_scaling import laws
from lightning_scaling.allocation import allocate
from lightning_scaling.monitor import Monitor, Update
from lightning_scaling.replay import replay
from lightning_scaling.replay_set import replay_set
from lightning_scaling.run import Run, RunHistory

try:
    __version__ = version("lightning-scaling")
except PackageNotFoundError:  # a source tree that is not installed
    __version__ = "0+unknown"

__all__ = ["Monitor", "Run", "RunHistory", "Update", "__version__", "allocate", "laws", "replay", "replay_set"]
