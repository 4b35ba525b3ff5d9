"""Power law of optimal size in compute, with an exponent that may drift."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

EXPONENT = (0.53, 0.15)
"""Mean and standard deviation of the exponent before any run is seen. Published ones: .46 to .50 (Hoffmann et al. 2022,
2203.15556), .513 (Besiroglu et al. 2024, 2404.10102), .45 to .58 by data (Bi et al. 2024, 2401.02954), .47 (Llama 3,
2407.21783), .50 to .83 by recipe (Porian et al. 2024, 2406.19146), .46 to .70 (McLeish et al. 2025, 2502.06857)."""

DRIFT = 0.05
"""How far the exponent wanders per unit of ln flops, as a standard deviation per square root: .076 in a decade.
Chosen with `SCATTER` on the isoFLOP sets of Porian et al. 2024 and two of Open-Athena, as values for which the optimum
at ten times the compute is forecast well and its 90 % interval holds it: 92 % of 66 forecasts, on these same sets."""

SCATTER = 0.03
"""Scatter of ln optimal size around the curve beyond the errors of the isoFLOP profiles: the recipe of each budget."""

_VAGUE = 1e4


@dataclass(frozen=True, eq=False)
class DriftingPowerLaw:
    """``ln size = a + b z + drift W(z)``, `z` being ln flops less that of the last budget.

    ``W`` is integrated Brownian motion in both directions from the last budget: the local exponent performs a random
    walk. With `drift` 0 and no prior it is the weighted straight line of approach 2 of Hoffmann et al. 2022 (arXiv
    2203.15556). Solved exactly as a Gaussian process.

    Attributes:
        log_flops: ln of the budgets, ascending, shape ``(b,)``.
        log_size: ln of the optimal sizes, shape ``(b,)``.
        cov: Their covariance, shape ``(b, b)``.
        prior: Mean and standard deviation of the exponent at the last budget, or None for no prior.
        drift: See :data:`DRIFT`.
        scatter: See :data:`SCATTER`.
    """

    log_flops: Array
    log_size: Array
    cov: Array
    prior: tuple[float, float] | None = EXPONENT
    drift: float = DRIFT
    scatter: float = SCATTER

    @property
    def _slope(self) -> tuple[float, float]:
        """Mean and variance of the exponent before any run is seen."""
        return (0.5, _VAGUE) if self.prior is None else (self.prior[0], self.prior[1] ** 2)

    def _kernel(self, u: Array, v: Array) -> Array:
        first, second = np.abs(u)[:, None], np.abs(v)[None, :]
        shorter, longer = np.minimum(first, second), np.maximum(first, second)
        wandering = np.where(u[:, None] * v[None, :] > 0, shorter**2 * (3 * longer - shorter) / 6, 0.0)
        linear = _VAGUE + self._slope[1] * u[:, None] * v[None, :]
        return np.asarray(linear + self.drift**2 * wandering, dtype=np.float64)

    def _variance(self, u: Array) -> Array:
        """Diagonal of the kernel."""
        return np.asarray(_VAGUE + self._slope[1] * u**2 + self.drift**2 * np.abs(u) ** 3 / 3, dtype=np.float64)

    def _solved(self, right: Array) -> Array:
        z = self.log_flops - self.log_flops[-1]
        covariance = self._kernel(z, z) + self.cov + self.scatter**2 * np.eye(len(z))
        return np.asarray(np.linalg.solve(covariance, right), dtype=np.float64)

    def _expected(self, z: Array) -> Array:
        return np.asarray(float(self.log_size[-1]) + self._slope[0] * z, dtype=np.float64)

    def at(self, log_flops: Array) -> tuple[Array, Array]:
        """Mean and standard deviation of ln size at budgets, each of shape ``(m,)``."""
        z = self.log_flops - self.log_flops[-1]
        t = np.atleast_1d(np.asarray(log_flops, dtype=np.float64)) - self.log_flops[-1]
        cross = self._kernel(t, z)
        solved = self._solved(np.column_stack([self.log_size - self._expected(z), cross.T]))
        mean = self._expected(t) + cross @ solved[:, 0]
        variance = self._variance(t) - np.einsum("mb,bm->m", cross, solved[:, 1:])
        return mean, np.sqrt(np.maximum(variance, 0.0))

    def exponent(self) -> tuple[float, float]:
        """Mean and standard deviation of the local exponent at the last budget."""
        z = self.log_flops - self.log_flops[-1]
        mean, spread = self._slope
        solved = self._solved(np.column_stack([self.log_size - self._expected(z), spread * z]))
        value = mean + spread * z @ solved[:, 0]
        return float(value), float(np.sqrt(max(spread - spread * z @ solved[:, 1], 0.0)))


def normal_quantile(level: float) -> float:
    """Half the width, in standard deviations, of the central interval of a normal distribution."""
    return NormalDist().inv_cdf((1 + level) / 2)
