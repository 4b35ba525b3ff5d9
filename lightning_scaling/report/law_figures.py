"""The figure of a fitted law: the points, the law, how sure it is beyond them, and what it leaves over.

What is drawn depends on the law's inputs. One input: the law with a band. A size and tokens (or FLOPs, or one other
input): loss against training compute with a curve per size and the compute-optimal frontier. Anything else: observed
against the law. The residuals stand below.
"""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lightning_scaling.report import style
from lightning_scaling.report.fit_chart import EXTRAPOLATED, EXTRAPOLATED_BAND, Axis, Picture, picture, shade
from lightning_scaling.report.fit_size_curves import Curve
from lightning_scaling.report.numbers import count

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from lightning_scaling.laws.results import Fit

ENDINGS = (".png", ".svg", ".pdf", ".html")
"""What :func:`write_figure` can write."""

_WIDTH, _HEIGHT = 9.0, 6.4
_LINE_HEIGHT = 17
_NOTE = 112


def fit_figure(fit: Fit, level: float = 0.95) -> Figure:
    """Draw a fit.

    Args:
        fit: A fit to points.
        level: Probability of the bands and of the intervals in the heading.

    Returns:
        A matplotlib figure, tied to no window system; :func:`write_figure` saves one in the style it was drawn in.

    Raises:
        ValueError: The fit has no points (published constants), or `level` is not between 0 and 1.
    """
    shown = picture(fit, level)
    with style.styled():
        figure = style.canvas(_WIDTH, _HEIGHT)
        above, below = figure.subplots(
            2, 1, sharex=shown.kind != "observed", gridspec_kw={"height_ratios": [3.8, 1]}, squeeze=True
        )
        _scale(above, shown.x, shown.y)
        _draw_law(above, shown)
        _draw_points(above, shown)
        _scale(below, shown.x, shown.off)
        _draw_residuals(below, shown)
        below.set_xlabel(shown.x.label)
        above.tick_params(labelbottom=False)
        if shown.kind == "sizes":
            _name_sizes(above, shown)
        _heading(above, shown)
        figure.align_ylabels([above, below])
    return figure


def fit_page(fit: Fit, level: float = 0.95) -> str:
    """A fit as a web page with an interactive figure and the table of :meth:`Fit.summary`.

    The page holds all it needs, so it works without a network.

    Args:
        fit: A fit to points.
        level: Probability of the bands and of the intervals in the heading.

    Returns:
        A whole HTML document.

    Raises:
        ValueError: The fit has no points (published constants), or `level` is not between 0 and 1.
        ImportError: plotly, the extra `plots`, is not installed.
    """
    from lightning_scaling.report.fit_html import page

    return page(picture(fit, level), fit.summary(level))


def write_figure(fit: Fit, path: str | Path, level: float = 0.95) -> Path:
    """Draw a fit into a file; the same fit gives the same file.

    Args:
        fit: A fit to points.
        path: File ending in ``.png``, ``.svg`` or ``.pdf`` (a picture) or ``.html`` (a page).
        level: Probability of the bands and of the intervals in the heading.

    Returns:
        The path.

    Raises:
        ValueError: The ending is another one, the fit has no points, or `level` is not between 0 and 1.
        OSError: The file cannot be written.
    """
    path = Path(path)
    ending = path.suffix.lower()
    if ending not in ENDINGS:
        raise ValueError(f"A figure can be written to {', '.join(ENDINGS)}, but got {path.name!r}.")
    if ending == ".html":
        path.write_text(fit_page(fit, level), encoding="utf-8")
        return path
    undated: dict[str, dict[str, Any]] = {
        ".png": {"Software": None},
        ".svg": {"Date": None, "Creator": None},
        ".pdf": {"CreationDate": None, "Creator": None, "Producer": None},
    }
    import matplotlib

    figure = fit_figure(fit, level)
    with style.styled(), matplotlib.rc_context({"svg.hashsalt": "fit"}):
        figure.savefig(path, format=ending[1:], metadata=undated[ending])
    return path


def _scale(axes: Axes, x: Axis, y: Axis) -> None:
    for axis, which in ((x, "x"), (y, "y")):
        getattr(axes, f"set_{which}scale")("log" if axis.log else "linear")
        getattr(axes, f"set_{which}lim")(axis.low, axis.high)
        ticks = axis.ticks()
        getattr(axes, f"set_{which}ticks")(ticks, [_tick(value) for value in ticks])
        getattr(axes, f"set_{which}ticks")([], minor=True)
    axes.set_ylabel(y.label)
    style.bare(axes)


def _tick(value: float) -> str:
    text = count(value, r"$\times10^{{{}}}$")
    return text.replace(r"1$\times10", r"$10", 1) if text.startswith("1$") else text


def _draw_law(axes: Axes, shown: Picture) -> None:
    for curve in shown.curves:
        colour = style.FORECAST if curve.size is None else _colour(shown, curve.size)
        _draw_curve(axes, curve, colour, 2.2 if curve.size is None else 1.5 if len(shown.curves) < 9 else 1.0)
    if shown.frontier is not None:
        _draw_curve(axes, shown.frontier, style.INK, 2.2)
        axes.annotate(
            "compute-optimal",
            shown.frontier.middle,
            (-4, -6),
            textcoords="offset points",
            fontweight="bold",
            ha="right",
            va="top",
            path_effects=style.halo(),
            zorder=6,
        )
    if shown.kind == "observed":
        ends = [min(shown.x.low, shown.y.low), max(shown.x.high, shown.y.high)]
        axes.plot(ends, ends, color=style.FORECAST, linewidth=1.8, zorder=2)
    if any(not curve.inside.all() for curve in shown.curves):
        edge = max(float(curve.x[curve.inside].max()) for curve in shown.curves)
        axes.axvline(edge, color=EXTRAPOLATED, linewidth=1.0, linestyle=(0, (2, 3)), zorder=1)
        axes.annotate(
            "beyond the points",
            (edge, shown.y.high),
            (6, -4),
            textcoords="offset points",
            color=EXTRAPOLATED,
            fontsize=10,
            va="top",
        )


def _draw_curve(axes: Axes, curve: Curve, colour: str, width: float) -> None:
    beyond = ~curve.inside
    beyond[:-1] |= beyond[1:] & curve.inside[:-1]
    for part, band, dashes, bare in (
        (curve.inside, style.BAND, "solid", curve.size is None and bool(curve.hover)),
        (beyond, EXTRAPOLATED_BAND, (0, (4, 2)), False),
    ):
        if not part.any():
            continue
        if curve.lower is not None and curve.upper is not None and not bare:
            axes.fill_between(
                curve.x[part], curve.lower[part], curve.upper[part], color=band, linewidth=0, alpha=0.75, zorder=1
            )
        axes.plot(curve.x[part], curve.y[part], color=colour, linewidth=width, linestyle=dashes, zorder=4)


def _draw_points(axes: Axes, shown: Picture) -> None:
    axes.scatter(shown.at, shown.seen, s=_area(shown), c=_colours(shown), alpha=0.85, linewidths=0, zorder=3)


def _draw_residuals(axes: Axes, shown: Picture) -> None:
    axes.axhline(0.0, color=style.FORECAST if shown.size is None else style.INK, linewidth=1.2, zorder=2)
    colours = _colours(shown)
    far = np.abs(shown.residual) > 0.95 * shown.off.high
    near = ~far
    axes.scatter(
        shown.at[near], shown.residual[near], s=0.7 * _area(shown), c=colours[near], alpha=0.85, linewidths=0, zorder=3
    )
    for sign, marker in ((1, "^"), (-1, "v")):
        rows = far & (np.sign(shown.residual) == sign)
        if rows.any():
            edge = np.full(int(rows.sum()), sign * 0.9 * shown.off.high)
            axes.scatter(shown.at[rows], edge, s=30, c=colours[rows], marker=marker, linewidths=0, zorder=3)
    if far.any():
        axes.annotate(
            f"{int(far.sum())} beyond the edge",
            (1.0, 1.0),
            (-2, 2),
            xycoords="axes fraction",
            textcoords="offset points",
            ha="right",
            va="bottom",
            fontsize=9.5,
            color=style.MUTED,
        )


def _area(shown: Picture) -> float:
    return float(np.clip(2400.0 / max(len(shown.seen), 1), 7.0, 34.0))


def _colours(shown: Picture) -> NDArray[np.str_]:
    if shown.size is None:
        return np.full(len(shown.seen), style.INK)
    return np.array([_colour(shown, size) for size in shown.size])


def _colour(shown: Picture, size: float) -> str:
    return shade(size, *shown.sizes)


def _name_sizes(axes: Axes, shown: Picture) -> None:
    for size in sorted({curve.size for curve in shown.curves if curve.size is not None}, reverse=True):
        axes.plot([], [], color=_colour(shown, size), linewidth=2.4, label=count(float(f"{size:.3g}")))
    axes.legend(
        title=shown.size_label,
        loc="upper left",
        bbox_to_anchor=(1.015, 1.0),
        frameon=False,
        handlelength=1.2,
        borderaxespad=0.0,
        labelcolor=style.MUTED,
        fontsize=10.5,
        alignment="left",
    )


def _heading(axes: Axes, shown: Picture) -> None:
    place: dict[str, Any] = {"xycoords": "axes fraction", "textcoords": "offset points", "va": "bottom"}
    quiet: dict[str, Any] = {"color": style.MUTED, "fontsize": 10}
    lines = [(line, quiet) for line in textwrap.wrap(shown.note, _NOTE)[::-1]]
    if shown.warning:
        lines.append((shown.warning, {"color": style.ALARM, "fontweight": "bold"}))
    lines.append((shown.lines[-1], {}))
    lines += [
        (line, {"color": style.MUTED, "family": "DejaVu Sans Mono", "fontsize": 9.5}) for line in shown.lines[-2::-1]
    ]
    lines.append((shown.headline, {"fontsize": 13.5 if len(shown.headline) < 66 else 11.5, "fontweight": "bold"}))
    for i, (text, look) in enumerate(lines):
        axes.annotate(text, (0, 1), (0, 8 + _LINE_HEIGHT * i + (3 if i == len(lines) - 1 else 0)), **place, **look)
