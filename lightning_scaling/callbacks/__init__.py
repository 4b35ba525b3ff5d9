"""Callbacks for the Trainers of ``lightning.pytorch`` and ``pytorch_lightning``, imported on first use."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lightning_scaling.callbacks.scaling_law_monitor import ScalingAdviceWarning, ScalingLawMonitor

__all__ = ["ScalingAdviceWarning", "ScalingLawMonitor"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        from lightning_scaling.callbacks import scaling_law_monitor

        return getattr(scaling_law_monitor, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
