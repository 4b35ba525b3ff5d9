"""A fit as a web page. The only place that imports plotly."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np

from lightning_scaling.report import style
from lightning_scaling.report.fit_chart import EXTRAPOLATED, EXTRAPOLATED_BAND, Axis, Picture, shade
from lightning_scaling.report.fit_size_curves import Curve
from lightning_scaling.report.numbers import count

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

_FONT = "system-ui, 'Segoe UI', 'DejaVu Sans', sans-serif"
_MONO = "ui-monospace, 'DejaVu Sans Mono', monospace"
_BUTTONS = [["toImage", "zoom2d", "pan2d", "zoomIn2d", "zoomOut2d", "resetScale2d"]]
_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>{title}</title>
<style>
body {{ max-width: 1080px; margin: 2em auto; padding: 0 1em; font-family: {font}; color: {ink}; }}
h1 {{ font-size: 1.35em; margin: 0 0 .5em; }}
p {{ margin: .3em 0; }}
code, pre {{ font-family: {mono}; font-size: .85em; color: {muted}; }}
code {{ white-space: pre-wrap; }}
pre {{ overflow-x: auto; }}
.warning {{ color: {alarm}; font-weight: bold; }}
.note {{ color: {muted}; font-size: .9em; }}
</style>
</head>
<body>
<h1>{title}</h1>
<p><code>{formula}</code></p>
<p>{estimates}</p>
{warning}<p class="note">{note}. Point at a mark to read it; drag to zoom, double-click to return.</p>
{figure}
<pre>{summary}</pre>
</body>
</html>
"""


def page(shown: Picture, summary: str) -> str:
    """The picture as a whole HTML document that needs no network, with the fit's table below it.

    Args:
        shown: What to draw.
        summary: The table.
    """
    figure = _figure(shown).to_html(
        full_html=False,
        include_plotlyjs=True,
        div_id="fit",
        default_height="640px",
        config={"displaylogo": False, "responsive": True, "modeBarButtons": _BUTTONS},
    )
    return _PAGE.format(
        title=escape(shown.headline),
        formula=escape("\n".join(shown.lines[:-1])),
        estimates=escape(shown.lines[-1]),
        warning=f'<p class="warning">{escape(shown.warning)}</p>\n' if shown.warning else "",
        note=escape(shown.note),
        figure=figure,
        summary=escape(summary),
        font=_FONT,
        mono=_MONO,
        ink=style.INK,
        muted=style.MUTED,
        alarm=style.ALARM,
    )


def _figure(shown: Picture) -> Figure:
    try:
        from plotly import graph_objects as go
        from plotly.subplots import make_subplots
    except ImportError as error:
        raise ImportError(
            f"A fit as a web page needs plotly ({error}); install it with `pip install 'lightning-scaling[plots]'`, or "
            "draw the fit as .png, .svg or .pdf."
        ) from error

    figure = make_subplots(rows=2, cols=1, shared_xaxes=True, row_heights=[0.79, 0.21], vertical_spacing=0.04)
    for curve in shown.curves:
        _add_curve(figure, go, shown, curve)
    if shown.kind == "observed":
        ends = [min(shown.x.low, shown.y.low), max(shown.x.high, shown.y.high)]
        line = {"color": style.FORECAST, "width": 2}
        figure.add_scatter(x=ends, y=ends, mode="lines", line=line, hoverinfo="skip", showlegend=False, row=1, col=1)
    if shown.frontier is not None:
        _add_curve(figure, go, shown, shown.frontier)
    _add_points(figure, shown, shown.seen, row=1)
    _add_points(figure, shown, shown.residual, row=2)
    figure.add_hline(y=0, line={"color": style.INK, "width": 1}, row=2, col=1)
    if any(not curve.inside.all() for curve in shown.curves):
        edge = max(float(curve.x[curve.inside].max()) for curve in shown.curves)
        figure.add_vline(x=edge, line={"color": EXTRAPOLATED, "width": 1, "dash": "dot"}, row=1, col=1)
        figure.add_annotation(
            text="beyond the points",
            x=float(np.log10(edge)) if shown.x.log else edge,
            y=1,
            xref="x",
            yref="y domain",
            xanchor="left",
            yanchor="top",
            xshift=5,
            showarrow=False,
            font={"color": EXTRAPOLATED, "size": 13},
        )
    _lay_out(figure, shown)
    return figure


def _add_curve(figure: Figure, go: Any, shown: Picture, curve: Curve) -> None:
    name, colour = "law", style.FORECAST
    if curve.size is not None:
        name, colour = count(float(f"{curve.size:.3g}")), shade(curve.size, *shown.sizes)
    elif curve.hover:
        name, colour = "compute-optimal", style.INK
    named = any(trace.name == name for trace in figure.data)
    beyond = ~curve.inside
    beyond[:-1] |= beyond[1:] & curve.inside[:-1]
    for part, band, dash in ((curve.inside, style.BAND, "solid"), (beyond, EXTRAPOLATED_BAND, "dash")):
        if not part.any():
            continue
        if curve.lower is not None and curve.upper is not None and not (curve.hover and dash == "solid"):
            x = np.concatenate([curve.x[part], curve.x[part][::-1]])
            y = np.concatenate([curve.lower[part], curve.upper[part][::-1]])
            figure.add_trace(
                go.Scatter(
                    x=x,
                    y=y,
                    mode="lines",
                    fill="toself",
                    fillcolor=band,
                    line={"width": 0},
                    hoverinfo="skip",
                    showlegend=False,
                ),
                row=1,
                col=1,
            )
        figure.add_trace(
            go.Scatter(
                x=curve.x[part],
                y=curve.y[part],
                mode="lines",
                name=name,
                legendgroup=name,
                showlegend=not named and bool(curve.size is not None or curve.hover),
                line={"color": colour, "width": 2.6 if curve.size is None else 1.8, "dash": dash},
                text=np.array(_said(shown, curve, name))[part],
                hovertemplate="%{text}<extra></extra>",
            ),
            row=1,
            col=1,
        )
        named = True


def _said(shown: Picture, curve: Curve, name: str) -> list[str]:
    """What a pointer reads along a curve."""
    rows = []
    for i in range(len(curve.x)):
        lines = [f"{shown.size_label} {name}" if curve.size is not None else f"<b>{name}</b>"]
        lines.append(f"{shown.across} {count(float(f'{curve.x[i]:.4g}'))}")
        if curve.hover:
            lines.append(curve.hover[i])
        lines.append(f"{shown.y.label} {curve.y[i]:.5g}")
        if curve.lower is not None and curve.upper is not None and np.isfinite(curve.lower[i]):
            lines.append(f"{shown.level:.0%}: {curve.lower[i]:.5g} to {curve.upper[i]:.5g}")
        rows.append("<br>".join(lines))
    return rows


def _add_points(figure: Figure, shown: Picture, y: Any, row: int) -> None:
    colour: Any = style.INK if shown.size is None else [shade(float(size), *shown.sizes) for size in shown.size]
    figure.add_scatter(
        x=shown.at,
        y=y,
        mode="markers",
        name="points",
        legendgroup="points",
        showlegend=False,
        marker={"color": colour, "size": 7 if len(y) < 300 else 4, "opacity": 0.85},
        text=list(shown.hover),
        hovertemplate="%{text}<extra></extra>",
        row=row,
        col=1,
    )


def _lay_out(figure: Figure, shown: Picture) -> None:
    common = {"gridcolor": style.GRID, "linecolor": style.FAINT, "zeroline": False, "showline": True}
    figure.update_xaxes(**common, **_scale(shown.x))
    figure.update_xaxes(title_text=shown.x.label, row=2, col=1)
    figure.update_yaxes(**common, **_scale(shown.y), title_text=shown.y.label, row=1, col=1)
    figure.update_yaxes(**common, **_scale(shown.off), title_text=shown.off.label, row=2, col=1)
    figure.update_layout(
        template="none",
        font={"family": _FONT, "size": 14, "color": style.MUTED},
        margin={"l": 70, "r": 20, "t": 20, "b": 60},
        hoverlabel={"bgcolor": style.BACKGROUND, "font": {"color": style.INK}, "align": "left"},
        legend={"title": {"text": shown.size_label}, "traceorder": "reversed"},
    )


def _scale(axis: Axis) -> dict[str, Any]:
    ticks = axis.ticks()
    ends = [float(np.log10(end)) for end in (axis.low, axis.high)] if axis.log else [axis.low, axis.high]
    names = [count(value, "×10<sup>{}</sup>").replace("1×10", "10", 1) for value in ticks]
    return {"type": "log" if axis.log else "linear", "range": ends, "tickvals": ticks, "ticktext": names}
