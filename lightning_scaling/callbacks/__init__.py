"""Callbacks for the Trainers of ``lightning.pytorch`` and ``pytorch_lightning``, imported on first use."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lightning_scaling.callbacks.resize_advisor import ResizeAdvisor
    from lightning_scaling.callbacks.scaling_early_stopping import ScalingEarlyStopping
    from lightning_scaling.callbacks.scaling_law_monitor import ScalingAdviceWarning, ScalingLawMonitor

__all__ = ["ResizeAdvisor", "ScalingAdviceWarning", "ScalingEarlyStopping", "ScalingLawMonitor"]


def __getattr__(name: str) -> Any:
    if name == "ResizeAdvisor":
        from lightning_scaling.callbacks.resize_advisor import ResizeAdvisor

        return ResizeAdvisor
    if name == "ScalingEarlyStopping":
        from lightning_scaling.callbacks.scaling_early_stopping import ScalingEarlyStopping

        return ScalingEarlyStopping
    if name in __all__:
        from lightning_scaling.callbacks import scaling_law_monitor

        return getattr(scaling_law_monitor, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
