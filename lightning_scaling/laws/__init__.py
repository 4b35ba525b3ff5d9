"""Scaling laws: the catalogue, fits with intervals, and the choice among laws."""

from lightning_scaling.laws.base import Law, Parameter, Published, Source
from lightning_scaling.laws.composition import Chain, chain
from lightning_scaling.laws.curve_fits import Fits
from lightning_scaling.laws.data import frontier_weights
from lightning_scaling.laws.ensemble import Combination, CombinedFit, combine
from lightning_scaling.laws.ladder import fit_ladder
from lightning_scaling.laws.registry import get, group, names
from lightning_scaling.laws.results import Fit, load
from lightning_scaling.laws.run_fit import fit_run
from lightning_scaling.laws.selection import Comparison, compare

__all__ = [
    "Chain",
    "Combination",
    "CombinedFit",
    "Comparison",
    "Fit",
    "Fits",
    "Law",
    "Parameter",
    "Published",
    "Source",
    "chain",
    "combine",
    "compare",
    "fit_ladder",
    "fit_run",
    "frontier_weights",
    "get",
    "group",
    "load",
    "names",
]
