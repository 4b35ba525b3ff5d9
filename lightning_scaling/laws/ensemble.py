"""Ensembles: the median of several laws, with an interval that includes their disagreement."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from lightning_scaling._utils.stats import t_quantile
from lightning_scaling._utils.validation import probability
from lightning_scaling.laws.arrays import Array
from lightning_scaling.laws.base import Law
from lightning_scaling.laws.data import Points, read
from lightning_scaling.laws.extrapolation import RECENCY, fit_extrapolation, merged
from lightning_scaling.laws.options import Settings
from lightning_scaling.laws.registry import get
from lightning_scaling.laws.results import Fit
from lightning_scaling.laws.solvers.objectives import Objective
from lightning_scaling.laws.summary import table

DEFAULT = ("m2", "m3", "m4", "bnsl")

_LEAST_POINTS = 3

# Scale of a Student t, calibrated on the two collections of lightning_scaling.laws.extrapolation.
_LAW_FACTOR = 0.6
_NOISE_FACTOR = 2.5
_TAILS = 4.0


class Combination:
    """The median of several laws, ``exp(median_i(ln law_i(x)))``, which extrapolates better than any of them.

    Some forms are biased low when extrapolated (a power law has no floor), others high (a curve that saturates too
    early), so the median of them is more accurate than each.

    Laws of one quantity (a single training curve) are fitted for extrapolation rather than for the whole curve.
    Residuals of ``ln loss`` are weighted by ``(x / x_last)^3``, because no form describes a curve from its first point
    to its last, and scaled by twice the law's own scatter; beyond that they enter linearly (Huber). A weak prior covers
    what no point determines: the falls of ``ln loss`` over successive doublings of x, from the last one observed to the
    third beyond, shrink by ``2^-0.4`` each, with a standard deviation of .15. It leaves room for a power law (no
    shrinking) and for a floor close by, and decides only what the points leave open. Points within 5 % of each other
    are averaged.

    Laws of several inputs are fitted by :meth:`Law.fit` as they are.

    M2, M3 and M4: Alabdulmohsin et al. 2022 (arXiv 2209.06640); BNSL: Caballero et al. 2023 (arXiv 2210.14891). That a
    damped trend is hard to beat beyond the data: Gardner and McKenzie, Management Science 31(10), 1985.

    Args:
        names: Laws by name, or as objects; at least two, of the same inputs.
        over: Input of laws that may be of any one quantity, such as ``"tokens"``; left out, their usual one.

    Attributes:
        laws: The laws by name.
        inputs: Their inputs.

    Raises:
        KeyError: A name is not in the catalogue.
        ValueError: Fewer than two laws, or laws of different inputs or outputs.
    """

    def __init__(self, names: Iterable[str | Law] = DEFAULT, over: str | None = None) -> None:
        if isinstance(names, str):
            raise ValueError(f"`names` must hold several laws, such as {DEFAULT}, but got the one name {names!r}.")
        found = [law_over(name, over) for name in names]
        repeated = Counter(law.name for law in found)
        self.laws: dict[str, Law] = {}
        for law in found:
            label = law.name if repeated[law.name] == 1 else _full_name(law)
            if label in self.laws:
                raise ValueError(f"`names` holds the law {label} twice.")
            self.laws[label] = law
        if len(self.laws) < 2:
            raise ValueError(f"A combination needs at least two laws, but got {', '.join(self.laws) or 'none'}.")
        first = found[0]
        for law in found[1:]:
            if set(law.inputs) != set(first.inputs) or law.output != first.output:
                raise ValueError(
                    f"The laws of a combination must predict the same from the same, but {first.name} predicts "
                    f"{first.output} from {', '.join(first.inputs)} and {law.name} predicts {law.output} from "
                    f"{', '.join(law.inputs)}."
                )
        self.inputs = first.inputs
        self.output = first.output

    @property
    def name(self) -> str:
        """Such as ``"median(m2, m3)"``."""
        return f"median({', '.join(self.laws)})"

    def fit(
        self, data: Any, loss: str = "loss", *, columns: Mapping[str, str] | None = None, weights: Any = None
    ) -> CombinedFit:
        """Estimate every law from the same points.

        Args:
            data: Mapping of arrays, DataFrame, or anything indexable by column name; columns of shape ``(n,)``.
            loss: Column of what the laws predict; it must be positive.
            columns: Column by input, where names differ.
            weights: Weights of the points, shape ``(n,)``, or the name of a column; left out, all equal.

        Returns:
            The fits together. A law that cannot be fitted is left out and named in `failed`.

        Raises:
            TypeError: `data` has no columns.
            ValueError: A column is missing, there are too few usable points, or fewer than two laws could be fitted.
        """
        first, single = next(iter(self.laws.values())), len(self.inputs) == 1
        seen = read(first, data, loss, weights=weights, columns=columns, space="log")
        points = merged(first, seen) if single else seen
        if len(points) < _LEAST_POINTS:
            raise ValueError(
                f"{len(points)} distinct usable points are too few to see where a curve is heading; give at least "
                f"{_LEAST_POINTS}."
            )
        settings = Settings(Objective("least_squares"), "log", loss=loss, weights="recent", columns=dict(columns or {}))
        members, failed = dict[str, Fit](), dict[str, str]()
        for label, law in self.laws.items():
            try:
                if single:
                    members[label] = fit_extrapolation(law, points, settings)
                else:
                    members[label] = law.fit(data, loss, delta="auto", weights=weights, columns=columns, space="log")
            except ValueError as error:
                failed[label] = str(error)
        if len(members) < 2:
            reasons = "; ".join(map(": ".join, failed.items()))
            raise ValueError(f"Fewer than two laws could be fitted, so there is nothing to combine. {reasons}")
        return CombinedFit(self, members, failed, seen)

    def __repr__(self) -> str:
        return f"<{self.name} of {', '.join(self.inputs)}>"


@dataclass(frozen=True, eq=False)
class CombinedFit:
    """Several laws fitted to the same points.

    Attributes:
        combination: What was fitted.
        members: Fits by name.
        failed: Why a law was left out, by name.
        points: The points, as given.
    """

    combination: Combination
    members: Mapping[str, Fit]
    failed: Mapping[str, str]
    points: Points

    @property
    def ranges(self) -> dict[str, tuple[float, float]]:
        """Least and greatest value of every input that was fitted on."""
        return self.points.ranges

    @property
    def noise(self) -> float:
        """Standard deviation of ``ln loss`` around the median law, late points counting more."""
        r = np.log(self.points.y) - np.log(self.predict(**self.points.inputs))
        w = self.points.weights
        if len(self.points.inputs) == 1:
            (x,) = self.points.inputs.values()
            w = w * (x / x.max()) ** RECENCY
        return float(np.sqrt(np.average(r**2, weights=w)))

    def predict(self, **inputs: Any) -> Array:
        """The median of the laws.

        Args:
            **inputs: The inputs by name, numbers or arrays that broadcast.

        Returns:
            The predicted output, of the inputs' broadcast shape.

        Raises:
            TypeError: An input is missing or unknown.
        """
        return np.exp(self._median(self._predictions(inputs)))

    def interval(self, level: float = 0.95, **inputs: Any) -> tuple[Array, Array]:
        """Interval for what a new point would show, from :meth:`parts`.

        A Student t with 4 degrees of freedom goes around the root of the squares of: the disagreement of the laws, .6
        of the spread of each, and two and a half times the noise, because later points scatter more than fitted ones.

        Args:
            level: Probability of the interval, between 0 and 1.
            **inputs: The inputs by name.

        Returns:
            Lower and upper end, each of the inputs' broadcast shape.

        Raises:
            ValueError: `level` is not between 0 and 1.
            TypeError: An input is missing or unknown.
        """
        probability("level", level)
        middle, parts = self.predict(**inputs), self.parts(**inputs)
        scale = np.sqrt(parts["forms"] ** 2 + (_LAW_FACTOR * parts["law"]) ** 2 + (_NOISE_FACTOR * parts["noise"]) ** 2)
        half = t_quantile((1 + level) / 2, _TAILS) * scale
        return middle * np.exp(-half), middle * np.exp(half)

    def parts(self, **inputs: Any) -> dict[str, Array]:
        """What an interval is made of, as standard deviations of ``ln loss``.

        Args:
            **inputs: The inputs by name.

        Returns:
            ``forms``: root mean square distance of the laws from their median; ``law``: how little the points determine
            a law, the median over laws; ``noise``: see `noise`. Each of the inputs' broadcast shape.

        Raises:
            TypeError: An input is missing or unknown.
        """
        every = self._predictions(inputs)
        middle = self._median(every)
        spreads = np.stack([fit.prediction_spread.law(inputs) for fit in self.members.values()])
        return {
            "forms": np.sqrt(np.mean(np.where(np.isfinite(every), every - middle, 0.0) ** 2, axis=0)),
            "law": np.median(np.where(np.isfinite(spreads), spreads, 0.0), axis=0),
            "noise": np.full(middle.shape, self.noise),
        }

    def _predictions(self, inputs: Mapping[str, Any]) -> Array:
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.stack([np.log(fit.predict(**inputs)) for fit in self.members.values()])

    @staticmethod
    def _median(every: Array) -> Array:
        lost = np.all(np.isnan(every), axis=0)
        return np.asarray(np.where(lost, np.nan, np.nanmedian(np.where(lost, 0.0, every), axis=0)))

    def summary(self) -> str:
        """A table: what each law and their median say at the last point and beyond it, with 90 % intervals."""
        last = {name: high for name, (_, high) in self.ranges.items()}
        factors = (1, 2, 4, 8)
        beyond = {name: value * np.array(factors, dtype=np.float64) for name, value in last.items()}
        lower, upper = self.interval(0.9, **beyond)
        shown = [(label, fit.predict(**beyond), fit.status.value) for label, fit in self.members.items()]
        shown += [("median", self.predict(**beyond), ""), ("90 % from", lower, ""), ("90 % to", upper, "")]
        at = ", ".join(f"{name} {value:.4g}" for name, value in last.items())
        rows = [("law", *(f"x{k}" for k in factors), "status")]
        rows += [(label, *(f"{v:.5g}" for v in values), status) for label, values, status in shown]
        lines = [
            self.combination.name,
            f"  {len(self.points)} points up to {at}; noise {100 * self.noise:.2g} %",
            f"  {self.combination.output} at multiples of that point:",
            "",
            *table(rows, right=range(1, 1 + len(factors))),
        ]
        lines += [f"left out {label}: {reason}" for label, reason in self.failed.items()]
        return "\n".join(lines)

    def __repr__(self) -> str:
        return f"<fit of {self.combination.name} to {len(self.points)} points>"


def combine(names: Iterable[str | Law] = DEFAULT, over: str | None = None) -> Combination:
    """The median of several laws; see :class:`Combination`.

    Args:
        names: Laws by name, or as objects; at least two, of the same inputs.
        over: Input of laws that may be of any one quantity, such as ``"tokens"``; left out, their usual one.

    Returns:
        The combination; ``combine(over="tokens").fit(data).predict(tokens=1e10)``.

    Raises:
        KeyError: A name is not in the catalogue.
        ValueError: Fewer than two laws, or laws of different inputs or outputs.
    """
    return Combination(names, over)


def law_over(name: str | Law, over: str | None) -> Law:
    """A law by name, of the input `over` where it may be of any one quantity."""
    law = get(name) if isinstance(name, str) else name
    changed = isinstance(name, str) and over is not None and "over" in law.options()
    return get(law.name, over=over) if changed else law


def _full_name(law: Law) -> str:
    return f"{law.name}({', '.join(f'{key}={value}' for key, value in law.options().items())})"
