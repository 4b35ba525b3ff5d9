"""Metrics that are not losses: the scale on which the law of a loss holds for them."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

Mode = Literal["min", "max"]
Bounds = tuple[float, float]
MODES = ("auto", "min", "max")

_INF = math.inf
_SHARES: tuple[Bounds, ...] = ((0.0, 1.0), (0.0, 100.0))
_NO_BOUNDS: Bounds = (-_INF, _INF)

_HIGH_SHARES = {"acc", "accuracy", "f1", "auc", "auroc", "auprc", "precision", "recall", "sensitivity", "specificity"}
_HIGH_SHARES |= {"iou", "miou", "jaccard", "dice", "map", "ap", "bleu", "rouge"}
_LOW_SHARES = {"err", "error", "wer", "cer"}
_AT_MOST_ONE = {"r2"}
_HIGH = {"score", "reward"}
_LOW = {"loss", "fid"}
_WORDS = re.compile(r"[A-Z]+(?![a-z])[0-9]*|[A-Z]?[a-z]+[0-9]*")


@dataclass(frozen=True)
class MetricScale:
    r"""Between a metric ``y`` and the falling scale ``u`` of the law, ``u = sqrt(|best - y|)``.

    ``best`` is the bound that the metric improves towards: 1 for an accuracy, 0 for an error rate or a loss that cannot
    be negative. On the root of the error one value of a share of ``n`` cases has the same standard deviation,
    ``1 / sqrt(4 n)``, whatever the share (Bartlett 1936, the stabilisation of the variance of a proportion), and the
    steep beginning weighs little against the end. Without such a bound ``u`` is ``y``, or ``-y`` for a metric that
    rises. Values and forecasts beyond the bounds count as the bound.

    Args:
        mode: Whether the metric is to be low (``"min"``) or high (``"max"``).
        low: The lowest value it can have.
        high: The highest.

    Example:
        >>> accuracy = MetricScale("max", 0.0, 1.0)
        >>> float(accuracy.to_law(0.75)), float(accuracy.from_law(0.5)), float(accuracy.from_law(-0.1))
        (0.5, 0.75, 1.0)
    """

    mode: Mode = "min"
    low: float = -_INF
    high: float = _INF

    @property
    def plain(self) -> bool:
        """Whether the law holds for the metric as it is."""
        return self.mode == "min" and self.bounds is None

    @property
    def bounds(self) -> Bounds | None:
        """The lowest and highest value, one of them perhaps infinite; ``None`` without any."""
        return None if (self.low, self.high) == _NO_BOUNDS else (self.low, self.high)

    @property
    def _best(self) -> float:
        return self.low if self.mode == "min" else self.high

    def to_law(self, values: ArrayLike) -> NDArray[np.float64]:
        """Values of the metric on the scale of the law, any shape; what is not finite becomes ``inf``."""
        given = np.asarray(values, dtype=np.float64)
        if self.plain:
            return given
        kept = np.clip(given, self.low, self.high)
        with np.errstate(invalid="ignore"):
            shown = np.sqrt(np.abs(self._best - kept)) if math.isfinite(self._best) else self._sign * kept
        return np.where(np.isfinite(given), shown, _INF)

    def from_law(self, values: ArrayLike) -> NDArray[np.float64]:
        """Values on the scale of the law in the units of the metric, any shape, inside the bounds."""
        given = np.asarray(values, dtype=np.float64)
        if not math.isfinite(self._best):
            return np.clip(self._sign * given, self.low, self.high)
        error = np.maximum(given, 0.0) ** 2
        return np.clip(self._best + self._sign * error, self.low, self.high)

    @property
    def _sign(self) -> float:
        return 1.0 if self.mode == "min" else -1.0

    def spread_to_law(self, values: ArrayLike, spread: ArrayLike) -> NDArray[np.float64]:
        """Standard deviations around values of the metric, on the scale of the law."""
        at, off = np.asarray(values, dtype=np.float64), np.asarray(spread, dtype=np.float64)
        if self.plain:
            return off
        known = np.isfinite(at) & np.isfinite(off)
        at, reach = np.where(known, at, 0.0), np.where(known, off, 0.0)
        return np.where(known, np.abs(self.to_law(at + reach) - self.to_law(at - reach)) / 2, np.nan)

    def spread_from_law(self, values: ArrayLike, spread: ArrayLike) -> NDArray[np.float64]:
        """Standard deviations around values on the scale of the law, in the units of the metric."""
        at, off = np.asarray(values, dtype=np.float64), np.asarray(spread, dtype=np.float64)
        if self.plain:
            return off
        with np.errstate(invalid="ignore"):
            return np.abs(self.from_law(at + off) - self.from_law(at - off)) / 2

    def holds(self, low: float, high: float) -> bool:
        """Whether values from ``low`` to ``high`` lie inside the bounds."""
        return self.low <= low and high <= self.high

    def to_dict(self) -> dict[str, Any]:
        """Mode and bounds as builtins; a bound there is not is ``None``."""
        return {"mode": self.mode, "bounds": [b if math.isfinite(b) else None for b in (self.low, self.high)]}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> MetricScale:
        """Read back what :meth:`to_dict` gave."""
        return cls(data["mode"], *check_bounds(data["bounds"]))

    def sentence(self) -> str:
        """What is taken for granted of the metric, in a few words."""
        better = f"{'higher' if self.mode == 'max' else 'lower'} is better"
        if self.bounds is None:
            return f"{better}, no bounds"
        if not math.isfinite(self.low):
            return f"{better}, at most {self.high:g}"
        if not math.isfinite(self.high):
            return f"{better}, at least {self.low:g}"
        return f"{better}, between {self.low:g} and {self.high:g}"


PLAIN = MetricScale()
"""Of a loss: the metric itself."""


def scales_for(
    metric: str | None = None, mode: str = "auto", bounds: Sequence[float | None] | None = None
) -> tuple[MetricScale, ...]:
    """The scales that come into question for a metric; the first that holds all values seen is taken.

    Args:
        metric: Name of the metric; ``None`` is a loss.
        mode: ``"min"``, ``"max"``, or ``"auto"``: ``"max"`` for the usual names of accuracies and scores.
        bounds: The lowest and highest value, ``None`` or infinite for none. Left out, a loss and any other metric that
            is to be low have none; the usual names of error rates, and metrics that are to be high, lie between 0 and 1
            until a value above 1 is seen, between 0 and 100 until one above that is seen, and have none otherwise.

    Returns:
        At least one scale, the narrowest first.

    Raises:
        ValueError: If ``mode`` is another word, or ``bounds`` are not two numbers in order.

    Example:
        >>> [scale.bounds for scale in scales_for("val_acc")]
        [(0.0, 1.0), (0.0, 100.0), None]
        >>> scales_for("val_loss") == scales_for() == (PLAIN,)
        True
    """
    if mode not in MODES:
        raise ValueError(f"`mode` must be one of {', '.join(map(repr, MODES))}, but got {mode!r}.")
    words = _words(metric or "")
    words = set() if words & _LOW else words
    sense: Mode = "max" if words & (_HIGH_SHARES | _AT_MOST_ONE | _HIGH) else "min"
    if mode != "auto":
        sense = "max" if mode == "max" else "min"
    if bounds is not None:
        return (MetricScale(sense, *check_bounds(bounds)),)
    candidates: tuple[Bounds, ...] = (_NO_BOUNDS,)
    if sense == "min" and words & _LOW_SHARES:
        candidates = (*_SHARES, (0.0, _INF), _NO_BOUNDS)
    elif sense == "max" and words & _AT_MOST_ONE:
        candidates = ((-_INF, 1.0),)
    elif sense == "max" and (words & _HIGH_SHARES or not words & _HIGH):
        candidates = (*_SHARES, _NO_BOUNDS)
    return tuple(MetricScale(sense, *pair) for pair in candidates)


def scale_of(scales: Sequence[MetricScale], low: float, high: float) -> MetricScale:
    """The first scale that holds values from ``low`` to ``high``, else the last."""
    return next((scale for scale in scales if scale.holds(low, high)), scales[-1])


def check_bounds(bounds: Sequence[float | None]) -> Bounds:
    """Two numbers in order, ``None`` meaning none.

    Raises:
        ValueError: If they are not.
    """
    wrong = ValueError(
        "`bounds` must be the lowest and the highest value of the metric, such as (0, 1) or (0, None), but got "
        f"{bounds!r}."
    )
    if isinstance(bounds, str) or not isinstance(bounds, Sequence) or len(bounds) != 2:
        raise wrong
    if not all(b is None or (isinstance(b, int | float) and not isinstance(b, bool)) for b in bounds):
        raise wrong
    low = -_INF if bounds[0] is None else float(bounds[0])
    high = _INF if bounds[1] is None else float(bounds[1])
    if not low < high:
        raise wrong
    return low, high


def _words(name: str) -> set[str]:
    """The words of a metric's name in lower case, digits at their ends once kept and once left out."""
    parts = [part for part in re.split(r"[^A-Za-z0-9]+", name) if part]
    pieces = {part.lower() for part in parts} | {w.lower() for part in parts for w in _WORDS.findall(part)}
    return pieces | {piece.rstrip("0123456789") for piece in pieces}
