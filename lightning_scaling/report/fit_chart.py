"""Content of the figure of a fit, as numbers and words, shared by the picture and the page."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lightning_scaling.laws.data import Points
from lightning_scaling.laws.results import Fit
from lightning_scaling.laws.summary import estimates
from lightning_scaling.report.fit_size_curves import Curve, draw_sizes, size_name, spent
from lightning_scaling.report.numbers import count, round_values

Array = NDArray[np.float64]

EXTRAPOLATED = "#b7791f"
EXTRAPOLATED_BAND = "#fae3bd"
MOST_POINTS = 5000
_SHADES = ((233, 160, 59), (217, 89, 76), (162, 59, 114), (91, 58, 142), (30, 42, 110))
_GRID = 240
_LINE = 96
_KEY = 3


@dataclass(frozen=True)
class Axis:
    """One axis.

    Attributes:
        label: What it counts, with its unit.
        log: Whether it is logarithmic.
        low: Least value shown.
        high: Greatest value shown.
        most: How many values to name along it at most.
    """

    label: str
    log: bool
    low: float
    high: float
    most: int = 8

    def ticks(self) -> list[float]:
        """Round values along it."""
        return round_values(self.low, self.high, log=self.log, most=self.most)


@dataclass(frozen=True)
class Picture:
    """Everything in the figure of a fit.

    Attributes:
        kind: ``"curve"`` (one input), ``"sizes"`` (a curve per size) or ``"observed"`` (observed against the law).
        headline: Title of the law.
        lines: The formula, and the exponents with their intervals.
        warning: What speaks against the fit, or nothing.
        note: How to read it.
        level: Probability of the bands.
        x: Horizontal axis.
        y: Vertical axis.
        off: Vertical axis of the residuals.
        across: The horizontal axis in a word.
        at: Place of each point on the horizontal axis, shape ``(n,)``.
        seen: What was observed there.
        residual: How far that is from the law, in the unit of `off`.
        size: Size of the model at each point, or None.
        size_label: What that counts.
        hover: What to say of each point.
        curves: The law: one curve, or one for each of some sizes.
        frontier: The best use of each budget by the law, where it can say.
    """

    kind: str
    headline: str
    lines: tuple[str, ...]
    warning: str
    note: str
    level: float
    x: Axis
    y: Axis
    off: Axis
    across: str
    at: Array
    seen: Array
    residual: Array
    size: Array | None
    size_label: str
    hover: tuple[str, ...]
    curves: tuple[Curve, ...]
    frontier: Curve | None

    @property
    def sizes(self) -> tuple[float, float]:
        """Least and greatest size, for colours."""
        return (0.0, 0.0) if self.size is None else (float(self.size.min()), float(self.size.max()))


def picture(fit: Fit, level: float = 0.95) -> Picture:
    """Choose and compute what the figure of a fit shows.

    Args:
        fit: A fit to points.
        level: Probability of the bands and intervals.

    Raises:
        ValueError: The fit has no points.
    """
    points = fit.points
    if points is None:
        raise ValueError(
            f"The constants of {fit.law.name} were published, not fitted here: there are no points to draw."
        )
    thin = _thinned(points)
    said = fit.predict(**thin.inputs)
    residual, off_label = _residuals(fit, thin.y, said)
    single = len(fit.law.inputs) == 1
    name = None if single else size_name(fit.law)
    where = None if name is None else spent(fit.law, thin.inputs)
    frontier: Curve | None = None
    curves: tuple[Curve, ...] = ()
    note = f"{len(thin.y):,} of {len(points.y):,} points drawn; " if len(thin.y) < len(points.y) else ""
    if single:
        kind, at = "curve", thin.inputs[fit.law.inputs[0]]
        x_label, across = fit.law.unit(fit.law.inputs[0]), _words(fit.law.inputs[0])
        curves = (_line(fit, level),)
        note += f"band: {level:.0%} range of a new observation"
    elif where is not None and name is not None:
        kind, at, x_label = "sizes", where.at, where.label
        across = "FLOPs" if where.compute else _words(where.along)
        curves, frontier, told = draw_sizes(fit, thin.inputs, where, name, level)
        note += told
    else:
        kind, at, across = "observed", said, "law"
        x_label = f"{_words(fit.law.output)} by the law"
        note += "the closer to the line, the better"
    log_y = fit.settings.space == "log"
    return Picture(
        kind=kind,
        headline=fit.law.title,
        lines=(*_wrapped(fit.law.formula), _key_estimates(fit, level)),
        warning="" if fit.ok else f"status: {fit.status}",
        note=note,
        level=level,
        x=_horizontal(x_label, at, curves, frontier, same=thin.y if kind == "observed" else None, log_y=log_y),
        y=_vertical(_words(fit.law.output), thin.y, said, curves, frontier, log=log_y),
        off=_off(off_label, residual),
        across=across,
        at=at,
        seen=thin.y,
        residual=residual,
        size=None if kind != "sizes" or name is None else thin.inputs[name],
        size_label="" if name is None else _words(name),
        hover=tuple(_hover(fit, thin, said, residual)),
        curves=curves,
        frontier=frontier,
    )


def _thinned(points: Points) -> Points:
    if len(points) <= MOST_POINTS:
        return points
    first = next(iter(points.inputs.values()))
    order = np.argsort(first, kind="stable")
    keep = np.sort(order[np.linspace(0, len(order) - 1, MOST_POINTS).astype(np.intp)])
    inputs = {name: values[keep] for name, values in points.inputs.items()}
    return Points(inputs, points.y[keep], points.weights[keep])


def _residuals(fit: Fit, seen: Array, said: Array) -> tuple[Array, str]:
    if fit.settings.space == "log":
        return 100.0 * (seen / said - 1.0), "off the law (%)"
    return seen - said, "observed - law"


def _line(fit: Fit, level: float) -> Curve:
    """The law of one input, over what was seen and up to a decade beyond."""
    name = fit.law.inputs[0]
    low, high = fit.ranges[name]
    if low > 0 and high / low >= 3:
        beyond = _reach(fit, name, high, high * float(np.clip(high / low, 3.0, 10.0)))
        x = np.geomspace(low / 1.05, beyond, _GRID)
    else:
        x = np.linspace(low, _reach(fit, name, high, high + 0.5 * (high - low or abs(high) or 1.0)), _GRID)
    x = np.unique(np.concatenate([x, [low, high]]))
    there: dict[str, Any] = {name: x}
    lower, upper = fit.interval(level, **there)
    return Curve(x, fit.predict(**there), (x >= low / 1.06) & (x <= high), lower=lower, upper=upper)


def _reach(fit: Fit, name: str, high: float, wished: float) -> float:
    """The greatest value up to `wished` that the law can be asked for; one with a schedule ends where that ends."""
    low, end = high, wished
    for _ in range(40):
        try:
            fit.predict(**{name: np.array([end])})
        except ValueError:
            wished = end
        else:
            low = end
        if low == wished:
            break
        end = 0.5 * (low + wished)
    return low


def _horizontal(
    label: str, at: Array, curves: Sequence[Curve], frontier: Curve | None, *, same: Array | None, log_y: bool
) -> Axis:
    places = [
        at,
        *(c.x for c in curves),
        *([] if frontier is None else [frontier.x]),
        *([] if same is None else [same]),
    ]
    every = np.concatenate(places)
    every = _drawable(every, log=same is not None and log_y)
    low, high = float(every.min()), float(every.max())
    log = log_y if same is not None else low > 0 and high / low >= 3
    return Axis(label, log, *_padded(low, high, log=log, share=0.02), most=8 if high < 1e15 else 6)


def _vertical(
    label: str, seen: Array, said: Array, curves: Sequence[Curve], frontier: Curve | None, *, log: bool
) -> Axis:
    """Room for all points, and for bands as far as they leave the points visible."""
    core = _drawable(np.concatenate([seen, said, *(c.y for c in _all(curves, frontier))]), log=log)
    low, high = float(core.min()), float(core.max())
    ends = [end for c in _all(curves, frontier) for end in (c.lower, c.upper) if end is not None]
    banded = _drawable(np.concatenate(ends), log=log) if ends else np.empty(0)
    if banded.size:
        scale = np.log if log else (lambda value: value)
        back = math.exp if log else float
        span = float(scale(high) - scale(low)) or 0.1
        low = max(min(low, float(banded.min())), back(float(scale(low)) - 0.35 * span))
        high = min(max(high, float(banded.max())), back(float(scale(high)) + 0.35 * span))
    return Axis(label, log, *_padded(low, high, log=log, share=0.04))


def _drawable(values: Array, *, log: bool) -> Array:
    good = np.isfinite(values)
    return values[good & (values > 0)] if log else values[good]


def _all(curves: Sequence[Curve], frontier: Curve | None) -> list[Curve]:
    return [*curves, *([] if frontier is None else [frontier])]


def _off(label: str, residual: Array) -> Axis:
    """Room for nearly all residuals; a few far ones are drawn at the edge instead of hiding the rest."""
    size = np.abs(residual[np.isfinite(residual)])
    most = float(size.max()) if size.size else 0.0
    usual = float(np.quantile(size, 0.9)) if size.size else 0.0
    edge = 1.15 * (most if most <= 4 * usual or usual == 0 else 2.5 * usual)
    return Axis(label, False, -(edge or 1.0), edge or 1.0, most=5)


def _padded(low: float, high: float, *, log: bool, share: float) -> tuple[float, float]:
    if log:
        room = (high / low) ** share if high > low else 1.1
        return low / room, high * room
    room = share * (high - low) if high > low else 0.1 * abs(high) or 1.0
    return low - room, high + room


def _key_estimates(fit: Fit, level: float) -> str:
    """The exponents with their intervals; where a law has none, what it is not linear in."""
    rows = estimates(fit, level)
    told = [row for row in rows if any(word in row["meaning"] for word in ("exponent", "slope"))]
    told = told or [row for row in rows if row["name"] not in fit.law.linear] or rows
    parts = []
    for row in told[:_KEY]:
        if row["given"]:
            ends = " (given)"
        elif math.isnan(row["lower"]) or math.isnan(row["upper"]):
            ends = ""
        else:
            ends = f" ({row['lower']:#.3g} to {row['upper']:#.3g})"
        parts.append(f"{row['name']} {row['value']:#.3g}{ends}")
    shown = f" [{level:.0%}]" if any("to" in part for part in parts) else ""
    return ", ".join(parts) + shown


def _hover(fit: Fit, points: Points, said: Array, residual: Array) -> list[str]:
    unit = " %" if fit.settings.space == "log" else ""
    output = _words(fit.law.output)
    rows = []
    for i in range(len(points.y)):
        lines = [f"{name} {count(float(values[i]))}" for name, values in points.inputs.items()]
        lines += [f"{output} {points.y[i]:.5g}", f"law {said[i]:.5g}", f"off by {residual[i]:+.3g}{unit}"]
        rows.append("<br>".join(lines))
    return rows


def _wrapped(formula: str) -> list[str]:
    return textwrap.wrap(formula, _LINE, subsequent_indent="    ", break_long_words=False)[:3]


def _words(name: str) -> str:
    return name.replace("_", " ")


def shade(size: float, least: float, greatest: float) -> str:
    """Colour of a size: from light and warm (small) to dark and cold (large), by its logarithm."""
    span = math.log(greatest / least) if greatest > least else 1.0
    place = min(max(math.log(size / least) / span, 0.0), 1.0) * (len(_SHADES) - 1)
    first = min(int(place), len(_SHADES) - 2)
    mixed = (a + (b - a) * (place - first) for a, b in zip(_SHADES[first], _SHADES[first + 1], strict=True))
    return "#" + "".join(f"{round(part):02x}" for part in mixed)
