"""Evidence that a run has left the forecast made for it."""

from lightning_scaling.deviation.anchors import Block
from lightning_scaling.deviation.detector import DeviationDetector
from lightning_scaling.deviation.faults import Divergence, DivergenceWatch
from lightning_scaling.deviation.result import Deviation

__all__ = ["Block", "Deviation", "DeviationDetector", "Divergence", "DivergenceWatch"]
