"""The online engine: one object per followed metric, from losses to forecast, verdict and advice."""

from lightning_scaling.engine.config import MonitorConfig
from lightning_scaling.engine.monitor import Monitor
from lightning_scaling.engine.records import Update

__all__ = ["Monitor", "MonitorConfig", "Update"]
