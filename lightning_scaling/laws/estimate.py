"""Estimates: parameters of a law with their covariance and the points behind them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np

from lightning_scaling._utils.enums import StrEnum
from lightning_scaling.laws.arrays import Array, Bools
from lightning_scaling.laws.data import Points
from lightning_scaling.laws.form import FunctionalForm
from lightning_scaling.laws.options import Settings
from lightning_scaling.laws.problem import Problem, problem_of


class FitStatus(StrEnum):
    """What is known against an estimate."""

    OK = "ok"
    AT_BOUNDS = "at_bounds"
    UNIDENTIFIED = "unidentified"
    NOT_CONVERGED = "not_converged"
    PUBLISHED = "published"
    TOO_FEW_POINTS = "too_few_points"


@dataclass(frozen=True, eq=False)
class Estimate:
    """Estimated parameters of a law.

    Attributes:
        law: The law.
        params: Estimates by name, in the law's order; given ones included.
        status: ``"ok"``; ``"at_bounds"``: a parameter sits at the edge of its range; ``"unidentified"``: the points do
            not determine all parameters; ``"not_converged"``; ``"published"``: constants from the literature.
        message: What the status means here, in sentences; empty when there is nothing to say.
        diagnostics: Numbers behind the status: points used and dropped, objective, condition number, and so on.
        points: The points used, or None for published constants.
        settings: How the fit was asked for.
        replicates: Bootstrap estimates of the free parameters, shape ``(count, free)``, or None.
        names: Names of the free parameters.
        u: Their coordinates: logarithms of those that span decades, shape ``(free,)``.
        cov: Covariance of the coordinates, shape ``(free, free)``; zero where a parameter is at a bound.
        residual_variance: Variance of a residual of unit weight, as it enters the covariance.
        dof_resid: Residual degrees of freedom: points (groups) less parameters.
        block: Points per block in the bootstrap of a single curve.
    """

    law: FunctionalForm
    params: Mapping[str, float]
    status: FitStatus
    message: str = ""
    diagnostics: Mapping[str, Any] = field(default_factory=dict)
    points: Points | None = None
    settings: Settings = field(default_factory=Settings)
    replicates: Array | None = None
    names: tuple[str, ...] = ()
    u: Array = field(default_factory=lambda: np.zeros(0))
    cov: Array = field(default_factory=lambda: np.zeros((0, 0)))
    residual_variance: float = 0.0
    dof_resid: int = 0
    block: int = 1

    @property
    def ok(self) -> bool:
        """Whether nothing speaks against the estimates: status ``"ok"`` or ``"published"``."""
        return self.status in (FitStatus.OK, FitStatus.PUBLISHED)

    @property
    def ranges(self) -> dict[str, tuple[float, float]]:
        """Least and greatest value of every input that was fitted on; empty for published constants."""
        return {} if self.points is None else self.points.ranges

    @cached_property
    def problem(self) -> Problem:
        """The minimisation behind this fit."""
        if self.points is None:
            raise ValueError(f"The constants of {self.law.name} were published, not fitted here: there are no points.")
        return replace(problem_of(self.law, self.points, self.settings), scale=self.diagnostics.get("scale", 0.0))

    @property
    def standard_errors(self) -> dict[str, float]:
        """Standard error of every parameter; 0 for given ones, nan where it is not determined."""
        errors = dict.fromkeys(self.params, 0.0)
        if self.replicates is not None:
            scale = self.small_sample_factor * np.std(self.replicates, axis=0, ddof=1)
            return errors | dict(zip(self.names, map(float, scale), strict=True))
        bad = {*self.diagnostics.get("at_bounds", ()), *self.diagnostics.get("unidentified", ())}
        for j, name in enumerate(self.names):
            size = float(np.sqrt(self.cov[j, j])) if self.dof_resid > 0 and name not in bad else float("nan")
            errors[name] = size * (self.params[name] if self.is_log[j] else 1.0)
        return errors

    @property
    def small_sample_factor(self) -> float:
        """``sqrt(n / (n - p))``: how much wider than its refits an estimate from few points is."""
        if self.points is None or self.dof_resid <= 0:
            return 1.0
        return float(np.sqrt((self.dof_resid + len(self.names)) / self.dof_resid))

    @cached_property
    def is_log(self) -> Bools:
        """Which coordinates are logarithms, shape ``(free,)``."""
        log = {p.name: p.log for p in self.law.parameters}
        return np.array([log[name] for name in self.names], dtype=bool)

    def predict(self, **inputs: Any) -> Array:
        """What the law says at given inputs.

        Args:
            **inputs: The law's inputs by name, numbers or arrays that broadcast.

        Returns:
            The predicted output, of the inputs' broadcast shape.

        Raises:
            TypeError: An input is missing or unknown.
        """
        return self.law.evaluate(self.params, **inputs)

    def residuals(self) -> Array:
        """Observation minus law in the space of the fit (differences of logarithms in ``"log"``), shape ``(n,)``."""
        return -self.problem.residuals(self.u)

    def draws(self, count: int = 400, seed: int = 0) -> dict[str, Array]:
        """Plausible parameter sets: the bootstrap's refits, else draws from the estimated covariance.

        Args:
            count: How many.
            seed: Seed of the random numbers.

        Returns:
            Values by name, each of shape ``(count,)``; all equal for constants without errors.
        """
        rng = np.random.default_rng(seed)
        result = {name: np.full(count, float(value)) for name, value in self.params.items()}
        if self.points is None:
            return result
        if self.replicates is not None:
            size = len(self.replicates)
            rows = rng.permutation(size)[:count] if count <= size else rng.integers(0, size, count)
            return result | dict(zip(self.names, self.replicates[rows].T.copy(), strict=True))
        if not len(self.names) or not np.any(self.cov):
            return result
        values, vectors = np.linalg.eigh(self.cov)
        normal = rng.standard_normal((count, len(self.u)))
        chi = rng.chisquare(max(self.dof_resid, 1), count) / max(self.dof_resid, 1)
        u = self.u + (normal * np.sqrt(np.maximum(values, 0.0) / np.maximum(chi, 1e-9)[:, None])) @ vectors.T
        drawn = self.problem.to_parameters(np.clip(u, self.problem.lower, self.problem.upper))
        return result | dict(zip(self.names, drawn.T, strict=True))
