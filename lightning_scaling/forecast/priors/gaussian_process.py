"""Robust Gaussian-process regression whose scales are chosen by their likelihood."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import linalg

Array = NDArray[np.float64]
Kernel = Callable[[Array, Array], Array]
"""Covariance of the values at coordinates of shapes ``(n, k)`` and ``(m, k)``, shape ``(n, m)``."""


@dataclass(frozen=True)
class Hyperparameters:
    """One candidate for how a quantity varies from run to run.

    Args:
        kernel: Covariance of the part that similar runs share, up to :attr:`amplitude`.
        nugget: Standard deviation of the part that even replicates do not share.
        amplitude: Standard deviation by which the kernel is multiplied.
        error_factor: Factor on the stated errors of the values.
        log_prior: Log prior density of the candidate, up to a constant.
    """

    kernel: Kernel
    nugget: float
    amplitude: float = 1.0
    error_factor: float = 1.0
    log_prior: float = 0.0


class GaussianProcess:
    """A quantity of runs as a Gaussian process over their coordinates.

    See Rasmussen and Williams, *Gaussian Processes for Machine Learning* (2006), eqs. 2.22 to 2.24, 5.8 and 5.12. The
    hyperparameters are the likeliest of some candidates; values far off their leave-one-out prediction count less.

    Args:
        at: Coordinates of the runs, shape ``(n, k)``.
        value: The quantity, shape ``(n,)``.
        candidates: Hyperparameters, of which the likeliest are used.
        inflation: Factors on the standard deviations of the values' noise by their standardized leave-one-out errors.
        error: Standard deviation of each value, shape ``(n,)`` or one number.
        middle: Mean of the quantity before anything is known.
        passes: How often the values are predicted by leave-one-out, each time with factors from the errors before.
        reselect: Whether the hyperparameters are chosen anew each time.
    """

    def __init__(
        self,
        at: Array,
        value: Array,
        candidates: Sequence[Hyperparameters],
        inflation: Callable[[Array], Array],
        *,
        error: ArrayLike = 0.0,
        middle: float = 0.0,
        passes: int = 2,
        reselect: bool = False,
    ) -> None:
        self.value = value
        self._at, self._middle = at, middle
        self._error = np.broadcast_to(np.asarray(error, dtype=np.float64), value.shape)
        self._widening = 1.0
        covariances = {kernel: kernel(at, at) for kernel in dict.fromkeys(one.kernel for one in candidates)}
        factors = np.ones(value.size)
        self.standardized = np.zeros(value.size)
        self.chosen: Hyperparameters = candidates[0]
        for index in range(passes):
            if index:
                factors = inflation(self.standardized)
                candidates = candidates if reselect else [self.chosen]
            settled = [(*self._settle(one, covariances[one.kernel], factors), one) for one in candidates]
            _, root, self.chosen = max(settled, key=lambda found: found[0])
            self._noise = self._noise_of(self.chosen)
            self._inverse = linalg.cho_solve((root, True), np.eye(value.size), check_finite=False)
            self._pull = self._inverse @ (value - middle)
            own = 1 / np.diag(self._inverse)
            self.left_out_std = np.sqrt(np.maximum(own - (self._noise * factors) ** 2, 0.0) + self._noise**2)
            self.standardized = self._pull * own / self.left_out_std

    def _noise_of(self, chosen: Hyperparameters) -> Array:
        return np.asarray(np.hypot(chosen.nugget, chosen.error_factor * self._error))

    def _settle(self, chosen: Hyperparameters, kernel: Array, factors: Array) -> tuple[float, Array]:
        """Log evidence of a candidate, and the Cholesky root of the values' covariance."""
        covariance = chosen.amplitude**2 * kernel
        covariance[np.diag_indices_from(covariance)] += (self._noise_of(chosen) * factors) ** 2
        root = linalg.cholesky(covariance, lower=True, check_finite=False)
        white = linalg.solve_triangular(root, self.value - self._middle, lower=True, check_finite=False)
        evidence = -0.5 * float(white @ white) - float(np.log(np.diag(root)).sum())
        return evidence + chosen.log_prior, root

    def without(self, group: NDArray[np.intp]) -> tuple[Array, Array]:
        """Leave-out prediction of a group of runs by the others: medians and standard deviations."""
        covariance = np.linalg.inv(self._inverse[np.ix_(group, group)])
        own = (self.chosen.error_factor * self._error[group]) ** 2
        variance = np.maximum(np.diag(covariance) - own, self.chosen.nugget**2)
        return self.value[group] - covariance @ self._pull[group], np.sqrt(variance)

    def calibrate(self, groups: Sequence[NDArray[np.intp]], max_error: float, expected: float) -> GaussianProcess:
        """Widen the predictions by the standardized leave-out errors.

        Args:
            groups: For each value its own place, then those of the values to leave out with it.
            max_error: Standardized error beyond which an error counts as this.
            expected: Pseudo-runs with errors as predicted.
        """
        surprise = 0.0
        for group in groups:
            found, spread = self.without(group)
            variance = spread[0] ** 2 + (self.chosen.error_factor * self._error[group[0]]) ** 2
            surprise += min((self.value[group[0]] - found[0]) ** 2 / variance, max_error**2)
        self._widening = max(math.sqrt((surprise + expected) / (len(groups) + expected)), 1.0)
        return self

    def predict(self, at: Array) -> tuple[Array, Array]:
        """Medians and standard deviations of the quantity for further runs at coordinates ``(m, k)``, each ``(m,)``."""
        kernel, power = self.chosen.kernel, self.chosen.amplitude**2
        shared = power * kernel(at, self._at)
        known = np.sum(shared @ self._inverse * shared, axis=1)
        variance = np.maximum(power * np.diag(kernel(at, at)) - known, 0.0) + self.chosen.nugget**2
        return self._middle + shared @ self._pull, self._widening * np.sqrt(variance)


def squared_distances(one: Array, other: Array) -> Array:
    """Squared distances of coordinates of shapes ``(n, k)`` and ``(m, k)``, shape ``(n, m)``."""
    return np.asarray(np.maximum((one**2).sum(1)[:, None] + (other**2).sum(1) - 2 * one @ other.T, 0.0))
