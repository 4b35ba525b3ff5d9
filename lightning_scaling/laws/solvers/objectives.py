"""Objective functions: sums over points of a function of the residual."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from lightning_scaling._utils.stats import MAD_TO_STD
from lightning_scaling.laws.arrays import Array

Kind = Literal["huber", "least_squares", "quantile"]
KINDS: tuple[Kind, ...] = ("huber", "least_squares", "quantile")

_CORE = 0.35


def robust_scale(r: Array, weights: Array, free: int) -> float:
    """Standard deviation of a residual of unit weight, from the median, corrected for `free` parameters."""
    dof = max(len(r) - free, 1)
    return MAD_TO_STD * float(np.median(np.sqrt(weights) * np.abs(r))) * float(np.sqrt(len(r) / dof))


@dataclass(frozen=True)
class Objective:
    """Sum of ``weight * rho(residual)``, never the mean: a mean makes optimizers stop early.

    ``least_squares``: ``rho(r) = r^2 / 2``. ``huber`` (Huber, Ann. Math. Statist. 35(1), 1964): the same up to `delta`,
    then ``delta (|r| - delta/2)``. ``quantile`` (Koenker and Bassett, Econometrica 46(1), 1978): the check function of
    level `quantile`, rounded off within `delta` and scaled so that at level .5 it equals ``huber``.

    Attributes:
        kind: Name of the function.
        delta: Where the quadratic part ends, in units of the residual.
        quantile: Share of the observations that shall lie below the law, for ``quantile``.
    """

    kind: Kind = "huber"
    delta: float = 1e-3
    quantile: float = 0.5

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"`objective` must be one of {', '.join(KINDS)}, but got {self.kind!r}.")
        if not (np.isfinite(self.delta) and self.delta > 0):
            raise ValueError(f"`delta` must be a positive number, but got {self.delta!r}.")
        if not 0 < self.quantile < 1:
            raise ValueError(f"`quantile` must lie between 0 and 1, but got {self.quantile!r}.")

    def side(self, r: Array) -> Array | float:
        """Weight of the side on which a residual (law minus observation) lies."""
        if self.kind != "quantile":
            return 1.0
        return np.where(r < 0, 2 * self.quantile, 2 * (1 - self.quantile))

    def rho(self, r: Array) -> Array:
        """Contribution of each residual."""
        if self.kind == "least_squares":
            return 0.5 * r * r
        size = np.abs(r)
        inner = np.minimum(size, self.delta)
        return np.asarray(self.side(r) * inner * (size - 0.5 * inner))

    def slopes(self, r: Array) -> tuple[Array, Array, Array]:
        """First derivative, iterative weight (first derivative over residual) and second derivative of `rho`."""
        if self.kind == "least_squares":
            one = np.ones_like(r)
            return r, one, one
        size = np.abs(r)
        inside = size <= self.delta
        side = self.side(r)
        weight = np.where(inside, 1.0, self.delta / np.maximum(size, 1e-300)) * side
        return weight * r, weight, np.asarray(inside * side, dtype=np.float64)

    def unit(self, r: Array, weights: Array, free: int) -> float:
        """Weight of half a squared standard score in the summed objective.

        For least squares the residual variance; else the scale of the drop-in-dispersion test (Schrader and
        Hettmansperger, Biometrika 67(1), 1980).
        """
        variance = self.efficiency(r, weights, free)
        psi = self.slopes(r)[0]
        spread = float(np.sum(weights * psi**2)) / max(len(r) - free, 1)
        return float(np.sqrt(spread * variance)) if spread > 0 else variance

    def efficiency(self, r: Array, weights: Array, free: int) -> float:
        """Variance of a residual as the estimate feels it: ``E[psi^2] / E[psi']^2``, corrected for `free` parameters.

        For least squares it is the residual variance; for a Huber objective the variance of Huber's M-estimator
        (Huber 1964). ``E[psi']`` needs the density of residuals near zero, which is taken from the inner 35 % of
        them, leaving out as many of the smallest as there are parameters: the fit made those small.
        """
        used = weights > 0
        r, w = r[used], weights[used]
        n = len(r)
        dof = max(n - free, 1)
        psi = self.slopes(r)[0]
        spread = float(np.sum(w * psi**2)) / dof
        if self.kind == "least_squares":
            return spread
        size = np.sort(np.abs(r))[min(free, n - 1) :]
        core = float(np.quantile(size, _CORE))
        slope = _CORE * self.delta / core if core >= self.delta else float(np.mean(size <= self.delta))
        return spread / slope**2
