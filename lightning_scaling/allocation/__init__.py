"""Allocation: how a compute budget is best split between the size of a model and its data."""

from lightning_scaling.allocation.budget import allocate
from lightning_scaling.allocation.choice import Choice
from lightning_scaling.allocation.comparison import Comparison, compare_approaches
from lightning_scaling.allocation.isoflop import IsoflopMinima, isoflop_minima
from lightning_scaling.allocation.result import Allocation, Alternative, IsoflopCurve

__all__ = [
    "Allocation",
    "Alternative",
    "Choice",
    "Comparison",
    "IsoflopCurve",
    "IsoflopMinima",
    "allocate",
    "compare_approaches",
    "isoflop_minima",
]
