"""Callbacks for the Trainers of ``lightning.pytorch`` and ``pytorch_lightning``, imported on first use."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lightning_scaling.callbacks.resize_advisor import ResizeAdvisor
    from lightning_scaling.callbacks.scaling_early_stopping import ScalingEarlyStopping
    from lightning_scaling.callbacks.scaling_law_monitor import ScalingAdviceWarning, ScalingLawMonitor

__all__ = ["ResizeAdvisor", "ScalingAdviceWarning", "ScalingEarlyStopping", "ScalingLawMonitor"]


_HOME = {"ResizeAdvisor": "resize_advisor", "ScalingEarlyStopping": "scaling_early_stopping"}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME.get(name, 'scaling_law_monitor')}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
