"""Scaling laws: the catalogue, fits with intervals, and the choice among laws."""

from lightning_scaling.laws.chain import Chain, chain
from lightning_scaling.laws.combine import Combination, CombinedFit, combine
from lightning_scaling.laws.compare import Comparison, compare
from lightning_scaling.laws.fit import Fit
from lightning_scaling.laws.frontier import frontier_weights
from lightning_scaling.laws.ladder import fit_ladder
from lightning_scaling.laws.law import Law, Parameter, Published, Source
from lightning_scaling.laws.live import fit_run
from lightning_scaling.laws.many import Fits
from lightning_scaling.laws.registry import get, group, names
from lightning_scaling.laws.store import load

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
