"""Quality of a finished minimisation: status, conditioning and covariance of the estimate."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from lightning_scaling._utils.stats import MAD_TO_STD
from lightning_scaling.laws.data import Points
from lightning_scaling.laws.estimate import Estimate, FitStatus
from lightning_scaling.laws.form import FunctionalForm
from lightning_scaling.laws.options import Settings
from lightning_scaling.laws.problem import Problem
from lightning_scaling.laws.solvers.levenberg import Minimum
from lightning_scaling.laws.solvers.resample import block_length

Array = NDArray[np.float64]

_SINGULAR = 1e-12
_EXACT = 1e-12
_SILENT = 1e-9
_FEW = 12


@np.errstate(all="ignore")  # directions that are not determined have no finite error, and are named as such
def assess(points: Points, settings: Settings, problem: Problem, ends: Minimum, best: int) -> Estimate:
    """The estimate that the best of several descents leads to, with its status."""
    law = problem.law
    u = ends.u[best]
    r, jac = problem.model(u[None], np.array([0]))
    r, jac = r[0], jac[0]
    held = _at_bounds(problem, u)
    correlation = _autocorrelation(law, points, r)
    inner = [j for j in range(len(u)) if not held[j]]
    cov, variance, condition, lost = _covariance(problem, points, settings, u, r, jac, inner, correlation)
    names = [p.name for p in problem.free]
    values = dict(zip(names, map(float, problem.to_parameters(u[None])[0]), strict=True)) | dict(settings.fixed)
    values = {p.name: values[p.name] for p in law.parameters}
    dof = _dof_resid(points, len(inner))
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
        "at_bounds": [names[j] for j in range(len(u)) if held[j]],
        "unidentified": [names[j] for j in lost],
        "autocorrelation": correlation,
        "iterations": int(ends.iterations[best]),
        "starts": len(ends.value),
        "starts_agreeing": int(np.sum(ends.value <= ends.value[best] * (1 + 1e-6) + 1e-300)),
        "r2": _explained(problem.target, r, points.weights),
    }
    status, message = _verdict(law, points, diagnostics, bool(ends.converged[best]), dof, values)
    return Estimate(
        law=law,
        params=values,
        settings=settings,
        points=points,
        status=status,
        message=message,
        diagnostics=diagnostics,
        u=u,
        cov=cov,
        residual_variance=variance,
        dof_resid=dof,
        block=block_length(correlation, len(points)),
        names=tuple(names),
    )


def _at_bounds(problem: Problem, u: Array) -> NDArray[np.bool_]:
    room = 1e-7 * np.maximum(1.0, np.abs(u))
    return (u <= problem.lower + room) | (u >= problem.upper - room)


def _dof_resid(points: Points, free: int) -> int:
    if points.groups is None:
        return len(points) - free
    return min(len(points) - free, int(points.groups.max()))


def _autocorrelation(law: FunctionalForm, points: Points, r: Array) -> float:
    """Lag-one correlation of the residuals of a single curve; 0 unless it is significant."""
    if len(law.inputs) != 1 or points.groups is not None or "single run" not in law.tags or len(r) < _FEW:
        return 0.0
    e = r[np.argsort(points.inputs[law.inputs[0]], kind="stable")]
    e = np.clip(e - np.median(e), *(np.array([-4, 4]) * (MAD_TO_STD * np.median(np.abs(e - np.median(e))) + 1e-300)))
    rho = float(np.sum(e[1:] * e[:-1]) / max(float(np.sum(e * e)), 1e-300))
    return min(rho, 0.95) if rho > 2 / np.sqrt(len(r)) else 0.0


def _covariance(
    problem: Problem,
    points: Points,
    settings: Settings,
    u: Array,
    r: Array,
    jac: Array,
    inner: list[int],
    correlation: float,
) -> tuple[Array, float, float, list[int]]:
    """Covariance of the coordinates, residual variance per unit weight, condition number, directions not determined.

    The usual sandwich of an M-estimator, with the density-based bread of :meth:`Objective.efficiency`; with groups,
    its middle is summed within groups first (Liang and Zeger 1986).
    """
    p = len(problem.free)
    cov = np.zeros((p, p))
    w = points.weights
    objective = settings.objective
    variance = objective.efficiency(r, w, len(inner))
    scale = float(np.median(np.abs(problem.target))) if settings.space == "linear" else 1.0
    variance = max(variance, (_EXACT * max(scale, 1e-300)) ** 2)
    if not inner:
        return cov, variance, 1.0, []
    j = jac[inner] * np.sqrt(w)
    size = np.sqrt(np.sum(j**2, axis=1))
    silent = (size == 0) | (problem.log[inner] & (size < _SILENT * np.sqrt(len(r))))
    lost = [inner[i] for i in np.flatnonzero(silent)]
    if problem.priors:
        slope = np.sqrt(float(np.sum(w * objective.slopes(r)[0] ** 2)) / max(len(r) - len(inner), 1) / variance)
        believed = np.sqrt(problem.penalty(u[None])[2][0][inner] / max(float(slope), 1e-300))
        j = np.concatenate([j, np.diag(believed)], axis=1)
        size = np.sqrt(np.sum(j**2, axis=1))
    unit = j / np.where(size > 0, size, 1.0)[:, None]
    left, singular, _ = np.linalg.svd(unit, full_matrices=False)
    condition = float(singular[0] / max(singular[-1], 1e-300))
    weak = singular <= singular[0] * np.sqrt(_SINGULAR)
    for column in np.flatnonzero(weak):
        lost += [inner[i] for i in np.flatnonzero(np.abs(left[:, column]) > 0.3)]
    keep = ~weak
    inverse = (left[:, keep] / singular[keep] ** 2) @ left[:, keep].T
    inverse = inverse / np.outer(np.where(size > 0, size, 1.0), np.where(size > 0, size, 1.0))
    if points.groups is None:
        part = variance * inverse * (1 + correlation) / (1 - correlation)
    else:
        psi = objective.slopes(r)[0]
        curve = np.sqrt(float(np.sum(w * psi**2)) / len(r) / max(objective.efficiency(r, w, 0), 1e-300))
        runs = int(points.groups.max()) + 1
        score = np.zeros((runs, len(inner)))
        np.add.at(score, points.groups, (jac[inner] * (w * psi)).T)
        part = inverse @ (score.T @ score) @ inverse / max(curve, 1e-300) ** 2 * runs / max(runs - 1, 1)
    cov[np.ix_(inner, inner)] = part
    return cov, variance, condition, sorted(set(lost))


def _explained(target: Array, r: Array, w: Array) -> float:
    total = float(np.average((target - np.average(target, weights=w)) ** 2, weights=w))
    return 1.0 - float(np.average(r**2, weights=w)) / total if total > 0 else float("nan")


def _verdict(
    law: FunctionalForm, points: Points, found: dict[str, object], converged: bool, dof: int, values: dict[str, float]
) -> tuple[FitStatus, str]:
    sentences: list[str] = []
    status = FitStatus.OK
    distinct = len(np.unique(np.stack(list(points.inputs.values())), axis=1).T) if points.inputs else 0
    if not converged:
        status = FitStatus.NOT_CONVERGED
        sentences.append("The minimisation had not come to rest when its steps ran out.")
    bounds = [str(name) for name in found["at_bounds"]]  # type: ignore[attr-defined]
    if bounds:
        status = FitStatus.AT_BOUNDS
        sentences.append(
            "At the edge of its admissible range: "
            + ", ".join(f"{n} = {values[n]:.4g}" for n in bounds)
            + "; the points "
            "do not ask for this term, or do not reach where it shows."
        )
    lost = [str(name) for name in found["unidentified"]]  # type: ignore[attr-defined]
    if lost or distinct < len(values) - len(bounds):
        status = FitStatus.UNIDENTIFIED
        which = f"{distinct} distinct points" if distinct < len(values) else "these points"
        sentences.append(
            f"{which[0].upper()}{which[1:]} do not determine {', '.join(lost or values)} separately; spread the "
            f"{' and '.join(law.inputs)} wider, or give some parameters in `fixed`."
        )
    if dof <= 0:
        sentences.append("There are no more points (or groups) than parameters, so errors cannot be estimated.")
    dropped = points.dropped
    if dropped:
        sentences.append(
            f"Left out {sum(dropped.values())} of {points.given} points: "
            + ", ".join(f"{count} with {reason}" for reason, count in dropped.items())
            + "."
        )
    sentences += [f"Check the units: {warning}." for warning in points.warnings]
    return status, " ".join(sentences)
