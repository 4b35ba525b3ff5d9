"""Options of a fit, as asked for and as used."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from lightning_scaling.laws.data import Points, known_names, unit_of
from lightning_scaling.laws.form import FunctionalForm
from lightning_scaling.laws.solvers.objectives import Kind, Objective

FIRST_DELTA = 1e6
"""Huber threshold to start from where it follows the residuals: beyond all of them."""


@dataclass(frozen=True)
class Settings:
    """Options of a fit after validation: numbers and names only, enough to make the fit again.

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

    def again(self, loss: str, weights: Any) -> FitOptions:
        """Options of a fit to the same or other points with the same objective in the same space."""
        objective = self.objective
        return FitOptions(loss, objective.kind, objective.delta, weights, space=self.space, quantile=objective.quantile)


@dataclass(frozen=True, eq=False)
class FitOptions:
    """Arguments of :meth:`~lightning_scaling.laws.Law.fit`, which describes them, in its order."""

    loss: str = "loss"
    objective: Kind = "huber"
    delta: float | Literal["auto"] = 1e-3
    weights: Any = None
    bootstrap: int = 0
    seed: int = 0
    columns: Mapping[str, str] | None = None
    groups: Any = None
    space: str | None = None
    quantile: float = 0.5
    fixed: Mapping[str, float] | None = None
    bounds: Mapping[str, tuple[float, float]] | None = None
    priors: Mapping[str, tuple[float, float]] | Literal["default"] | None = None
    training: Mapping[str, Any] | None = None

    def settings(self, form: FunctionalForm) -> Settings:
        """The options validated for a law, without the priors, which need its points.

        Raises:
            ValueError: An option is out of its range, or names something that the law does not have.
        """
        if self.bootstrap < 0:
            raise ValueError(f"`bootstrap` must be a number of refits, 0 for none, but got {self.bootstrap}.")
        if self.space not in (None, "log", "linear"):
            raise ValueError(f"`space` must be 'log' or 'linear', but got {self.space!r}.")
        bounds = {}
        for name, (low, high) in _known(form, self.bounds, "bounds").items():
            if not low < high:
                wanted = "must be (lower, upper) with lower < upper"
                raise ValueError(f"`bounds` of {name!r} {wanted}, but got ({low}, {high}).")
            bounds[name] = (float(low), float(high))
        return Settings(
            Objective(self.objective, FIRST_DELTA if self.delta == "auto" else float(self.delta), self.quantile),
            self.space or form.space,
            {name: float(value) for name, value in _known(form, self.fixed, "fixed").items()},
            bounds,
            loss=self.loss,
            weights=_named(self.weights),
            columns=dict(self.columns or {}),
            groups=_named(self.groups),
            seed=int(self.seed),
            training=dict(self.training or {}),
        )

    def prior_values(self, form: FunctionalForm, points: Points) -> dict[str, tuple[float, float]]:
        """Centre and standard deviation of the logarithm of every parameter with a prior.

        Raises:
            ValueError: A prior is not of positive numbers, or of no parameter of the law.
        """
        if isinstance(self.priors, str):
            if self.priors != "default":
                raise ValueError(f"`priors` must be a mapping, 'default' or None, but got {self.priors!r}.")
            own = [(p, p.prior) for p in form.parameters if p.prior is not None]
            return {p.name: (centre * unit_of(p.of, points.inputs, points.y), sd) for p, (centre, sd) in own}
        result = {}
        for name, (centre, spread) in _known(form, self.priors, "priors").items():
            if not (centre > 0 and spread > 0):
                wanted = "must be (centre, spread), both positive"
                raise ValueError(f"The prior of {name!r} {wanted}, but got ({centre}, {spread}).")
            result[name] = (float(centre), float(spread))
        return result


def _named(value: Any) -> str | None:
    return value if value is None or isinstance(value, str) else "given"


def _known(form: FunctionalForm, given: Mapping[str, Any] | None, argument: str) -> Mapping[str, Any]:
    return known_names(argument, given, f"parameters of {form.name}", [p.name for p in form.parameters])
