"""Evidence that a run has left the forecast made for it."""

from lightning_scaling.detection.base import Block, Detector, Evidence, ReferenceForecast, References
from lightning_scaling.detection.config import DetectionConfig
from lightning_scaling.detection.divergence import Divergence, DivergenceDetector
from lightning_scaling.detection.path import PathDetector
from lightning_scaling.detection.result import Deviation, DeviationBasis, DeviationKind
from lightning_scaling.detection.run_detectors import RunDetectors, default_detectors
from lightning_scaling.detection.variance import VarianceDetector

__all__ = [
    "Block",
    "DetectionConfig",
    "Detector",
    "Deviation",
    "DeviationBasis",
    "DeviationKind",
    "Divergence",
    "DivergenceDetector",
    "Evidence",
    "PathDetector",
    "ReferenceForecast",
    "References",
    "RunDetectors",
    "VarianceDetector",
    "default_detectors",
]
