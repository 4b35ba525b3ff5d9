"""Confidence intervals of single parameters."""

from __future__ import annotations

import math

import numpy as np
from scipy.special import ndtri

from lightning_scaling._utils.stats import t_quantile
from lightning_scaling.laws.arrays import Array, Ints
from lightning_scaling.laws.estimate import Estimate

_GRID = (0.4, 0.8, 1.2, 1.8, 2.6, 4.0)
_ROUNDS = 3
_STEPS = 80
_TOLERANCE = 1e-9
_METHODS = ("auto", "profile", "bootstrap", "wald")
_UNKNOWN = (math.nan, math.nan)


@np.errstate(all="ignore")
def confidence(fit: Estimate, level: float, method: str) -> dict[str, tuple[float, float]]:
    """The interval of every parameter; see :meth:`Fit.conf_int`."""
    if method not in _METHODS:
        raise ValueError(f"`method` must be one of {', '.join(_METHODS)}, but got {method!r}.")
    if method == "bootstrap" and fit.replicates is None:
        raise ValueError("This fit has no refits; fit with `bootstrap=1000`, or use method='profile'.")
    if method == "auto":
        method = "bootstrap" if fit.replicates is not None else "wald" if fit.points is None else "profile"
    result = {name: (value, value) for name, value in fit.params.items()}
    if method == "bootstrap":
        return result | _expanded(fit, level)
    if fit.dof_resid <= 0 or (fit.points is None and not np.any(fit.cov)):
        return result | dict.fromkeys(fit.names, _UNKNOWN)
    t = t_quantile((1 + level) / 2, fit.dof_resid)
    half = t * np.sqrt(np.diag(fit.cov))
    ends = _profile(fit, t) if method == "profile" else np.stack([fit.u - half, fit.u + half], axis=1)
    for name, is_log, (low, high) in zip(fit.names, fit.is_log, ends.tolist(), strict=True):
        result[name] = (float(np.exp(low)), float(np.exp(min(high, 700.0)))) if is_log else (low, high)
    return result | dict.fromkeys(fit.diagnostics.get("unidentified", ()), _UNKNOWN)


def _expanded(fit: Estimate, level: float) -> dict[str, tuple[float, float]]:
    """Quantiles of the refits, moved out as far as few points ask for (expanded percentiles; Hesterberg 2015)."""
    assert fit.replicates is not None
    ends = np.quantile(fit.replicates, [(1 - level) / 2, (1 + level) / 2], axis=0).T
    tails = t_quantile((1 + level) / 2, fit.dof_resid) / float(ndtri((1 + level) / 2)) if fit.dof_resid > 0 else 1.0
    factor = fit.small_sample_factor * tails
    result = {}
    for name, is_log, (low, high) in zip(fit.names, fit.is_log, ends.tolist(), strict=True):
        middle = fit.params[name]
        if is_log:
            result[name] = (middle * (low / middle) ** factor, middle * (high / middle) ** factor)
        else:
            result[name] = (middle + (low - middle) * factor, middle + (high - middle) * factor)
    return result


def _profile(fit: Estimate, t: float) -> Array:
    """Where the signed root of the rise of the profiled objective reaches `t` (Bates and Watts 1988, chapter 6).

    The rise is counted in units of its variance, which for a robust objective is that of the drop-in-dispersion test
    (Schrader and Hettmansperger, Biometrika 67(1), 1980); where the standard errors are wider than independent
    residuals would make them (groups, autocorrelation), so are these intervals.
    """
    problem, objective, free = fit.problem, fit.settings.objective, len(fit.u)
    error = np.sqrt(np.diag(fit.cov))
    ends = np.stack([fit.u, fit.u], axis=1)
    which = np.flatnonzero((error > 0) & np.isfinite(error))
    if not len(which):
        return ends
    r, jac = (array[0] for array in problem.model(fit.u[None]))
    plain = _plain_errors(jac, problem.weights, objective.efficiency(r, problem.weights, free), error)
    widen = np.where((plain > 0) & (not problem.priors), error / np.maximum(plain, 1e-300), 1.0)
    unit = max(objective.unit(r, problem.weights, free), 1e-300)
    j_of, sign = np.repeat(which, 2), np.tile([-1.0, 1.0], len(which))
    start, low, high = (array[j_of][:, None] for array in (fit.u, problem.lower, problem.upper))
    far, rise = np.zeros((len(j_of), 1)), np.zeros((len(j_of), 1))
    paths = np.tile(fit.u, (len(j_of), 1, 1))
    offsets = np.array(_GRID)[None, :] * t * error[j_of][:, None]
    for _ in range(_ROUNDS):
        reached = np.clip(start + sign[:, None] * offsets, low, high)
        away = np.abs(reached - start)
        value, path = _constrained(fit, j_of, reached, far, away, paths)
        root = np.sqrt(np.maximum(value - fit.diagnostics["objective"], 0.0) * 2 / unit) / widen[j_of][:, None]
        far = np.concatenate([far, away], axis=1)
        rise = np.concatenate([rise, root], axis=1)
        paths = np.concatenate([paths, path], axis=1)
        cross = np.array([_crossing(*side, t) for side in zip(far, rise, strict=True)])
        offsets = np.where(np.isfinite(cross), cross, 3.0 * far.max(axis=1))[:, None] * np.array([[0.97, 1.0, 1.03]])
    edge = np.where(sign < 0, low[:, 0], high[:, 0])
    end = np.where(np.isfinite(cross), start[:, 0] + sign * cross, edge)
    ends[j_of, np.where(sign < 0, 0, 1)] = np.clip(end, low[:, 0], high[:, 0])
    return ends


def _plain_errors(jac: Array, weights: Array, variance: float, error: Array) -> Array:
    """Standard errors if residuals were independent."""
    inner = error > 0
    plain = np.zeros_like(error)
    j = jac[inner] * np.sqrt(weights)
    size = np.sqrt(np.sum(j**2, axis=1))
    unit = j / size[:, None]
    inverse = np.linalg.pinv(unit @ unit.T, rcond=1e-12, hermitian=True)
    plain[inner] = np.sqrt(variance * np.maximum(np.diag(inverse), 0.0)) / size
    return plain


def _constrained(fit: Estimate, j_of: Ints, at: Array, far: Array, away: Array, paths: Array) -> tuple[Array, Array]:
    """Objective with one coordinate held, minimised over the others, and where that is.

    Profiles are curved: the first round starts from the linear approximation and again from the neighbour's solution,
    later rounds from the nearest solution so far.
    """
    problem = fit.problem
    sides, points = at.shape
    index = np.repeat(j_of, points)
    value = at.ravel()
    rows = np.arange(len(value))
    lower, upper = (np.tile(ends, (len(value), 1)) for ends in (problem.lower, problem.upper))
    lower[rows, index] = upper[rows, index] = value

    def descend(start: Array) -> tuple[Array, Array]:
        start = np.clip(start, problem.lower, problem.upper)
        start[rows, index] = value
        ends = problem.descend(start, lower=lower, upper=upper, steps=_STEPS, tolerance=_TOLERANCE)
        return ends.value, ends.u

    if far.shape[1] > 1:
        nearest = np.argmin(np.abs(far[:, None, :] - away[:, :, None]), axis=2)
        best, where = descend(paths[np.arange(sides)[:, None], nearest].reshape(len(value), -1))
    else:
        shift = (value - fit.u[index])[:, None] * fit.cov[index] / np.maximum(np.diag(fit.cov)[index], 1e-300)[:, None]
        best, where = descend(fit.u + shift)
        along = where.reshape(sides, points, -1)
        again, there = descend(np.concatenate([paths, along[:, :-1]], axis=1).reshape(len(value), -1))
        where = np.where((again < best)[:, None], there, where)
        best = np.minimum(best, again)
    return best.reshape(at.shape), where.reshape(sides, points, -1)


def _crossing(distance: Array, height: Array, t: float) -> float:
    order = np.argsort(distance, kind="stable")
    d, h = distance[order], np.maximum.accumulate(height[order])
    i = int(np.searchsorted(h, t))
    if i == len(h):
        return math.inf
    if i == 0 or h[i] == h[i - 1]:
        return float(d[i])
    if not np.isfinite(h[i]):
        return float(0.5 * (d[i - 1] + d[i]))
    return float(d[i - 1] + (t - h[i - 1]) * (d[i] - d[i - 1]) / (h[i] - h[i - 1]))
