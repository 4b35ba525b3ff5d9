"""Faults planted in recorded curves from 40 % of the run on, and the least time in which any test could find them."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import numpy as np

from lightning_scaling import Run
from lightning_scaling.forecast import Forecaster
from lightning_scaling.runs.curve import Curve

BEGINS = 0.4

Fault = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]
"""The losses with the fault: from progress in the run, the losses, and the smooth curve under them."""


def level(share: float) -> Fault:
    """The loss jumps by a share of itself and stays there."""
    return lambda at, loss, smooth: np.where(at >= BEGINS, loss * (1 + share), loss)


def half_slope(at: np.ndarray, loss: np.ndarray, smooth: np.ndarray) -> np.ndarray:
    """From here on the loss falls by half of what it would have fallen."""
    now = np.interp(BEGINS, at, smooth)
    return loss + 0.5 * np.where(at >= BEGINS, now - smooth, 0.0)


def plateau(at: np.ndarray, loss: np.ndarray, smooth: np.ndarray) -> np.ndarray:
    """From here on the loss does not fall at all."""
    now = np.interp(BEGINS, at, smooth)
    return loss + np.where(at >= BEGINS, now - smooth, 0.0)


def slow_divergence(at: np.ndarray, loss: np.ndarray, smooth: np.ndarray) -> np.ndarray:
    """The loss drifts up by 1 % of itself per 5 % of the run."""
    return loss * (1 + 0.01 * np.maximum(at - BEGINS, 0) / 0.05)


def more_noise(at: np.ndarray, loss: np.ndarray, smooth: np.ndarray) -> np.ndarray:
    """The noise of the losses is three times what it was."""
    return np.where(at >= BEGINS, smooth + 3 * (loss - smooth), loss)


def spike(at: np.ndarray, loss: np.ndarray, smooth: np.ndarray) -> np.ndarray:
    """One point half as high again, then back."""
    changed = loss.copy()
    after = np.flatnonzero((at >= BEGINS) & np.isfinite(loss))
    changed[after[:1]] *= 1.5
    return changed


FAULTS: dict[str, Fault] = {
    "level +2 %": level(0.02),
    "level +5 %": level(0.05),
    "half slope": half_slope,
    "plateau": plateau,
    "slow divergence": slow_divergence,
    "noise x3": more_noise,
    "level -3 %": level(-0.03),
    "spike": spike,
}


def smooth_curve(run: Run) -> np.ndarray:
    """The law fitted to the whole run, at every step recorded."""
    seen = np.isfinite(run.loss)
    curve = Curve(run.plan)
    curve.add(run.step[seen], run.loss[seen])
    fitted = Forecaster(run.plan).fit(curve.points, int(run.step[seen][-1]))
    medians, _ = fitted.curve(np.maximum(run.step, 1))
    return medians


def with_losses(run: Run, loss: np.ndarray) -> Run:
    """The same run with other losses."""
    fields = {f.name: getattr(run, f.name) for f in dataclasses.fields(run)}
    return Run(fields.pop("step"), loss, **{k: v for k, v in fields.items() if k != "loss"})


def with_other_rate(run: Run) -> Run:
    """The same losses, but from 40 % on the rate used is silently three quarters of the planned one."""
    plan = run.plan
    used = plan.at(run.step) * np.where(run.step >= BEGINS * run.total_steps, 0.75, 1.0)
    fields = {f.name: getattr(run, f.name) for f in dataclasses.fields(run)}
    fields |= {"lr": used, "planned_lr": (plan.steps, plan.lr)}
    return Run(fields.pop("step"), fields.pop("loss"), **fields)


def least_delay(run: Run, changed: Run, smooth: np.ndarray, alpha: float) -> float:
    """The part of the run in which the evidence of a planted shift can first reach ``1 / alpha`` on average.

    ``sum delta_i ** 2 / (2 sigma ** 2)`` over the points since 40 %, ``sigma`` the noise around the smooth curve with
    its autocorrelation; for a fault of the noise, the expected log likelihood ratio of the two noises.
    """
    at = run.step / run.total_steps
    seen = np.isfinite(run.loss) & np.isfinite(changed.loss)
    early = seen & (at > 0.1) & (at < BEGINS)
    rest = (run.loss - smooth)[early]
    if rest.size < 4:
        return math.nan
    noise = 1.4826 * float(np.median(np.abs(rest - np.median(rest)))) + 1e-12
    centred = rest - rest.mean()
    lag = min(max(float(centred[1:] @ centred[:-1]) / max(float(centred @ centred), 1e-300), 0.0), 0.95)
    variance = noise**2 * (1 + lag) / (1 - lag)
    after = seen & (at >= BEGINS)
    shift = (changed.loss - run.loss)[after]
    tripled = np.std((changed.loss - smooth)[after]) > 2 * np.std((run.loss - smooth)[after])
    evidence = np.full(shift.size, (9 - 1) / 2 - math.log(3)) if tripled else shift**2 / (2 * variance)
    enough = np.flatnonzero(np.cumsum(evidence) >= -math.log(alpha))
    return float(at[after][enough[0]] - BEGINS) if enough.size else math.inf
