"""A forecast: the predictive distribution of the loss at a future step."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from html import escape
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from lightning_scaling._utils.formatting import significant
from lightning_scaling._utils.serialization import finite_or_none
from lightning_scaling._utils.stats import t_quantile
from lightning_scaling._utils.validation import probability
from lightning_scaling.forecast.metric_scale import PLAIN, MetricScale

if TYPE_CHECKING:
    from typing_extensions import Self

DEGREES_OF_FREEDOM = 4.0
"""Of the Student t of the forecast error, by maximum likelihood on recorded runs."""

DEFAULT_LEVEL = 0.9
"""Level of intervals where none is given."""

_TINY = 1e-300
_UNKNOWN = 0.5  # the probability of anything where nothing is known

Trust = Literal["none", "low", "ok"]


class Prediction(float):
    """The median loss at one step, a float that also knows its own uncertainty (Student's t).

    Args:
        median: Median of the loss.
        scale: Scale of the distribution; ``inf`` when nothing is known.
        df: Degrees of freedom.
    """

    scale: float
    df: float

    def __new__(cls, median: float, scale: float, df: float) -> Prediction:
        """A float with a scale."""
        self = super().__new__(cls, median)
        self.scale = scale
        self.df = df
        return self

    def _arguments(self) -> tuple[Any, ...]:
        return float(self), self.scale, self.df

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), self._arguments()

    __str__ = float.__repr__  # in a sentence it is a number

    def __repr__(self) -> str:
        lower, upper = self.interval()
        return f"{type(self).__name__}({significant(self)}, 90% [{significant(lower)}, {significant(upper)}])"

    def to_dict(self) -> dict[str, Any]:
        """``median``, ``scale`` and degrees of freedom ``df`` as builtins."""
        return {"median": float(self), "scale": self.scale, "df": self.df}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Read back what :meth:`to_dict` gave."""
        return cls(**data)

    def quantile(self, q: float) -> float:
        """The loss below which the outcome falls with probability ``q``.

        Raises:
            ValueError: If ``q`` is not strictly between 0 and 1.
        """
        probability("q", q)
        return float(self) + self.scale * t_quantile(q, self.df)

    def interval(self, level: float = DEFAULT_LEVEL) -> tuple[float, float]:
        """The central interval that holds the outcome with probability ``level``.

        Raises:
            ValueError: If ``level`` is not strictly between 0 and 1.
        """
        probability("level", level)
        half = self.scale * t_quantile((1 + level) / 2, self.df)
        return float(self) - half, float(self) + half

    def below(self, loss: float) -> float:
        """Probability that the outcome is at most ``loss``."""
        if not np.isfinite(self.scale):
            return _UNKNOWN
        return float(stats.t.cdf((loss - float(self)) / max(self.scale, _TINY), self.df))

    def reaches(self, target: float) -> float:
        """Probability that the outcome is at least as good as ``target``."""
        return self.below(target)


class MetricPrediction(Prediction):
    """A :class:`Prediction` of a metric that is no loss, made on the scale of the law.

    Median, quantiles and intervals are in the units of the metric and inside its bounds; ``scale`` there holds to first
    order only.

    Args:
        on_law: The prediction on the scale of the law.
        measured: Between the metric and that scale.
    """

    on_law: Prediction
    measured: MetricScale

    def __new__(cls, on_law: Prediction, measured: MetricScale) -> MetricPrediction:
        """A float in the units of the metric."""
        median = float(on_law)
        self = float.__new__(cls, float(measured.from_law(median)))
        self.scale = float(measured.spread_from_law(median, on_law.scale))
        self.df = on_law.df
        self.on_law = on_law
        self.measured = measured
        return self

    def _arguments(self) -> tuple[Any, ...]:
        return self.on_law, self.measured

    def to_dict(self) -> dict[str, Any]:
        """Those of a prediction, that of the law as ``on_law``, and the ``metric`` with its mode and bounds."""
        return {**super().to_dict(), "on_law": self.on_law.to_dict(), "metric": self.measured.to_dict()}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Read back what :meth:`to_dict` gave."""
        return cls(Prediction.from_dict(data["on_law"]), MetricScale.from_dict(data["metric"]))

    def quantile(self, q: float) -> float:
        """The value below which the outcome falls with probability ``q``."""
        Prediction.quantile(self, q)
        return float(self.measured.from_law(self.on_law.quantile(q if self.measured.mode == "min" else 1 - q)))

    def interval(self, level: float = DEFAULT_LEVEL) -> tuple[float, float]:
        """The central interval that holds the outcome with probability ``level``."""
        one, other = (float(self.measured.from_law(end)) for end in self.on_law.interval(level))
        return min(one, other), max(one, other)

    def below(self, loss: float) -> float:
        """Probability that the outcome is at most ``loss``."""
        if not self.measured.low <= loss < self.measured.high:
            return float(loss >= self.measured.high)
        share = self.reaches(loss)
        return share if self.measured.mode == "min" else 1 - share

    def reaches(self, target: float) -> float:
        """Probability that the outcome is at least as good as ``target``."""
        return self.on_law.below(float(self.measured.to_law(target)))


PredictivePath = Callable[[NDArray[np.float64]], tuple[NDArray[np.float64], NDArray[np.float64]]]
"""Medians and scales of the loss at steps of shape ``(n,)``."""


@dataclass(frozen=True)
class ConstantPath:
    """One median and scale at all steps: of a forecast that was read back without its path."""

    median: float
    scale: float

    def __call__(self, steps: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Medians and scales at steps of shape ``(m,)``."""
        return np.full(steps.shape, self.median), np.full(steps.shape, self.scale)


@dataclass(frozen=True, repr=False)
class Forecast:
    """Where the loss is going to be, as known at one step of the run.

    Attributes:
        step: Step at which the forecast was made.
        horizon: Step of :attr:`final`: the end of the plan, or twice the present progress where the plan has no end.
        law: Name of the law behind it.
        trust: ``"none"`` (do not use the number), ``"low"`` (part of it is taken from elsewhere) or ``"ok"``.
        why: Why the trust is not ``"ok"``, one clause; empty otherwise.
        params: Weighted means of the law's parameters and the settings of the fit.
        path: Medians and scales at any steps; ``None`` when there was too little to fit.
        own_path: The path by the run's own losses alone, where past runs have changed :attr:`path`.
        peer_path: The path by the curves of past runs under the same schedule; ``None`` without enough of them.
        is_falling: Whether the law found the curve to fall at all.
        at_plan_end: Whether the horizon is the end of the plan.
        valid_until: Step up to which the run may be held to the forecast: beyond it lies what only the prior knows.
        scale: Between the metric and the scale of the law. The paths and the params are on the scale of the law,
            all else is in the units of the metric. Of a loss they are the same.
    """

    step: int
    horizon: int
    law: str
    trust: Trust
    why: str
    df: float = DEGREES_OF_FREEDOM
    params: dict[str, float] = field(default_factory=dict, hash=False, repr=False)
    path: PredictivePath | None = field(default=None, repr=False, compare=False)
    own_path: PredictivePath | None = field(default=None, repr=False, compare=False)
    peer_path: PredictivePath | None = field(default=None, repr=False, compare=False)
    is_falling: bool = True
    at_plan_end: bool = True
    valid_until: float = math.inf
    scale: MetricScale = PLAIN

    @property
    def on_law(self) -> Forecast:
        """The forecast in the units of the law: itself, for a loss."""
        return self if self.scale.plain else replace(self, scale=PLAIN)

    def at(self, step: float) -> Prediction:
        """The predictive distribution at a step, present or future; use it as a float, or ask for its ``interval``.

        Raises:
            ValueError: If ``step`` is not a positive number.
        """
        if not (np.isfinite(step) and step > 0):
            raise ValueError(f"`step` must be a positive number of optimizer steps, but got {step!r}.")
        if self.path is None:
            return Prediction(float("nan"), float("inf"), self.df)
        median, scale = self.path(np.array([float(step)]))
        if self.scale.plain:
            return Prediction(float(median[0]), float(scale[0]), self.df)
        # The outcome is one recorded value, or few, not the mean of many as with training losses.
        spread = math.hypot(float(scale[0]), self.params.get("noise", 0.0))
        return MetricPrediction(Prediction(float(median[0]), spread, self.df), self.scale)

    def curve(self, steps: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Medians and scales at many steps, each of shape ``(n,)``; ``nan`` and ``inf`` where nothing is known."""
        at = np.asarray(steps, dtype=np.float64)
        if self.path is None:
            return np.full(at.shape, np.nan), np.full(at.shape, np.inf)
        medians, scales = self.path(at)
        if self.scale.plain:
            return medians, scales
        return self.scale.from_law(medians), self.scale.spread_from_law(medians, scales)

    @cached_property
    def final_distribution(self) -> Prediction:
        """The predictive distribution at the horizon."""
        return self.at(self.horizon)

    @property
    def final(self) -> float:
        """Median of the loss at the horizon; ``nan`` when the trust is ``"none"`` for want of data."""
        return float(self.final_distribution)

    def interval(self, level: float = DEFAULT_LEVEL) -> tuple[float, float]:
        """The central interval of the loss at the horizon."""
        return self.final_distribution.interval(level)

    def quantile(self, q: float) -> float:
        """The loss at the horizon below which the outcome falls with probability ``q``."""
        return self.final_distribution.quantile(q)

    def __repr__(self) -> str:
        lower, upper = self.interval()
        known = f"final={significant(self.final)}, 90% [{significant(lower)}, {significant(upper)}], "
        known = known if math.isfinite(self.final) else ""
        return f"Forecast(step={self.step:,}/{self.horizon:,}, {known}trust={self.trust})"

    def _repr_html_(self) -> str:
        """A small table for notebooks."""
        lower, upper = self.interval()
        rows = {
            "step": f"{self.step:,} of {self.horizon:,}",
            "final": significant(self.final),
            "90 % interval": f"{significant(lower)} to {significant(upper)}",
            "trust": f"{self.trust}: {self.why}" if self.why else self.trust,
            "law": self.law,
        }
        cells = "".join(f"<tr><th>{escape(name)}</th><td>{escape(text)}</td></tr>" for name, text in rows.items())
        return f"<table>{cells}</table>"

    def to_dict(self) -> dict[str, Any]:
        """The forecast as builtins, without the path.

        Returns:
            ``step`` and ``horizon``; of the final loss the median ``final``, its ``scale``, the degrees of freedom
            ``df``, and the interval ``lower`` to ``upper`` of the given ``level``, in the units of the metric; the name
            of the ``law``, ``trust``, ``why``, and the law's ``params`` on the scale of the law.
        """
        prediction = self.final_distribution
        lower, upper = prediction.interval()
        end = {"final": float(prediction), "scale": prediction.scale, "df": self.df, "level": DEFAULT_LEVEL}
        known = {"law": self.law, "trust": self.trust, "why": self.why, "params": dict(self.params)}
        return {"step": self.step, "horizon": self.horizon, **end, "lower": lower, "upper": upper, **known}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Forecast:
        """Read back what :meth:`to_dict` gave.

        The forecast of the final loss is kept; with no path, :attr:`path` is constant at it. Of a metric that is no
        loss the interval is symmetric.

        Raises:
            KeyError: If a key is missing.
        """
        final, scale = finite_or_none(data["final"]), finite_or_none(data["scale"])
        path = None if final is None or scale is None else ConstantPath(final, scale)
        params = {name: float(value) for name, value in data["params"].items()}
        step, horizon, df = int(data["step"]), int(data["horizon"]), float(data["df"])
        return cls(step, horizon, str(data["law"]), data["trust"], str(data["why"]), df, params, path)
