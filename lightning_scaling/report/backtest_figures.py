"""Figures of replays: one run with its forecasts, and the errors and coverage of the forecasts of many runs."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from lightning_scaling.report import style
from lightning_scaling.report.run_figures import forecast_figure
from lightning_scaling.runs.run import Run

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_Array = NDArray[np.float64]
_GRID = np.arange(0.05, 0.985, 0.01)
_STANDS = 0.05
_SETTLED = 0.2
_WIDTH, _HEIGHT = 8.6, 6.0
_INNER = "#9cc3f5"


class ReplayedRun(Protocol):
    """What is drawn of a replay (:class:`lightning_scaling.backtest.single_run.Replay`)."""

    @property
    def run(self) -> Run:
        """The run."""

    @property
    def forecast_log(self) -> Sequence[Mapping[str, Any]]:
        """The rows of its forecast log, with outcomes."""

    @property
    def outcome(self) -> float | None:
        """Final loss, ``None`` if the run did not reach the end of its plan."""

    @property
    def updates(self) -> Sequence[Any]:
        """The updates of its monitor."""

    @property
    def stop(self) -> Any:
        """The first update with the advice to stop."""


class ReplayedRuns(Protocol):
    """What is drawn of many replays (:class:`lightning_scaling.backtest.many_runs.ReplayCollection`)."""

    @property
    def replays(self) -> Sequence[ReplayedRun]:
        """The replays."""

    @property
    def history_source(self) -> str:
        """Which past runs the forecasts used."""

    def quality(self, fraction: float) -> Any:
        """Median error and coverage at a fraction of the runs."""


def replay_figure(replay: ReplayedRun) -> bytes:
    """A replayed run: its loss, at every step the end that was forecast there, and where it was advised to stop.

    Args:
        replay: The replay.

    Returns:
        A PNG file.

    Raises:
        ValueError: If the run has no finite loss.
    """
    stop = replay.stop
    return forecast_figure(replay.run, replay.forecast_log, stop=None if stop is None else stop.step)


@dataclass(frozen=True)
class CalibrationCurve:
    """Forecasts of many runs against their final losses, on a grid of fractions of the run, shape ``(runs, parts)``.

    Attributes:
        error: Relative errors; ``nan`` where there was no forecast.
        half: Half widths of the 50 % interval over the final loss.
        wide: Half widths of the 90 % interval over the final loss.
        level: Probability that the forecast gave to at most the final loss.
    """

    error: _Array
    half: _Array
    wide: _Array
    level: _Array

    @classmethod
    def of(cls, replays: Iterable[ReplayedRun]) -> CalibrationCurve:
        """The curve of some replays; runs that did not reach their end are left out."""
        rows = [row for replay in replays if (row := _row(replay)) is not None]
        table = np.array(rows).reshape(len(rows), 4, _GRID.size)
        return cls(*(table[:, column] for column in range(4)))

    def covered(self, inner: float) -> _Array:
        """Share of the outcomes within the central interval of that probability, shape ``(parts,)``."""
        known = np.isfinite(self.level)
        inside = known & (np.abs(self.level - 0.5) <= inner / 2)
        return np.where(known.any(0), inside.sum(0) / np.maximum(known.sum(0), 1), math.nan)


def _row(replay: ReplayedRun) -> _Array | None:
    outcome = replay.outcome
    if outcome is None or outcome == 0:
        return None
    at, rows = [], []
    for update in replay.updates:
        forecast = update.forecast
        if update.fraction is None or forecast.trust == "none" or not math.isfinite(forecast.final):
            continue
        lower, upper = forecast.interval(0.5)
        low, high = forecast.interval(0.9)
        at.append(update.fraction)
        rows.append(
            (
                (forecast.final - outcome) / outcome,
                (upper - lower) / 2 / abs(outcome),
                (high - low) / 2 / abs(outcome),
                forecast.final_distribution.below(outcome),
            )
        )
    if not at:
        return None
    # the forecast that stood at each part of the run, if it was not old
    latest = np.searchsorted(np.array(at), _GRID + 1e-9, side="right") - 1
    standing = (latest >= 0) & (_GRID - np.array(at)[np.maximum(latest, 0)] <= _STANDS)
    row = np.where(standing, np.array(rows).T[:, np.maximum(latest, 0)], math.nan)
    return row if np.isfinite(row[0]).any() else None


def replay_many_figure(made: ReplayedRuns) -> bytes:
    """How far the forecasts of all runs were off at every part of the run, and whether the intervals held.

    Above, every thin line is a run; the bands are as wide as the intervals were on the median. Below, the share of the
    runs whose end lay within the intervals given then, against what the intervals promise.

    Args:
        made: The replays.

    Returns:
        A PNG file.

    Raises:
        ValueError: If no run with a forecast reached its end.
    """
    found = CalibrationCurve.of(made.replays)
    if not len(found.error):
        raise ValueError("No run reached the end of its plan with a forecast made on the way, so nothing can be drawn.")
    with style.styled():
        figure = style.canvas(_WIDTH, _HEIGHT)
        axes, below = figure.subplots(2, 1, sharex=True, gridspec_kw={"height_ratios": [3, 1.5]})
        axes.set_xlim(_GRID[0], 1.0)
        _draw_errors(axes, found)
        _draw_coverage(below, found)
        style.title(
            axes, *_headline(made, found), lines=[("a run", style.MUTED), ("half of them lie between", style.INK)]
        )
        return style.png(figure)


def _enough(values: _Array) -> NDArray[np.bool_]:
    """Where at least a third of the runs have a value."""
    enough: NDArray[np.bool_] = np.isfinite(values).sum(0) >= max(len(values) / 3, 1)
    return enough


def _middle(values: _Array) -> _Array:
    """Medians over the runs, where there are enough of them."""
    enough = _enough(values)
    found = np.full(values.shape[1], math.nan)
    found[enough] = np.nanmedian(values[:, enough], axis=0)
    return found


def _draw_errors(axes: Axes, found: CalibrationCurve) -> None:
    from matplotlib.ticker import PercentFormatter

    wide, half = _middle(found.wide), _middle(found.half)
    axes.fill_between(_GRID, -wide, wide, color=style.BAND, linewidth=0)
    axes.fill_between(_GRID, -half, half, color=_INNER, linewidth=0)
    many = len(found.error)
    for error in found.error:
        axes.plot(_GRID, error, color=style.MUTED, linewidth=0.9, alpha=min(max(8 / many, 0.15), 0.8))
    if many >= 8:
        enough = _enough(found.error)
        for share in (0.25, 0.75):
            edge = np.full(_GRID.size, math.nan)
            edge[enough] = np.nanquantile(found.error[:, enough], share, axis=0)
            axes.plot(_GRID, edge, color=style.INK, linewidth=1.8)
    axes.axhline(0, color=style.INK, linewidth=0.8)
    settled = _GRID >= _SETTLED
    if not np.isfinite(found.error[:, settled]).any():
        settled = np.ones(_GRID.size, dtype=bool)
    spread = np.abs(found.error[:, settled])
    # clip at the 98th percentile, so that diverged runs do not dominate the axis
    promised = float(np.nanmax(wide[settled], initial=0.0)) or math.inf
    reach = 1.15 * min(max(float(np.nanquantile(spread, 0.98)), promised), 2 * promised)
    axes.set_ylim(-reach, reach)
    beyond = int((np.nanmax(spread, axis=1, initial=0.0) > reach).sum())
    if beyond:
        axes.annotate(
            f"{beyond:,} {'run goes' if beyond == 1 else 'runs go'} beyond the edge",
            (1.0, 1.0),
            (-2, -4),
            xycoords="axes fraction",
            textcoords="offset points",
            color=style.MUTED,
            fontsize=10,
            ha="right",
            va="top",
            path_effects=style.halo(),
        )
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, symbol="%"))
    axes.set_ylabel("error of the forecast")
    style.bare(axes)
    for band, text in ((wide, "90% promised"), (half, "50% promised")):
        shown = np.flatnonzero(np.isfinite(band) & (_GRID >= _SETTLED) & (band < 0.9 * reach))
        if shown.size:
            place = (_GRID[shown[0]], band[shown[0]])
            axes.annotate(
                text,
                place,
                (0, 4),
                textcoords="offset points",
                color=style.FORECAST,
                va="bottom",
                fontsize=10,
                path_effects=style.halo(),
            )


def _draw_coverage(axes: Axes, found: CalibrationCurve) -> None:
    from matplotlib.ticker import PercentFormatter

    for inner, width in ((0.9, 2.2), (0.5, 1.6)):
        axes.axhline(inner, color=style.FORECAST, linewidth=1.0, linestyle=(0, (3, 3)))
        shown = np.where(_enough(found.level), found.covered(inner), math.nan)
        axes.plot(_GRID, shown, color=style.INK, linewidth=width)
    axes.annotate(
        "promised",
        (_GRID[0], 0.5),
        (3, 1),
        textcoords="offset points",
        color=style.FORECAST,
        fontsize=10,
        va="bottom",
        path_effects=style.halo(),
    )
    axes.set_ylim(0, 1.05)
    axes.set_yticks([0, 0.5, 0.9])
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes.set_ylabel("ends within\nthe interval")
    axes.set_xlabel("part of the run seen when the forecast was made")
    style.bare(axes)


def _headline(made: ReplayedRuns, found: CalibrationCurve) -> tuple[str, str]:
    runs = len(found.error)
    count = f"{runs:,} {'run' if runs == 1 else 'runs'}"
    others = str(made.history_source).replace("_", " ")
    history = "without past runs" if others == "none" else f"each with {others}"
    quality = next((q for q in map(made.quality, (0.25, 0.5, 0.75)) if q.count), None)
    if quality is None:
        return f"Forecasts of {count}", history
    return (
        f"At {quality.fraction:.0%} of the run, the forecast of the end was off by {quality.median_error:.2%}",
        f"median of {count}, {history}; {quality.covered:.0%} of the ends inside the 90% interval",
    )
