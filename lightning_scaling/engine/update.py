"""What the monitor says at one moment of a run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from lightning_scaling.advice import Advice
from lightning_scaling.detection import Deviation
from lightning_scaling.forecast import Forecast


@dataclass(frozen=True)
class Update:
    """What the monitor says at one moment of a run.

    Attributes:
        step: Optimizer steps done.
        fraction: ``step`` over the planned total; ``None`` without a planned end.
        loss: Mean of the losses since the update before, outliers reined in; ``nan`` if none of them was finite.
        forecast: Where the loss is going to land.
        deviation: The verdict against the forecasts made before.
        advice: What to do.
    """

    step: int
    fraction: float | None
    loss: float
    forecast: Forecast
    deviation: Deviation
    advice: Advice

    def to_dict(self) -> dict[str, Any]:
        """The update as builtins."""
        return {
            "step": self.step,
            "fraction": self.fraction,
            "loss": self.loss,
            "forecast": self.forecast.to_dict(),
            "deviation": self.deviation.to_dict(),
            "advice": self.advice.to_dict(),
        }
