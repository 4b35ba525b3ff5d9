"""The two figures of a run: where it was expected to land, and its loss against compute."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lightning_scaling.forecast.metric_scale import scales_for
from lightning_scaling.report import style
from lightning_scaling.report.forecast_table import checkpoints, forecasts, known, notable, percent, trouble_of
from lightning_scaling.runs.run import Run

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_Array = NDArray[np.float64]
_WIDTH, _HEIGHT = 8.6, 5.2
_BINS = 80
_EARLY = 0.05


def forecast_figure(run: Run, ledger: Sequence[Mapping[str, Any]], *, stop: int | None = None) -> bytes:
    """The loss, and at every moment the final loss that was forecast then, with its interval.

    The blue line at step ``s`` is the loss that was expected at the end of the plan when ``s`` steps had been seen, the
    band around it the interval given then; both must meet the loss where the run ends. A shallow panel below shows the
    learning rate that the forecast knew about. Forecasts made in the warm-up or the first 5 % of the run are left out.

    Args:
        run: The run so far or to its end.
        ledger: Rows of ``Monitor.forecast_log``, oldest first.
        stop: Step at which it was advised to stop; what that saves is drawn.

    Returns:
        A PNG file.

    Raises:
        ValueError: If the run has no finite loss.
    """
    step, loss = _finite(run)
    plan = run.plan
    early = max(plan.warmup_end, _EARLY * run.total_steps)
    metric, rising = _followed(run)
    rows = [row for row in forecasts(ledger) if row["step"] >= early]
    outcome = next((value for row in reversed(ledger) if (value := known(row, "outcome")) is not None), None)
    with style.styled():
        figure = style.canvas(_WIDTH, _HEIGHT)
        axes, below = figure.subplots(2, 1, sharex=True, gridspec_kw={"height_ratios": [6, 1]})
        end = float(max(run.total_steps, step[-1]))
        axes.set_xlim(0, end)
        line = style.smooth(step, loss, _BINS)
        axes.plot(step, loss, color=style.FAINT, linewidth=0.9)
        axes.plot(*line, color=style.INK, linewidth=2.2)
        if rows:
            _draw_fan(axes, rows)
        low, high = _window(line, rows, end, rising=rising)
        axes.set_ylim(low, high)
        _label_ends(axes, rows, outcome, end)
        trouble = notable(ledger if stop is None else [row for row in ledger if row["step"] >= stop])
        if stop is not None:
            _draw_saving(axes, stop, end, low)
        if trouble is not None:
            _draw_trouble(axes, trouble, high, left=trouble["step"] > 0.55 * end)
        elif outcome is not None:
            _label_checkpoints(axes, rows, rising=rising)
        axes.set_ylabel(metric)
        style.bare(axes)
        names = [("training loss" if metric == "loss" else metric, style.INK)]
        if rows:
            names.append((f"final {metric} expected at that step, with its 90% range", style.FORECAST))
        style.title(axes, *_headline(run, rows, trouble, outcome), lines=names)

        every = np.linspace(1, end, 600)
        below.fill_between(every, 0, plan.at(every), color=style.FAINT, linewidth=0)
        below.set_ylim(0, plan.peak * 1.15 or 1.0)
        below.set_yticks([])
        below.set_ylabel("learning\nrate", rotation=0, ha="right", va="center", fontsize=10)
        below.set_xlabel("optimizer step")
        style.bare(below)
        below.spines["left"].set_visible(False)
        below.grid(visible=False)
        below.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
        return style.png(figure)


def loss_compute_figure(run: Run, ledger: Sequence[Mapping[str, Any]] = (), *, flops: ArrayLike | None = None) -> bytes:
    """Loss against the compute spent, both on a logarithmic scale, with the forecast of the end while it is ahead.

    A metric that is no loss is drawn on a linear scale.

    Args:
        run: The run so far or to its end.
        ledger: Rows of ``Monitor.forecast_log``, oldest first; the last one is drawn as the forecast.
        flops: Floating-point operations spent when each loss of the run was recorded, shape ``(n,)``, ``nan`` where
            unknown; left out, ``run.flops_per_step`` for every step. Without either the axis counts tokens, else steps.

    Returns:
        A PNG file.

    Raises:
        ValueError: If the run has no finite positive loss.
    """
    step, loss = _finite(run)
    spent, per_step, label, unit = _compute_axis(run, step, flops)
    metric, _ = _followed(run)
    keep = (spent > 0) & ((loss > 0) | (metric != "loss"))
    spent, loss = spent[keep], loss[keep]
    if not spent.size:
        raise ValueError("The run has no positive loss, so it cannot be drawn on a logarithmic scale.")
    with style.styled():
        figure = style.canvas(_WIDTH, _HEIGHT * 0.92)
        axes = figure.subplots()
        axes.set_xscale("log")
        axes.set_yscale("log" if metric == "loss" else "linear")
        axes.plot(spent, loss, color=style.FAINT, linewidth=1.0)
        place, mean = style.smooth(np.log(spent), loss, 90)
        axes.plot(np.exp(place), mean, color=style.INK, linewidth=2.2)
        rows = forecasts(ledger)
        last = rows[-1] if rows else None
        right = float(spent[-1])
        ended = None if last is None else known(last, "outcome")
        if (
            last is not None
            and ended is None
            and last["horizon"] > step[-1]
            and (last["lower"] > 0 or metric != "loss")
        ):
            right = float(last["horizon"]) * per_step
            _draw_target(axes, last, right)
        else:
            now = float(mean[-1]) if ended is None else ended
            axes.plot([right], [now], "o", color=style.INK, markersize=7, clip_on=False, zorder=5)
            _right_of(axes, right, now, f"{'now at' if ended is None else 'ended at'}\n{now:.3g}", style.INK)
        left = max(float(spent[0]), right / 1000)
        axes.set_xlim(left if left < right else right / 2, right)
        if metric == "loss":
            _log_ticks(axes)
        axes.set_xlabel(label)
        axes.set_ylabel(metric)
        style.bare(axes)
        size = f"{style.si(run.params)} parameters, " if run.params else ""
        steps = f"{max([int(run.step[-1]), *(row['step'] for row in ledger)]):,} steps"
        done = f"{style.si(float(spent[-1]))} {unit} in {steps}" if unit else steps
        said = f"{size}{done}" + ("; a straight stretch is a power law" if metric == "loss" else "")
        style.title(axes, f"{'Loss' if metric == 'loss' else metric} against {label.split(' (')[0]}", said)
        return style.png(figure)


def _compute_axis(run: Run, step: _Array, flops: ArrayLike | None) -> tuple[_Array, float, str, str]:
    """What was spent at each finite loss, how much of it a step costs, the label of that axis, and its unit."""
    spent = np.empty(0) if flops is None else np.asarray(flops, dtype=np.float64)[np.isfinite(run.loss)]
    counted = spent > 0
    if counted.any():
        per_step = float(spent[counted][-1] / max(step[counted][-1], 1.0))
        return spent, per_step, "training compute (FLOPs)", "FLOPs"
    if run.flops_per_step is not None:
        return step * run.flops_per_step, float(run.flops_per_step), "training compute (FLOPs)", "FLOPs"
    if run.tokens_per_step is not None:
        return step * run.tokens_per_step, float(run.tokens_per_step), "tokens or samples seen", "tokens or samples"
    return step, 1.0, "optimizer steps", ""


def _finite(run: Run) -> tuple[_Array, _Array]:
    keep = np.isfinite(run.loss)
    if not keep.any():
        raise ValueError("The run has no finite loss to draw.")
    return run.step[keep].astype(np.float64), run.loss[keep]


def _draw_fan(axes: Axes, rows: Sequence[Mapping[str, Any]]) -> None:
    when = [row["step"] for row in rows]
    axes.fill_between(
        when, [row["lower"] for row in rows], [row["upper"] for row in rows], color=style.BAND, linewidth=0, alpha=0.9
    )
    axes.plot(when, [row["final"] for row in rows], color=style.FORECAST, linewidth=2.2)


def _followed(run: Run) -> tuple[str, bool]:
    """What to call the metric of a run, and whether it rises."""
    metric = run.meta.get("metric")
    scale = scales_for(metric, run.meta.get("mode", "auto"), run.meta.get("bounds"))[0]
    return "loss" if scale.plain or not metric else str(metric), scale.mode == "max"


def _window(
    line: tuple[_Array, _Array], rows: Sequence[Mapping[str, Any]], end: float, *, rising: bool = False
) -> tuple[float, float]:
    """Limits of the loss axis: from the lowest sensible value up to the loss early in the run, not its first cliff."""
    if rising:
        turned = [{**row, "final": -row["final"], "lower": -row["upper"]} for row in rows]
        low, high = _window((line[0], -line[1]), turned, end)
        return -high, -low
    place, mean = line
    seen = mean[place >= 0.04 * min(end, place[-1])]
    settled = [row for row in rows if row["step"] >= 0.1 * end] or list(rows)
    bottom = min([float(seen.min()), *(float(row["final"]) for row in settled)])
    top = max([float(seen.max()), *(float(row["final"]) for row in settled)])
    span = top - bottom or 0.2
    lowest = min([bottom, *(float(row["lower"]) for row in settled)])
    return max(lowest, bottom - 0.4 * span) - 0.12 * span, top + 0.05 * span


def _label_ends(axes: Axes, rows: Sequence[Mapping[str, Any]], outcome: float | None, end: float) -> None:
    if outcome is not None:
        axes.plot([end], [outcome], "o", color=style.INK, markersize=7, clip_on=False, zorder=5)
        _right_of(axes, end, outcome, f"ended at\n{outcome:.3g}", style.INK)
    elif rows:
        last = rows[-1]
        axes.plot([last["step"], end], [last["final"]] * 2, color=style.FORECAST, linewidth=1.4, linestyle=(0, (2, 2)))
        axes.fill_between([last["step"], end], last["lower"], last["upper"], color=style.BAND, linewidth=0, alpha=0.5)
        _right_of(axes, end, float(last["final"]), f"expected\n{last['final']:.3g}", style.FORECAST)


def _label_checkpoints(axes: Axes, rows: Sequence[Mapping[str, Any]], *, rising: bool = False) -> None:
    for row in checkpoints(rows):
        axes.plot([row["step"]], [row["final"]], "o", color=style.FORECAST, markersize=7, zorder=5)
        axes.annotate(
            f"at {row['fraction']:.0%}: {percent(row.get('error'))}",
            (row["step"], row["upper" if rising else "lower"]),
            (0, 5 if rising else -5),
            textcoords="offset points",
            color=style.FORECAST,
            ha="center",
            va="bottom" if rising else "top",
            path_effects=style.halo(),
        )


def _draw_trouble(axes: Axes, row: Mapping[str, Any], top: float, *, left: bool) -> None:
    axes.axvline(row["step"], color=style.ALARM, linewidth=1.6, linestyle=(0, (4, 3)))
    axes.annotate(
        f"step {row['step']:,}: {trouble_of(row)}",
        (row["step"], top),
        (-7 if left else 7, -4),
        textcoords="offset points",
        color=style.ALARM,
        fontweight="bold",
        ha="right" if left else "left",
        va="top",
        path_effects=style.halo(),
    )


def _draw_saving(axes: Axes, stop: int, end: float, bottom: float) -> None:
    axes.axvspan(stop, end, color=style.ALARM, alpha=0.06, linewidth=0, zorder=0)
    narrow = stop > 0.8 * end
    axes.annotate(
        f"{1 - stop / end:.0%} of the planned\ncompute saved",
        (stop if narrow else (stop + end) / 2, bottom),
        (-7 if narrow else 0, 8),
        textcoords="offset points",
        color=style.ALARM,
        ha="right" if narrow else "center",
        va="bottom",
        path_effects=style.halo(),
    )


def _draw_target(axes: Axes, row: Mapping[str, Any], right: float) -> None:
    axes.errorbar(
        [right],
        [row["final"]],
        yerr=[[row["final"] - row["lower"]], [row["upper"] - row["final"]]],
        fmt="o",
        color=style.FORECAST,
        markersize=7,
        capsize=4,
        linewidth=2,
        clip_on=False,
        zorder=5,
    )
    _right_of(axes, right, float(row["final"]), f"expected\n{row['final']:.3g}", style.FORECAST)


def _right_of(axes: Axes, x: float, y: float, text: str, color: str) -> None:
    axes.annotate(
        text, (x, y), (10, 0), textcoords="offset points", color=color, fontweight="bold", va="center", ha="left"
    )


def _log_ticks(axes: Axes) -> None:
    """Round numbers on a loss axis that rarely spans a decade."""
    low, high = axes.get_ylim()
    candidates = np.array([1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 8])
    decades = 10.0 ** np.arange(np.floor(np.log10(low)), np.ceil(np.log10(high)) + 1)
    ticks = np.unique(np.outer(decades, candidates))
    inside = ticks[(ticks >= low) & (ticks <= high)]
    if inside.size > 9:
        inside = inside[:: int(np.ceil(inside.size / 9))]
    axes.set_yticks(inside, [f"{tick:g}" for tick in inside])
    axes.set_yticks([], minor=True)


def _headline(
    run: Run, rows: Sequence[Mapping[str, Any]], trouble: Mapping[str, Any] | None, outcome: float | None
) -> tuple[str, str]:
    size = f"{style.si(run.params)} parameters, " if run.params else ""
    about = f"{run.name + ': ' if run.name else ''}{size}{run.total_steps:,} steps planned"
    chosen = checkpoints(rows)
    if trouble is not None:
        ended = "" if outcome is None else f"; the run ended at {outcome:.3g}"
        headline = f"At step {trouble['step']:,}: {trouble_of(trouble)}{ended}"
    elif outcome is not None and chosen:
        off = abs(chosen[0]["error"])
        headline = f"At {chosen[0]['fraction']:.0%} of the run the forecast of the end was off by {off:.1%}"
    elif outcome is not None:
        headline = f"The run ended at {outcome:.3g}"
    elif rows:
        last = rows[-1]
        headline = f"Expected to end at {last['final']:.3g} ({last['lower']:.3g} to {last['upper']:.3g})"
    else:
        headline = "No forecast yet"
    return headline, about
