"""Baselines of the law fits: multi-start BFGS, variable projection, and the interval of a textbook."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import product

import numpy as np
from scipy import optimize, stats

Array = np.ndarray

GRID = (
    np.arange(0.0, 30.0, 5.0),
    np.arange(0.0, 30.0, 5.0),
    np.arange(-1.0, 1.5, 0.5),
    np.arange(0.0, 2.5, 0.5),
    np.arange(0.0, 2.5, 0.5),
)
STRIDE = 1697
TIGHT = {"ftol": 0.0, "gtol": 1e-10, "maxiter": 10_000, "maxfun": 100_000}
MINIMIZERS: dict[str, dict] = {
    "BFGS, default tolerances": {"method": "BFGS"},
    "L-BFGS-B, default tolerances": {"method": "L-BFGS-B"},
    "L-BFGS-B, ftol 0, gtol 1e-10": {"method": "L-BFGS-B", "options": TIGHT},
}


def starts(count: int) -> Array:
    """Hoffmann et al.'s grid of 4,500 starts over (ln A, ln B, ln E, alpha, beta), thinned to `count`.

    Every 1697th, around and around: that number shares no factor with 4,500, so that each axis stays evenly covered.
    """
    grid = np.array(list(product(*GRID)))
    return grid[np.arange(count) * STRIDE % len(grid)]


def chinchilla_huber(params: Array, tokens: Array, loss: Array, delta: float = 1e-3) -> Callable:
    """Summed Huber objective of the Chinchilla form on log losses, as log-sum-exp, with its gradient."""
    log_n, log_d, log_l = np.log(params), np.log(tokens), np.log(loss)

    def objective(theta: Array) -> tuple[float, Array]:
        terms = np.empty((3, len(log_l)))
        terms[0], terms[1], terms[2] = theta[0] - theta[3] * log_n, theta[1] - theta[4] * log_d, theta[2]
        top = terms.max(axis=0)
        parts = np.exp(terms - top)
        total = parts.sum(axis=0)
        r = top + np.log(total) - log_l
        inner = np.clip(r, -delta, delta)
        pull = parts * (inner / total)
        slopes = pull.sum(axis=1)
        return float(inner @ (r - 0.5 * inner)), np.array([*slopes, -(pull[0] @ log_n), -(pull[1] @ log_d)])

    return objective


@dataclass(frozen=True)
class Found:
    """The best of many starts.

    Attributes:
        objective: Its objective.
        theta: (ln A, ln B, ln E, alpha, beta).
        reached: Share of the starts that ended within 1 part in 10,000 of it.
    """

    objective: float
    theta: Array
    reached: float


def many_starts(objective: Callable, count: int, options: dict) -> Found:
    """Minimise from `count` starts, one after the other, and keep the best."""
    ends = [optimize.minimize(objective, start, jac=True, **options) for start in starts(count)]
    values = np.array([end.fun for end in ends])
    values = np.where(np.isfinite(values), values, np.inf)
    best = int(np.argmin(values))
    return Found(float(values[best]), ends[best].x, float(np.mean(values <= values[best] * (1 + 1e-4))))


def vpnls(params: Array, tokens: Array, loss: Array) -> Callable | None:
    """A fit by the package `vpnls` (Huber .001 of plain losses, its finest search that takes well under a second)."""
    try:
        from vpnls.api import fit_vpnls, huber
    except ImportError:
        return None
    return lambda: fit_vpnls(params / 1e6, tokens / 1e9, loss, resolution=0.01, loss=huber(1e-3))


def textbook_interval(
    values: dict[str, float], seen: dict[str, Array], asked: dict[str, Array], level: float
) -> tuple[Array, Array]:
    """Prediction interval of a least-squares Chinchilla fit on log losses, of nonlinear regression.

    ``ln L +- t(n - p) s sqrt(1 + g' (J'J)^-1 g)``: the delta method for the parameters plus the residual noise
    (Bates and Watts 1988, section 2.3).

    Args:
        values: The estimates E, A, alpha, B, beta.
        seen: params, tokens and loss of the fitted points.
        asked: params and tokens of the points asked for.
        level: Probability.

    Returns:
        Lower and upper end of the loss.
    """
    middle, jac = _log_chinchilla(values, seen)
    size = np.sqrt(np.sum(jac**2, axis=0))
    kept = size > 0
    _, singular, right = np.linalg.svd(jac[:, kept] / size[kept], full_matrices=False)
    firm = singular > 1e-10 * singular[0]
    spare = len(middle) - int(firm.sum())
    noise = np.sqrt(np.sum((np.log(seen["loss"]) - middle) ** 2) / spare)
    predicted, slopes = _log_chinchilla(values, asked)
    lever = (slopes[:, kept] / size[kept]) @ right[firm].T / singular[firm]
    half = stats.t.ppf((1 + level) / 2, spare) * noise * np.sqrt(1 + np.sum(lever**2, axis=1))
    return np.exp(predicted - half), np.exp(predicted + half)


def _log_chinchilla(values: dict[str, float], points: dict[str, Array]) -> tuple[Array, Array]:
    log_n, log_d = np.log(points["params"]), np.log(points["tokens"])
    size = values["A"] * np.exp(-values["alpha"] * log_n)
    data = values["B"] * np.exp(-values["beta"] * log_d)
    loss = values["E"] + size + data
    columns = [
        np.full_like(loss, values["E"]),
        size,
        data,
        -size * values["alpha"] * log_n,
        -data * values["beta"] * log_d,
    ]
    return np.log(loss), np.stack(columns, axis=1) / loss[:, None]
