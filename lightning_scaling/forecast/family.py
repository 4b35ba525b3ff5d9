"""What finished relatives teach about the shape of a curve."""

from __future__ import annotations

import math

import numpy as np

from lightning_scaling.curve import Curve
from lightning_scaling.forecast.forecaster import Forecaster
from lightning_scaling.forecast.prior import PUBLISHED, ShapePrior
from lightning_scaling.run import Run, RunHistory

_ENOUGH = 2
_REACHED = 0.98
_LEAST_SPREAD = 0.12


def family_prior(history: RunHistory | None, params: int | None = None) -> ShapePrior:
    """The prior that finished runs of the same family support; the published one when there are too few.

    Each relative is fitted over its whole curve under the published prior. Medians and scaled median absolute
    deviations of the logarithms of its shape are the family's prior, never narrower than the fits themselves can
    tell.

    Args:
        history: Finished runs.
        params: Number of parameters of the new run; relatives within a factor 8 are preferred when there are enough.

    Returns:
        The prior.
    """
    if history is None:
        return PUBLISHED
    runs = [run for run in history if _finished(run)]
    near = [r for r in runs if params and r.params and 1 / 8 <= r.params / params <= 8]
    if len(near) >= _ENOUGH:
        runs = near
    shapes = [shape for run in runs if (shape := _shape(run)) is not None]
    if len(shapes) < _ENOUGH:
        return PUBLISHED
    alpha, alpha_spread = _pooled([s[0] for s in shapes], PUBLISHED.alpha_spread)
    slope, slope_spread = _pooled([s[2] for s in shapes], PUBLISHED.slope_spread)
    annealed = [s[1] for s in shapes if s[3] > 0.1]
    kappa, kappa_spread = (
        _pooled(annealed, PUBLISHED.kappa_spread)
        if len(annealed) >= _ENOUGH
        else (PUBLISHED.kappa, PUBLISHED.kappa_spread)
    )
    return ShapePrior(
        alpha, alpha_spread, kappa, kappa_spread, slope, slope_spread, f"{len(shapes)} finished runs of the family"
    )


def _finished(run: Run) -> bool:
    seen = run.step[np.isfinite(run.loss)]
    return bool(seen.size) and int(seen[-1]) >= _REACHED * run.total_steps


def _shape(run: Run) -> tuple[float, float, float, float] | None:
    seen = np.isfinite(run.loss)
    curve = Curve(run.plan)
    curve.add(run.step[seen], run.loss[seen])
    forecaster = Forecaster(run.plan)
    step = int(run.step[seen][-1])
    forecast = forecaster.fit(curve.points, min(step, run.total_steps))
    p = forecast.params
    if not p or p["A"] <= 0:
        return None
    level = abs(float(curve.points.loss[-1]))
    fallen = forecaster.fallen(run.total_steps)
    return p["alpha"], p["kappa"], max(p["alpha"] * p["A"] / max(level, 1e-12), 1e-6), fallen


def _pooled(values: list[float], widest: float) -> tuple[float, float]:
    logs = np.log(values)
    middle = float(np.median(logs))
    spread = 1.4826 * float(np.median(np.abs(logs - middle)))
    # With few relatives the spread is itself uncertain: shrink it towards the published one.
    spread = math.sqrt((len(logs) * spread**2 + 2 * (widest / 2) ** 2) / (len(logs) + 2))
    return math.exp(middle), min(max(spread, _LEAST_SPREAD), widest)
