"""Allocation: how a compute budget is best split between the size of a model and its data."""

from lightning_scaling.allocation.budget import allocate
from lightning_scaling.allocation.choice import Choice
from lightning_scaling.allocation.comparison import Comparison, compare_approaches
from lightning_scaling.allocation.isoflop import IsoflopMinima, isoflop_minima
from lightning_scaling.allocation.result import Allocation, Alternative, IsoflopCurve
from lightning_scaling.allocation.tradeoff import BestSize, Tradeoff, fit_tradeoff

__all__ = [
    "Allocation",
    "Alternative",
    "BestSize",
    "Choice",
    "Comparison",
    "IsoflopCurve",
    "IsoflopMinima",
    "Tradeoff",
    "allocate",
    "compare_approaches",
    "fit_tradeoff",
    "isoflop_minima",
]
