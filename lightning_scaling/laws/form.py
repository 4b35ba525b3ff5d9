"""Functional forms: named inputs and parameters, their sources, and published constants."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType, SimpleNamespace
from typing import Any, ClassVar, Literal

import numpy as np

from lightning_scaling.laws.arrays import Array

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
        arxiv = f"arXiv {self.arxiv}" if self.arxiv else ""
        return ", ".join(filter(None, (f"{self.authors} {self.year}", arxiv, self.where)))


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


class FunctionalForm(ABC):
    """A formula with named inputs and parameters; :class:`~lightning_scaling.laws.Law` adds its estimation.

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

    lookup: ClassVar[Callable[..., FunctionalForm]]
    """Finds a law of the catalogue by name; set by the registry, which depends on this module."""

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
        x = self._arrays("input", inputs, self.inputs)
        p = self._arrays("parameter", params, tuple(p.name for p in self.parameters))
        with np.errstate(all="ignore"):
            result = self.value(SimpleNamespace(**p), SimpleNamespace(**self.features(x)))
        return np.asarray(result, dtype=np.float64)

    def _arrays(self, what: str, given: Mapping[str, Any], wanted: tuple[str, ...]) -> dict[str, Array]:
        wrong = [f"{what} {name!r} is missing" for name in wanted if name not in given]
        wrong += [f"{what} {name!r} is not of this law" for name in given if name not in wanted]
        if wrong:
            raise TypeError(f"{self.name}: {'; '.join(wrong)}; it takes {', '.join(wanted)}.")
        return {name: np.asarray(value, dtype=np.float64) for name, value in given.items()}

    def constants(self, name: str | None = None) -> Published:
        """Published constants by name; left out, the first.

        Raises:
            KeyError: There are none, or none of that name.
        """
        if not self.published_constants:
            raise KeyError(f"{self.name} has no published constants that could be relied on; fit it to points.")
        if name is None:
            return self.published_constants[0]
        if name not in self.published:
            raise KeyError(f"{self.name} has no constants named {name!r}; there are {', '.join(self.published)}.")
        return self.published[name]

    def __repr__(self) -> str:
        return f"<law {self.name}: {self.formula}>"
