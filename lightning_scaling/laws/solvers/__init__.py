"""Estimation: exact in the linear parameters of a law, a grid over its few shape parameters."""

from lightning_scaling.laws.solvers.projection import GridFit, fit_grid

__all__ = ["GridFit", "fit_grid"]
