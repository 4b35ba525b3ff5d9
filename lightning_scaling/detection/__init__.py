"""Evidence that a run has left the forecast made for it."""

from lightning_scaling.detection.divergence import Divergence, DivergenceDetector
from lightning_scaling.detection.frozen_forecasts import Block
from lightning_scaling.detection.path import PathDetector
from lightning_scaling.detection.result import Deviation, DeviationBasis, DeviationKind

__all__ = ["Block", "Deviation", "DeviationBasis", "DeviationKind", "Divergence", "DivergenceDetector", "PathDetector"]
