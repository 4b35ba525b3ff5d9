"""Several laws as one: the median of what they say, and an interval that admits their disagreement."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

from lightning_scaling.fitting.levenberg import Minimum, minimize
from lightning_scaling.fitting.objectives import Objective
from lightning_scaling.laws.card import table
from lightning_scaling.laws.estimate import problem_of
from lightning_scaling.laws.fit import Fit, Settings
from lightning_scaling.laws.law import Law
from lightning_scaling.laws.points import Points, read
from lightning_scaling.laws.problem import Problem
from lightning_scaling.laws.quality import judge
from lightning_scaling.laws.registry import get

Array = NDArray[np.float64]
Ints = NDArray[np.intp]

DEFAULT = ("m2", "m3", "m4", "bnsl")

# Chosen on the curves of Alabdulmohsin et al. 2022, half of the tasks at a time (benchmarks/extrapolation.py), and
# checked on language models trained at a constant rate; the optimum is flat.
_SLOWING, _SLOWING_SPREAD = 0.35, 0.15
_DOUBLINGS = np.arange(-1.0, 4.0)
_RECENCY = 3.0
_CAUTION = 2.0
_LEAST_NOISE = 0.002
_CELL = 0.05
_LEAST_POINTS = 3
_LEAST_SPARE = 2

# Calibrated on the same curves: shares of what is uncertain in the scale of a Student t.
_OF_LAW = 1.0
_OF_FORMS = 1.0
_OF_NOISE = 1.0
_OF_DISTANCE = 0.0
_TAILS = 5.0


class Combination:
    """The median of several laws, ``exp(median_i(ln law_i(x)))``, which extrapolates better than any of them.

    Some forms err on the hopeful side (a power law never flattens), others on the gloomy side (a curve that saturates
    too early), so the middle of them is right more often than each.

    Laws of one quantity (a single training curve) are fitted for what lies ahead rather than for the whole curve.
    Residuals of ``ln loss`` are weighted by ``(x / x_last)^3``, because no form describes a curve from its first point
    to its last; their scale is twice that of each law's own residuals. And there is a weak belief about what no point
    can tell: the falls of ``ln loss`` over successive doublings of x, from the last one seen to the third one ahead,
    shrink by ``2^-0.35`` each, give or take .15. That excludes neither a power law (no shrinking) nor a near
    floor; it settles the question where the points leave it open. Points closer than 5 % are merged first.

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
        found = [_law(name, over) for name in names]
        self.laws: dict[str, Law] = {}
        for law in found:
            label = law.name if sum(law.name == other.name for other in found) == 1 else _full_name(law)
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
        first = next(iter(self.laws.values()))
        seen = read(first, data, loss, weights=weights, columns=columns, space="log")
        single = len(self.inputs) == 1
        points = _merged(first, seen) if single else seen
        if len(points) < _LEAST_POINTS:
            raise ValueError(
                f"{len(points)} distinct usable points are too few to see where a curve is heading; give at least "
                f"{_LEAST_POINTS}."
            )
        members: dict[str, Fit] = {}
        failed: dict[str, str] = {}
        for label, law in self.laws.items():
            settings = Settings(
                Objective("least_squares"), "log", loss=loss, weights="recent", columns=dict(columns or {})
            )
            try:
                if single:
                    members[label] = _ahead(law, points, settings)
                else:
                    members[label] = law.fit(data, loss, delta="auto", weights=weights, columns=columns, space="log")
            except ValueError as error:
                failed[label] = str(error)
        if len(members) < 2:
            why = "; ".join(f"{label}: {reason}" for label, reason in failed.items())
            raise ValueError(f"Fewer than two laws could be fitted, so there is nothing to combine. {why}")
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
        return {name: (float(v.min()), float(v.max())) for name, v in self.points.inputs.items()}

    @property
    def noise(self) -> float:
        """Standard deviation of ``ln loss`` around the median law, late points counting more."""
        r = np.log(self.points.y) - np.log(self.predict(**self.points.inputs))
        w = self.points.weights
        if len(self.points.inputs) == 1:
            (x,) = self.points.inputs.values()
            w = w * (x / x.max()) ** _RECENCY
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
        return np.exp(self._middle(self._all(inputs)))

    def interval(self, level: float = 0.95, **inputs: Any) -> tuple[Array, Array]:
        """Interval for what a new point would show.

        Its scale holds how far the laws disagree, how well the points determine each of them, the noise of one
        observation, and a share of the fall that is forecast.

        Args:
            level: Probability of the interval, between 0 and 1.
            **inputs: The inputs by name.

        Returns:
            Lower and upper end, each of the inputs' broadcast shape.

        Raises:
            ValueError: `level` is not between 0 and 1.
            TypeError: An input is missing or unknown.
        """
        if not 0 < level < 1:
            raise ValueError(f"`level` must lie between 0 and 1, but got {level!r}.")
        every = self._all(inputs)
        middle = self._middle(every)
        half = stdtrit(_TAILS, (1 + level) / 2) * self._scale(every, middle, inputs)
        return np.exp(middle - half), np.exp(middle + half)

    def parts(self, **inputs: Any) -> dict[str, Array]:
        """What an interval is made of, as standard deviations of ``ln loss``, by name.

        Args:
            **inputs: The inputs by name.

        Returns:
            ``forms``, ``law``, ``noise`` and ``distance``, each of the inputs' broadcast shape.
        """
        every = self._all(inputs)
        middle = self._middle(every)
        spreads = np.stack([fit.spread_model.law(inputs) for fit in self.members.values()])
        lowest = float(np.min(self._middle(self._all(self.points.inputs))))
        return {
            "forms": np.sqrt(np.mean((every - middle) ** 2, axis=0)),
            "law": np.median(np.where(np.isfinite(spreads), spreads, 0.0), axis=0),
            "noise": np.full(middle.shape, self.noise),
            "distance": np.maximum(lowest - middle, 0.0),
        }

    def _scale(self, every: Array, middle: Array, inputs: Mapping[str, Any]) -> Array:
        parts = self.parts(**inputs)
        return np.sqrt(
            (_OF_FORMS * parts["forms"]) ** 2
            + (_OF_LAW * parts["law"]) ** 2
            + (_OF_NOISE * parts["noise"]) ** 2
            + (_OF_DISTANCE * parts["distance"]) ** 2
        )

    def _all(self, inputs: Mapping[str, Any]) -> Array:
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.stack([np.log(fit.predict(**inputs)) for fit in self.members.values()])

    @staticmethod
    def _middle(every: Array) -> Array:
        return np.asarray(np.nanmedian(every, axis=0))

    def summary(self) -> str:
        """A table: what each law and their median say at the last point and beyond it, with 90 % intervals."""
        last = {name: high for name, (_, high) in self.ranges.items()}
        factors = (1, 2, 4, 8)
        ahead = {name: value * np.array(factors, dtype=np.float64) for name, value in last.items()}
        told = self.predict(**ahead)
        lower, upper = self.interval(0.9, **ahead)
        at = ", ".join(f"{name} {value:.4g}" for name, value in last.items())
        rows = [("law", *(f"x{k}" for k in factors), "status")]
        for label, fit in self.members.items():
            rows.append((label, *(f"{v:.5g}" for v in fit.predict(**ahead)), fit.status))
        rows.append(("median", *(f"{v:.5g}" for v in told), ""))
        rows.append(("90 % from", *(f"{v:.5g}" for v in lower), ""))
        rows.append(("90 % to", *(f"{v:.5g}" for v in upper), ""))
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


def _law(name: str | Law, over: str | None) -> Law:
    if isinstance(name, Law):
        return name
    law = get(name)
    return get(name, over=over) if over is not None and "over" in law.options() else law


def _full_name(law: Law) -> str:
    return f"{law.name}({', '.join(f'{key}={value}' for key, value in law.options().items())})"


def _merged(law: Law, points: Points) -> Points:
    """Points of one curve in order, those closer than a cell averaged; weights favour the last."""
    (name,) = law.inputs
    log_x, log_y = np.log(points.inputs[name]), np.log(points.y)
    back = np.floor((log_x.max() - log_x) / _CELL).astype(np.intp)
    cells, which = np.unique(-back, return_inverse=True)
    mass = np.bincount(which, points.weights, len(cells))
    x = np.bincount(which, points.weights * log_x, len(cells)) / mass
    y = np.bincount(which, points.weights * log_y, len(cells)) / mass
    mean = mass / np.bincount(which, minlength=len(cells))
    weights = mean * np.exp(_RECENCY * (x - log_x.max()))
    return replace(points, inputs={name: np.exp(x)}, y=np.exp(y), weights=weights / weights.max(), groups=None)


def _ahead(law: Law, points: Points, settings: Settings) -> Fit:
    """One law of one quantity, fitted for what lies ahead of the last point."""
    problem = problem_of(law, points, settings)
    starts = problem.starts()
    plain = problem.descend(starts)
    rough = plain.u[[int(np.argmin(plain.value))]]
    r = problem.model(rough, np.array([0]))[0][0]
    noise = np.sqrt(np.average(r**2, weights=points.weights) * len(r) / max(len(r) - rough.shape[1], _LEAST_SPARE))
    believed = _Slowing(problem, float(_CAUTION * max(noise, _LEAST_NOISE)))
    weights = np.concatenate([points.weights, np.ones(len(_DOUBLINGS) - 2)])
    ends = minimize(
        believed.model,
        np.concatenate([plain.u, starts]),
        problem.lower,
        problem.upper,
        Objective("least_squares"),
        weights,
    )
    best = int(np.argmin(ends.value))
    if not np.isfinite(ends.value[best]):
        raise ValueError(f"{law.name} has no finite value beyond these points.")
    own = problem.model(ends.u, np.arange(len(ends.u)))[0]
    data_value = 0.5 * np.sum(points.weights * own**2, axis=1)
    fit = judge(law, points, settings, problem, Minimum(ends.u, data_value, ends.converged, ends.iterations), best)
    return replace(fit, cov=believed.covariance(ends.u[best], weights))


class _Slowing:
    """Residuals of a law in units of their scale, and the belief about its slope as three more of them."""

    def __init__(self, problem: Problem, scale: float) -> None:
        (name,) = problem.law.inputs
        x = problem.inputs[name]
        self.count = len(x)
        self.scale = scale
        self.problem = problem
        self.wide = Problem(
            problem.law,
            {name: np.concatenate([x, x.max() * 2.0**_DOUBLINGS])},
            np.concatenate([problem.y, np.full(len(_DOUBLINGS), problem.y[-1])]),
            np.concatenate([problem.weights, np.zeros(len(_DOUBLINGS))]),
            problem.objective,
            problem.space,
            problem.fixed,
            problem.bounds,
        )
        self.target = 2.0**-_SLOWING
        self.unit = _SLOWING_SPREAD * np.sqrt(len(_DOUBLINGS) - 2)

    def model(self, u: Array, rows: Ints) -> tuple[Array, Array]:
        r, jac = self.wide.model(u, rows)
        n = self.count
        fall, d_fall = -np.diff(r[:, n:], axis=1), -np.diff(jac[:, :, n:], axis=2)
        last, ahead = fall[:, :-1], fall[:, 1:]
        size = last**2 + 1e-8
        ratio = ahead * last / size
        by_ahead, by_last = last / size, ahead * (size - 2 * last**2) / size**2
        slope = d_fall[:, :, 1:] * by_ahead[:, None] + d_fall[:, :, :-1] * by_last[:, None]
        return (
            np.concatenate([r[:, :n] / self.scale, (ratio - self.target) / self.unit], axis=1),
            np.concatenate([jac[:, :, :n] / self.scale, slope / self.unit], axis=2),
        )

    def covariance(self, u: Array, weights: Array) -> Array:
        jac = self.model(u[None], np.array([0]))[1][0] * np.sqrt(weights)
        free = (u > self.problem.lower) & (u < self.problem.upper)
        cov = np.zeros((len(u), len(u)))
        inner = jac[free]
        cov[np.ix_(free, free)] = np.linalg.pinv(inner @ inner.T, rcond=1e-12, hermitian=True)
        return cov
