"""The look that the figures share."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK = "#24292f"
MUTED = "#6e7781"
FAINT = "#c9d1d9"
GRID = "#eef1f4"
FORECAST = "#1f6feb"
BAND = "#cfe1fb"
ALARM = "#c2410c"
BACKGROUND = "#ffffff"

_LEGEND_HEIGHT = 20

_RC: dict[str, Any] = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 11.5,
    "text.color": INK,
    "axes.edgecolor": FAINT,
    "axes.labelcolor": MUTED,
    "axes.titlecolor": INK,
    "axes.linewidth": 1.0,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 1.0,
    "figure.facecolor": BACKGROUND,
    "axes.facecolor": BACKGROUND,
}


def canvas(width: float, height: float) -> Figure:
    """An empty figure of so many inches in the house style, tied to no window system and no global state."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    layout = ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.12, hspace=0.0)
    figure = Figure(figsize=(width, height), dpi=160, layout=layout)
    FigureCanvasAgg(figure)
    return figure


def styled() -> Any:
    """The context in which everything of a figure must be made and saved."""
    import matplotlib

    return matplotlib.rc_context(_RC)


def bare(axes: Axes) -> None:
    """Take away the frame that says nothing: no top, no right side, no tick marks, a quiet grid."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(which="both", length=0)
    axes.grid(visible=True, which="major")


def title(axes: Axes, headline: str, below: str, *, lines: Sequence[tuple[str, str]] = ()) -> None:
    """A headline, a quieter line under it and the names of the lines as ``(text, colour)``, all flush with the axes."""
    raised = _LEGEND_HEIGHT if lines else 0
    place: dict[str, Any] = {"xycoords": "axes fraction", "textcoords": "offset points", "va": "bottom"}
    axes.annotate(headline, (0, 1), (0, 24 + raised), fontsize=13.5, fontweight="bold", **place)
    axes.annotate(below, (0, 1), (0, 8 + raised), color=MUTED, **place)
    along = 0.0
    for text, colour in lines:
        axes.annotate(f"\u2501 {text}", (0, 1), (along, 8), color=colour, fontweight="bold", **place)
        along += 24 + 7.2 * len(text)


def halo() -> list[Any]:
    """A white edge around text, so that it can be read where it crosses a line."""
    from matplotlib.patheffects import withStroke

    return [withStroke(linewidth=3.5, foreground=BACKGROUND)]


def png(figure: Figure) -> bytes:
    """The figure as the bytes of a PNG file that are the same for the same figure."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def si(value: float) -> str:
    """A count for people: ``840448`` becomes ``840k``; beyond a trillion, where names fail, a power of ten."""
    for limit, unit in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if limit <= value < 1e12:
            return f"{value / limit:.3g}{unit}"
    if value < 1e12:
        return f"{value:.3g}"
    power = int(np.floor(np.log10(value)))
    return rf"{value / 10.0**power:.1f}$\times10^{{{power}}}$"


def smooth(
    x: NDArray[np.float64], y: NDArray[np.float64], bins: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Means of ``y`` over at most ``bins`` equal stretches of ``x``; the last point is kept at the last ``x``."""
    if x.size <= bins:
        return x, y
    edges = np.linspace(x[0], x[-1], bins + 1)
    place = np.clip(np.searchsorted(edges, x, side="right") - 1, 0, bins - 1)
    count = np.bincount(place, minlength=bins)
    filled = count > 0
    centre = np.bincount(place, weights=x, minlength=bins)[filled] / count[filled]
    mean = np.bincount(place, weights=y, minlength=bins)[filled] / count[filled]
    return centre, mean
