"""Quality of a finished minimisation: status, conditioning and covariance of the estimate."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from lightning_scaling._utils.stats import robust_std
from lightning_scaling.laws.arrays import Array, Ints
from lightning_scaling.laws.data import Points
from lightning_scaling.laws.estimate import Estimate, FitStatus
from lightning_scaling.laws.form import FunctionalForm
from lightning_scaling.laws.options import Settings
from lightning_scaling.laws.problem import Problem
from lightning_scaling.laws.solvers.levenberg import Minimum
from lightning_scaling.laws.solvers.resample import block_length

_SINGULAR = 1e-12
_EXACT = 1e-12
_SILENT = 1e-9
_SHARE = 0.3
_FEW = 12


@np.errstate(all="ignore")  # directions that are not determined have no finite error, and are named as such
def assess(points: Points, settings: Settings, problem: Problem, ends: Minimum, best: int) -> Estimate:
    """The estimate that the best of several descents leads to, with its status."""
    law, u, names = problem.law, ends.u[best], problem.names
    r, jac = (array[0] for array in problem.model(u[None]))
    room = 1e-7 * np.maximum(1.0, np.abs(u))
    held = (u <= problem.lower + room) | (u >= problem.upper - room)
    inner = np.flatnonzero(~held)
    correlation = _autocorrelation(law, points, r)
    cov, variance, condition, lost = _covariance(problem, points, u, r, jac, inner, correlation)
    estimated = dict(zip(names, map(float, problem.to_parameters(u)), strict=True)) | dict(settings.fixed)
    dof = len(points) - len(inner)
    if points.groups is not None:
        dof = min(dof, int(points.groups.max()))
    diagnostics = {
        "points": len(points),
        "given": points.given,
        "dropped": dict(points.dropped),
        "free": len(names),
        "objective": float(ends.value[best]),
        "scale": problem.scale,
        "rms_residual": float(np.sqrt(np.average(r**2, weights=points.weights))),
        "median_abs_residual": float(np.median(np.abs(r))),
        "condition": condition,
        "at_bounds": [names[j] for j in np.flatnonzero(held)],
        "unidentified": [names[j] for j in lost],
        "autocorrelation": correlation,
        "iterations": int(ends.iterations[best]),
        "starts": len(ends.value),
        "starts_agreeing": int(np.sum(ends.value <= ends.value[best] * (1 + 1e-6) + 1e-300)),
        "r2": _explained(problem.target, r, points.weights),
    }
    found = Estimate(
        law,
        {p.name: estimated[p.name] for p in law.parameters},
        FitStatus.OK,
        diagnostics=diagnostics,
        points=points,
        settings=settings,
        names=tuple(names),
        u=u,
        cov=cov,
        residual_variance=variance,
        dof_resid=dof,
        block=block_length(correlation, len(points)),
    )
    status, message = _verdict(found, points, converged=bool(ends.converged[best]))
    return replace(found, status=status, message=message)


def _autocorrelation(law: FunctionalForm, points: Points, r: Array) -> float:
    """Lag-one correlation of the residuals of a single curve; 0 unless it is significant."""
    if len(law.inputs) != 1 or points.groups is not None or "single run" not in law.tags or len(r) < _FEW:
        return 0.0
    e = r[np.argsort(points.inputs[law.inputs[0]], kind="stable")]
    limit = 4 * (robust_std(e) + 1e-300)
    e = np.clip(e - np.median(e), -limit, limit)
    rho = float(np.sum(e[1:] * e[:-1]) / max(float(np.sum(e * e)), 1e-300))
    return min(rho, 0.95) if rho > 2 / np.sqrt(len(r)) else 0.0


def _covariance(
    problem: Problem, points: Points, u: Array, r: Array, jac: Array, inner: Ints, correlation: float
) -> tuple[Array, float, float, list[int]]:
    """Covariance of the coordinates, residual variance per unit weight, condition number, directions not determined.

    The usual sandwich of an M-estimator, with the density-based bread of :meth:`Objective.efficiency`; with groups,
    its middle is summed within groups first (Liang and Zeger 1986).
    """
    p, w, objective = len(problem.free), points.weights, problem.settings.objective
    cov = np.zeros((p, p))
    scale = float(np.median(np.abs(problem.target))) if problem.settings.space == "linear" else 1.0
    variance = max(objective.efficiency(r, w, len(inner)), (_EXACT * max(scale, 1e-300)) ** 2)
    if not len(inner):
        return cov, variance, 1.0, []
    psi = objective.slopes(r)[0]
    j = jac[inner] * np.sqrt(w)
    size = np.sqrt(np.sum(j**2, axis=1))
    silent = (size == 0) | (problem.log[inner] & (size < _SILENT * np.sqrt(len(r))))
    lost = set(inner[silent].tolist())
    if problem.priors:
        slope = np.sqrt(float(np.sum(w * psi**2)) / max(len(r) - len(inner), 1) / variance)
        believed = np.sqrt(problem.penalty(u[None])[2][0][inner] / max(float(slope), 1e-300))
        j = np.concatenate([j, np.diag(believed)], axis=1)
        size = np.sqrt(np.sum(j**2, axis=1))
    size = np.where(size > 0, size, 1.0)
    left, singular, _ = np.linalg.svd(j / size[:, None], full_matrices=False)
    condition = float(singular[0] / max(singular[-1], 1e-300))
    weak = singular <= singular[0] * np.sqrt(_SINGULAR)
    lost |= set(inner[np.any(np.abs(left[:, weak]) > _SHARE, axis=1)].tolist())
    inverse = (left[:, ~weak] / singular[~weak] ** 2) @ left[:, ~weak].T / np.outer(size, size)
    if points.groups is None:
        part = variance * inverse * (1 + correlation) / (1 - correlation)
    else:
        curve = np.sqrt(float(np.sum(w * psi**2)) / len(r) / max(objective.efficiency(r, w, 0), 1e-300))
        runs = int(points.groups.max()) + 1
        score = np.zeros((runs, len(inner)))
        np.add.at(score, points.groups, (jac[inner] * (w * psi)).T)
        part = inverse @ (score.T @ score) @ inverse / max(curve, 1e-300) ** 2 * runs / max(runs - 1, 1)
    cov[np.ix_(inner, inner)] = part
    return cov, variance, condition, sorted(lost)


def _explained(target: Array, r: Array, w: Array) -> float:
    total = float(np.average((target - np.average(target, weights=w)) ** 2, weights=w))
    return 1.0 - float(np.average(r**2, weights=w)) / total if total > 0 else float("nan")


def _verdict(found: Estimate, points: Points, *, converged: bool) -> tuple[FitStatus, str]:
    at_bounds, unidentified = found.diagnostics["at_bounds"], found.diagnostics["unidentified"]
    sentences: list[str] = []
    status = FitStatus.OK
    if not converged:
        status = FitStatus.NOT_CONVERGED
        sentences.append("The minimisation had not come to rest when its steps ran out.")
    if at_bounds:
        status = FitStatus.AT_BOUNDS
        edges = ", ".join(f"{name} = {found.params[name]:.4g}" for name in at_bounds)
        sentences.append(
            f"At the edge of its admissible range: {edges}; the points do not ask for this term, or do not reach where "
            "it shows."
        )
    distinct = np.unique(np.stack(list(points.inputs.values())), axis=1).shape[1]
    if unidentified or distinct < len(found.params) - len(at_bounds):
        status = FitStatus.UNIDENTIFIED
        which = f"{distinct} distinct points" if distinct < len(found.params) else "These points"
        sentences.append(
            f"{which} do not determine {', '.join(unidentified or found.params)} separately; spread the "
            f"{' and '.join(found.law.inputs)} wider, or give some parameters in `fixed`."
        )
    if found.dof_resid <= 0:
        sentences.append("There are no more points (or groups) than parameters, so errors cannot be estimated.")
    if points.dropped:
        reasons = ", ".join(f"{count} with {reason}" for reason, count in points.dropped.items())
        sentences.append(f"Left out {sum(points.dropped.values())} of {points.given} points: {reasons}.")
    sentences += [f"Check the units: {warning}." for warning in points.warnings]
    return status, " ".join(sentences)
