"""A law with estimated parameters: what it predicts, how sure it is, and how it was made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lightning_scaling.laws.base import Law, Published
from lightning_scaling.laws.data import Points
from lightning_scaling.laws.solvers.objectives import Objective

if TYPE_CHECKING:
    from lightning_scaling.laws.intervals import Spread
    from lightning_scaling.laws.problem import Problem

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Settings:
    """How a fit was asked for; enough to make it again.

    Attributes:
        objective: What was minimised.
        space: ``"log"`` or ``"linear"``: scale of the residuals.
        fixed: Parameters that were given.
        bounds: Bounds that replaced those of the law.
        priors: Centre and standard deviation of the logarithm of parameters with a prior.
        loss: Column that was predicted.
        weights: Column or rule of the weights, ``"given"`` for values passed directly, or None.
        columns: Column by input, where names differ.
        groups: Column of the groups, ``"given"`` for values passed directly, or None.
        seed: Seed of the bootstrap.
        training: What the user said about how the runs were trained and measured.
    """

    objective: Objective = field(default_factory=Objective)
    space: str = "log"
    fixed: Mapping[str, float] = field(default_factory=dict)
    bounds: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    priors: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    loss: str = "loss"
    weights: str | None = None
    columns: Mapping[str, str] = field(default_factory=dict)
    groups: str | None = None
    seed: int = 0
    training: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Fit:
    """A law with estimated parameters.

    Attributes:
        law: The law.
        params: Estimates by name, in the law's order; given ones included.
        status: ``"ok"``; ``"at bounds"``: a parameter sits at the edge of its range; ``"unidentified"``: the points do
            not determine all parameters; ``"not converged"``; ``"published"``: constants from the literature.
        message: What the status means here, in sentences; empty when there is nothing to say.
        diagnostics: Numbers behind the status: points used and dropped, objective, condition number, and so on.
        points: The points used, or None for published constants.
        settings: How the fit was asked for.
        replicates: Bootstrap estimates of the free parameters, shape ``(count, free)``, or None.
        names: Names of the free parameters.
        u: Their coordinates: logarithms of those that span decades, shape ``(free,)``.
        cov: Covariance of the coordinates, shape ``(free, free)``; zero where a parameter is at a bound.
        spread: Variance of a residual of unit weight, as the estimate feels it.
        spare: Points (groups) left after the parameters: degrees of freedom.
        block: Points per block in the bootstrap of a single curve.
    """

    law: Law
    params: Mapping[str, float]
    status: str
    message: str = ""
    diagnostics: Mapping[str, Any] = field(default_factory=dict)
    points: Points | None = None
    settings: Settings = field(default_factory=Settings)
    replicates: Array | None = None
    names: tuple[str, ...] = ()
    u: Array = field(default_factory=lambda: np.zeros(0))
    cov: Array = field(default_factory=lambda: np.zeros((0, 0)))
    spread: float = 0.0
    spare: int = 0
    block: int = 1

    @staticmethod
    def from_published(law: Law, name: str | None = None) -> Fit:
        """Published constants as a fit; see :meth:`Law.known`."""
        constants = _published(law, name)
        names = tuple(p.name for p in law.parameters)
        values = {n: float(constants.values[n]) for n in names}
        log = [p.log for p in law.parameters]
        u = np.array([np.log(values[n]) if is_log else values[n] for n, is_log in zip(names, log, strict=True)])
        errors = np.array(
            [
                constants.errors.get(n, 0.0) / (values[n] if is_log else 1.0)
                for n, is_log in zip(names, log, strict=True)
            ]
        )
        told = f"Constants {constants.name!r} of {constants.source} ({constants.verified}). {constants.note}".strip()
        return Fit(law, values, "published", told, names=names, u=u, cov=np.diag(errors**2), spare=10**6)

    @property
    def ok(self) -> bool:
        """Whether nothing speaks against the estimates: status ``"ok"`` or ``"published"``."""
        return self.status in ("ok", "published")

    @property
    def ranges(self) -> dict[str, tuple[float, float]]:
        """Least and greatest value of every input that was fitted on; empty for published constants."""
        if self.points is None:
            return {}
        return {name: (float(v.min()), float(v.max())) for name, v in self.points.inputs.items()}

    @cached_property
    def problem(self) -> Problem:
        """The minimisation behind this fit."""
        from lightning_scaling.laws.estimator import problem_of

        if self.points is None:
            raise ValueError(f"The constants of {self.law.name} were published, not fitted here: there are no points.")
        problem = problem_of(self.law, self.points, self.settings)
        problem.unit = self.diagnostics.get("unit", 0.0)
        return problem

    @cached_property
    def spread_model(self) -> Spread:
        """What prediction intervals are made of."""
        from lightning_scaling.laws.intervals import Spread

        return Spread(self)

    @property
    def standard_errors(self) -> dict[str, float]:
        """Standard error of every parameter; 0 for given ones, nan where it cannot be told."""
        errors = dict.fromkeys(self.params, 0.0)
        if self.replicates is not None:
            scale = self.few * np.std(self.replicates, axis=0, ddof=1)
            return errors | dict(zip(self.names, map(float, scale), strict=True))
        bad = {*self.diagnostics.get("at_bounds", ()), *self.diagnostics.get("unidentified", ())}
        for j, name in enumerate(self.names):
            size = float(np.sqrt(self.cov[j, j])) if self.spare > 0 and name not in bad else float("nan")
            errors[name] = size * (self.params[name] if self.is_log[j] else 1.0)
        return errors

    @property
    def few(self) -> float:
        """``sqrt(n / (n - p))``: how much wider than its refits an estimate from few points is."""
        if self.points is None or self.spare <= 0:
            return 1.0
        return float(np.sqrt((self.spare + len(self.names)) / self.spare))

    @cached_property
    def is_log(self) -> NDArray[np.bool_]:
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
        rows = np.array([0])
        return np.asarray(-self.problem.model(self.u[None], rows)[0][0])

    def interval(self, level: float = 0.95, *, of: str = "observation", **inputs: Any) -> tuple[Array, Array]:
        """Interval for what a new run would show at given inputs.

        It holds four things: the spread of the estimated parameters, the noise of one observation (and that
        between seeds), the disagreement of other plausible laws fitted to the same points, and a term that grows
        with the distance beyond the fitted range, calibrated on held-out real ladders
        (:class:`lightning_scaling.laws.intervals.Spread`).

        Args:
            level: Probability of the interval, between 0 and 1.
            of: ``"observation"``: all of the above; ``"law"``: the spread of the parameters alone, the confidence band
                of the curve if the law were exactly true.
            **inputs: The law's inputs by name.

        Returns:
            Lower and upper end, each of the inputs' broadcast shape; nan where no error can be estimated.

        Raises:
            ValueError: `level` is not between 0 and 1, or `of` is neither of the two.
            TypeError: An input is missing or unknown.
        """
        return self.spread_model.interval(_checked(level), of, inputs)

    def conf_int(self, level: float = 0.95, method: str = "auto") -> dict[str, tuple[float, float]]:
        """Confidence interval of every parameter.

        Args:
            level: Probability, between 0 and 1.
            method: ``"profile"``: where the objective, minimised over all other parameters, has risen by as much as
                chance would make it rise; right for exponents and other parameters in which a law is far from linear.
                ``"bootstrap"``: quantiles of the refits. ``"wald"``: from standard errors. ``"auto"``: the bootstrap if
                there are refits, else the profile.

        Returns:
            Lower and upper end by name; both equal the value of a given parameter; nan where it cannot be told.

        Raises:
            ValueError: `level` or `method` is not one of those, or there are no refits.
        """
        from lightning_scaling.laws.profile import confidence

        return confidence(self, _checked(level), method)

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
            rows = self.replicates
            picked = (
                rows[rng.permutation(len(rows))[:count]]
                if count <= len(rows)
                else rows[rng.integers(0, len(rows), count)]
            )
            return result | {name: picked[:, j].copy() for j, name in enumerate(self.names)}
        if not len(self.names) or not np.any(self.cov):
            return result
        values, vectors = np.linalg.eigh(self.cov)
        normal = rng.standard_normal((count, len(self.u)))
        chi = rng.chisquare(max(self.spare, 1), count) / max(self.spare, 1)
        u = self.u + (normal * np.sqrt(np.maximum(values, 0.0) / np.maximum(chi, 1e-9)[:, None])) @ vectors.T
        u = np.clip(u, self.problem.lower, self.problem.upper)
        drawn = np.where(self.is_log, np.exp(np.where(self.is_log, u, 0.0)), u)
        return result | {name: drawn[:, j] for j, name in enumerate(self.names)}

    def summary(self, level: float = 0.95) -> str:
        """A table to paste into a paper: law, source, data, objective, estimates with intervals, quality.

        Args:
            level: Probability of the intervals, between 0 and 1.
        """
        from lightning_scaling.laws.summary import fit_summary

        return fit_summary(self, _checked(level))

    def report(self) -> dict[str, Any]:
        """How the fit was made, by the questions of the checklist of Li et al. 2025 (arXiv 2502.18969)."""
        from lightning_scaling.laws.provenance import checklist

        return checklist(self)

    def save(self, path: str | Path) -> Path:
        """Write the fit with its points, settings and report as JSON.

        Args:
            path: File to write; replaced whole or not at all.

        Returns:
            The path.
        """
        from lightning_scaling.laws.io import save

        return save(self, Path(path))

    def __repr__(self) -> str:
        values = ", ".join(f"{name}={value:.4g}" for name, value in self.params.items())
        return f"<fit of {self.law.name}: {values}; {self.status}>"


def _checked(level: float) -> float:
    if not 0 < level < 1:
        raise ValueError(f"`level` must lie between 0 and 1, but got {level!r}.")
    return float(level)


def _published(law: Law, name: str | None) -> Published:
    known = law.published
    if not known:
        raise KeyError(f"{law.name} has no published constants that could be relied on; fit it to points.")
    if name is None:
        return next(iter(known.values()))
    if name not in known:
        raise KeyError(f"{law.name} has no constants named {name!r}; there are {', '.join(known)}.")
    return known[name]
