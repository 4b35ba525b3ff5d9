"""What a law is: a formula with named inputs and parameters, its source, and what is known of its constants."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType, SimpleNamespace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from lightning_scaling.laws.curve_fits import Fits
    from lightning_scaling.laws.results import Fit
    from lightning_scaling.laws.solvers.objectives import Kind

Array = NDArray[np.float64]
Verified = Literal["checked", "transcribed", "recalled"]
Tag = Literal[
    "single run",
    "ladder",
    "allocation",
    "schedule",
    "sparse",
    "data repeats",
    "fine-tuning",
    "precision",
    "mixture",
    "vision",
    "multimodal",
    "retrieval",
    "recommendation",
    "RL",
    "inference",
    "downstream",
    "batch/LR",
]

UNITS: Mapping[str, str] = MappingProxyType(
    {
        "params": "model parameters",
        "active_params": "parameters active for one token",
        "tokens": "training tokens (or samples) seen, repeats included",
        "unique_tokens": "distinct training tokens",
        "flops": "training compute in FLOPs",
        "steps": "optimizer steps",
        "experts": "number of experts",
        "granularity": "experts per expert-sized feed-forward layer",
        "sparsity": "fraction of weights (or experts) that are inactive, from 0 up to but not including 1",
        "batch_tokens": "tokens in a batch",
    }
)
"""Inputs with one meaning in every law; all are counted in units of one."""


@dataclass(frozen=True)
class Source:
    """Where a formula or a set of constants comes from.

    Attributes:
        authors: First author, or all of them when few.
        year: Year of publication.
        arxiv: arXiv id without a version, or None.
        where: Equation, table or file in it.
    """

    authors: str
    year: int
    arxiv: str | None = None
    where: str = ""

    def __str__(self) -> str:
        parts = [f"{self.authors} {self.year}"]
        if self.arxiv:
            parts.append(f"arXiv {self.arxiv}")
        if self.where:
            parts.append(self.where)
        return ", ".join(parts)


@dataclass(frozen=True)
class Parameter:
    """One parameter of a law.

    Attributes:
        name: The paper's symbol, in letters.
        meaning: What it is, in a few words.
        start: Range that the search for a start covers; of the same sign at both ends.
        lower: Least admissible value.
        upper: Greatest admissible value.
        log: Whether steps are taken in its logarithm: right for positive scale factors that span decades.
        of: Name of an input (or ``"loss"``): `start` is then counted in that input's typical value, its geometric
            mean over the points (for the loss: its least value), and so are `lower` and `upper` when finite.
        prior: Where values of real ladders lie: centre (counted like `start`) and standard deviation of the logarithm.
            Used only when a fit asks for priors.
    """

    name: str
    meaning: str
    start: tuple[float, float]
    lower: float = 0.0
    upper: float = math.inf
    log: bool = False
    of: str | None = None
    prior: tuple[float, float] | None = None


@dataclass(frozen=True)
class Published:
    """Constants that somebody published for a law.

    Attributes:
        name: How to ask for them: ``law.known(name)``.
        values: One value for every parameter of the law.
        source: Where they come from.
        verified: ``"checked"`` against the paper's own text, code or data; ``"transcribed"`` from a secondary source;
            ``"recalled"`` with fair confidence and not checked. Anything weaker is not carried at all.
        note: What they hold for: data, counting of the inputs, unit of the loss.
        errors: Standard errors of some of the values, when published.
        inexact: Names of values that differ in status from `verified` or were derived here, with how.
    """

    name: str
    values: Mapping[str, float]
    source: Source
    verified: Verified
    note: str = ""
    errors: Mapping[str, float] = field(default_factory=dict)
    inexact: Mapping[str, str] = field(default_factory=dict)


class Law(ABC):
    """A functional form with named inputs and parameters.

    A subclass sets the attributes below and writes :meth:`value` in plain numpy. That is all: estimation, its
    derivatives, intervals, the catalogue's card and saving come from here.

    Attributes:
        name: Key in the catalogue.
        title: Title of the card.
        formula: One line, with the names used in code.
        source: Where the form was published.
        inputs: Names of the inputs, in order.
        units: What each input counts, where :data:`UNITS` does not say it already.
        output: What the law predicts: ``"loss"``, else the quantity's name.
        parameters: The parameters, in the order in which they are reported.
        linear: Names of the parameters in which the law (its logarithm when `link` is ``"log"``) is linear and
            homogeneous: with all of them zero the value (its logarithm) is zero. Solved exactly, never searched.
        link: ``"identity"`` or ``"log"``; see `linear`.
        space: Scale of the residuals by default: ``"log"`` for positive outputs, else ``"linear"``.
        zero_allowed: Inputs that may be zero; all others must be positive.
        tags: Where it may be used.
        published: Published constants.
        pitfalls: What goes wrong with it, a sentence each.
        siblings: Names of other plausible laws of the same inputs; how far they disagree widens intervals.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    formula: str
    source: ClassVar[Source]
    inputs: tuple[str, ...]
    units: Mapping[str, str] = MappingProxyType({})
    output: ClassVar[str] = "loss"
    parameters: tuple[Parameter, ...]
    linear: tuple[str, ...] = ()
    link: ClassVar[Literal["identity", "log"]] = "identity"
    space: ClassVar[Literal["log", "linear"]] = "log"
    zero_allowed: tuple[str, ...] = ()
    tags: ClassVar[frozenset[Tag]]
    published_constants: tuple[Published, ...] = ()
    pitfalls: ClassVar[tuple[str, ...]] = ()
    siblings: ClassVar[tuple[str, ...]] = ()

    @abstractmethod
    def value(self, p: Any, x: Any) -> Any:
        """The law itself.

        Args:
            p: The parameters as attributes, each broadcastable against the inputs: numbers, arrays of shape ``(b, 1)``,
                or numbers that carry derivatives. Use numpy functions and operators only.
            x: The inputs as attributes, shape ``(n,)`` or ``(b, n)``, and what :meth:`features` added.

        Returns:
            The output at every point, shape ``(n,)`` or ``(b, n)``.
        """

    def features(self, x: Mapping[str, Any]) -> Mapping[str, Any]:
        """What :meth:`value` needs of the inputs and does not depend on parameters; computed once per fit."""
        return x

    def options(self) -> dict[str, Any]:
        """Arguments (builtins) with which this instance can be made again."""
        return {}

    @property
    def published(self) -> Mapping[str, Published]:
        """Published constants by name."""
        return {constants.name: constants for constants in self.published_constants}

    @property
    def shape(self) -> tuple[Parameter, ...]:
        """The parameters that are not linear."""
        return tuple(p for p in self.parameters if p.name not in self.linear)

    def relatives(self) -> list[Law]:
        """The laws named in `siblings`."""
        from lightning_scaling.laws.registry import get

        return [get(name) for name in self.siblings]

    def unit(self, name: str) -> str:
        """What an input counts, in words."""
        return self.units.get(name) or UNITS[name]

    def evaluate(self, params: Mapping[str, Any], /, **inputs: Any) -> Array:
        """The law with given parameters.

        Args:
            params: A value (or an array of shape ``(b, 1)``) for every parameter.
            **inputs: The inputs by name, numbers or arrays that broadcast.

        Returns:
            The output, of the inputs' broadcast shape.

        Raises:
            TypeError: An input or a parameter is missing, or one is not of this law.
        """
        self._check_names("input", inputs, self.inputs)
        self._check_names("parameter", params, tuple(p.name for p in self.parameters))
        arrays = {name: np.asarray(value, dtype=np.float64) for name, value in inputs.items()}
        values = {name: np.asarray(value, dtype=np.float64) for name, value in params.items()}
        with np.errstate(over="ignore", under="ignore", divide="ignore", invalid="ignore"):
            result = self.value(SimpleNamespace(**values), SimpleNamespace(**self.features(arrays)))
        return np.asarray(result, dtype=np.float64)

    def _check_names(self, what: str, given: Mapping[str, Any], wanted: tuple[str, ...]) -> None:
        missing = [name for name in wanted if name not in given]
        unknown = [name for name in given if name not in wanted]
        if missing or unknown:
            wrong = [f"{what} {name!r} is missing" for name in missing]
            wrong += [f"{what} {name!r} is not of this law" for name in unknown]
            raise TypeError(f"{self.name}: {'; '.join(wrong)}; it takes {', '.join(wanted)}.")

    def known(self, name: str | None = None) -> Fit:
        """Published constants as a fit, to predict or allocate with.

        Args:
            name: Name of the constants; left out, the first.

        Returns:
            A fit without data: it predicts; intervals are nan unless standard errors were published.

        Raises:
            KeyError: The law has no published constants, or none of that name.
        """
        from lightning_scaling.laws.results import Fit

        return Fit.from_published(self, name)

    def fit(
        self,
        data: Any,
        loss: str = "loss",
        objective: Kind = "huber",
        delta: float | Literal["auto"] = 1e-3,
        weights: Any = None,
        bootstrap: int = 0,
        seed: int = 0,
        *,
        columns: Mapping[str, str] | None = None,
        groups: Any = None,
        space: str | None = None,
        quantile: float = 0.5,
        fixed: Mapping[str, float] | None = None,
        bounds: Mapping[str, tuple[float, float]] | None = None,
        priors: Mapping[str, tuple[float, float]] | Literal["default"] | None = None,
        training: Mapping[str, Any] | None = None,
        progress: Callable[[int], Any] | None = None,
    ) -> Fit:
        """Estimate the parameters from points.

        Given the shape parameters the linear ones are solved exactly (variable projection: Golub and Pereyra, SIAM J.
        Numer. Anal. 10(2), 1973) over a deterministic cover of the shapes; the best few are then polished on the
        objective itself with exact derivatives. The same data give the same fit, always.

        Args:
            data: Mapping of arrays, DataFrame, or anything indexable by column name; columns of shape ``(n,)`` named
                like the inputs, in units of one. Rows that cannot be used are left out, counted and reported.
            loss: Column of what the law predicts.
            objective: ``"huber"``, ``"least_squares"`` or ``"quantile"``, always summed over the points.
            delta: Residual at which ``"huber"`` turns from square to linear. At .001 on log losses nearly all points
                are beyond it, so that the fit is close to least absolute deviations; at .1 it is least squares.
                ``"auto"``: one and a half times the scale of the residuals, found on the way.
            weights: Weights of the points, shape ``(n,)``, or the name of a column; left out, all equal.
                ``"frontier"``: those of :func:`lightning_scaling.laws.frontier_weights`, for laws of params and tokens.
            bootstrap: Number of refits to resampled points (whole groups, or blocks of an autocorrelated curve).
            seed: Seed of the resampling.
            columns: Column by input, where names differ, such as ``{"params": "N"}``.
            groups: Column, or values of shape ``(n,)``, that say which points share a run: errors then treat the run,
                not the point, as the unit.
            space: ``"log"`` for residuals of the logarithm, ``"linear"`` for plain ones; left out, as suits the law.
            quantile: Level of ``"quantile"``.
            fixed: Parameters to give instead of fitting, such as ``{"E": 1.7}``.
            bounds: Bounds in place of the law's own, such as ``{"alpha": (0.2, 0.5)}``.
            priors: Beliefs about positive parameters, as centre and standard deviation of the logarithm, such as
                ``{"alpha": (0.35, 0.2)}``, weighed against the residuals like so many more of them;
                ``"default"``: those of the law.
            training: What the report shall say of how runs were trained and measured (models, data, parameter_counting,
                learning_rate, schedule, checkpoints, ...); see :meth:`Fit.report`.
            progress: Called with the number of refits finished since its last call.

        Returns:
            The fit. A weak fit is returned with a `status` other than ``"ok"`` and a `message`, never silently.

        Raises:
            TypeError: `data` has no columns.
            ValueError: A column is missing, no or too few usable points are left, or an argument is out of its range.
        """
        from lightning_scaling.laws.estimator import fit_law

        return fit_law(
            self,
            data,
            loss,
            objective,
            delta,
            weights,
            bootstrap,
            seed,
            columns=columns,
            groups=groups,
            space=space,
            quantile=quantile,
            fixed=fixed,
            bounds=bounds,
            priors=priors,
            training=training,
            progress=progress,
        )

    def fit_many(
        self,
        data: Mapping[str, Any],
        loss: str = "loss",
        objective: Kind = "least_squares",
        delta: float = 1e-3,
        weights: Any = None,
        *,
        space: str | None = None,
        quantile: float = 0.5,
        fixed: Mapping[str, float] | None = None,
        bounds: Mapping[str, tuple[float, float]] | None = None,
    ) -> Fits:
        """Estimate the parameters of many curves at once; thousands take seconds.

        Args:
            data: Mapping of arrays: the losses of shape ``(curves, points)``, each input of that shape or ``(points,)``
                when all curves share it. Shorter curves are filled up with nan.
            loss: Key of what the law predicts.
            objective: As in :meth:`fit`.
            delta: As in :meth:`fit`.
            weights: Weights that broadcast to ``(curves, points)``.
            space: As in :meth:`fit`.
            quantile: As in :meth:`fit`.
            fixed: As in :meth:`fit`, for all curves alike.
            bounds: As in :meth:`fit`, for all curves alike.

        Returns:
            The fits: a status for every curve, and any of them in full by index.

        Raises:
            ValueError: A key is missing, shapes do not go together, or an argument is out of its range.
        """
        from lightning_scaling.laws.estimator import fit_curves

        return fit_curves(
            self, data, loss, objective, delta, weights, space=space, quantile=quantile, fixed=fixed, bounds=bounds
        )

    def __repr__(self) -> str:
        return f"<law {self.name}: {self.formula}>"
