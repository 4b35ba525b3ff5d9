"""Comparison of the optimum of a fitted law with the isoFLOP minima of the runs."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lightning_scaling._utils.enums import StrEnum
from lightning_scaling._utils.formatting import count
from lightning_scaling._utils.validation import positive, probability
from lightning_scaling.allocation.drifting_power_law import normal_quantile
from lightning_scaling.allocation.isoflop import IsoflopMinima, MinimaStatus, isoflop_minima
from lightning_scaling.allocation.solve import Values, at_flops, parameter_rows
from lightning_scaling.allocation.task import PerToken, Task, size_input
from lightning_scaling.laws.results import Fit

Array = NDArray[np.float64]

NEAR = 1.5
"""Factor between two optimal sizes up to which following the wrong one costs about 6 % of the compute at most."""

_RECENT = math.log(10.0)
_LEVEL = 0.9


class Agreement(StrEnum):
    """Verdict of a comparison."""

    AGREE = "agree"
    DIFFER = "differ"
    CONTRADICT = "contradict"
    UNKNOWN = "unknown"


@dataclass(frozen=True, eq=False)
class Comparison:
    """Optimal size at one budget by two approaches.

    Attributes:
        flops: The budget.
        surface: Optimal size by the fitted law.
        measured: Optimal size by the minima of the runs and their trend.
        factor: `surface` over `measured`.
        surface_interval: 90 % interval of `surface`, or None where the fit knows no error.
        measured_interval: 90 % interval of `measured`.
        in_range: Geometric mean of the law's optimal size over the measured minimum, in the last decade of the budgets
            run: how wrong the law is where nothing is extrapolated.
        surface_exponent: d ln params / d ln flops by the law, at the budget.
        measured_exponent: The same by the minima, at the largest budget run.
        status: ``"agree"``: within a factor 1.5 and the intervals overlap. ``"contradict"``: more than a factor 1.5
            apart with intervals that do not overlap, or the law misses the minima within the range of the runs by more
            than that: no advice on size can be built on it. ``"differ"``: in between. ``"unknown"``: one of the two has
            no optimum.
        message: The same in a sentence with numbers.
        minima: The minima compared with.
    """

    flops: float
    surface: float
    measured: float
    factor: float
    surface_interval: tuple[float, float] | None
    measured_interval: tuple[float, float]
    in_range: float
    surface_exponent: float
    measured_exponent: float
    status: Agreement
    message: str
    minima: IsoflopMinima

    def shifts(self, level: float = 0.9) -> tuple[float, float]:
        """Ends of the measured interval over the law's optimum: what to multiply the latter by to get there."""
        lower, upper = self.minima.interval(self.flops, probability("level", level))
        return lower / self.surface, upper / self.surface

    def to_dict(self) -> dict[str, Any]:
        """The comparison as builtins: its attributes by name, without the minima."""
        result = {name: value for name, value in vars(self).items() if name != "minima"}
        result["status"] = self.status.value
        for name in ("surface_interval", "measured_interval"):
            result[name] = list(result[name]) if result[name] is not None else None
        return result


def compare_approaches(
    fit: Fit,
    minima: IsoflopMinima | None = None,
    flops: float | None = None,
    *,
    unique_tokens: float | None = None,
    given: Mapping[str, Any] | None = None,
    flops_per_token: PerToken | None = None,
) -> Comparison:
    """Hold the optimum of a fitted law (approach 3 of Hoffmann et al. 2022) against isoFLOP minima (approach 2).

    Neither is safe alone: a surface fitted to runs far from the optimum bends to them, and minima fail where budgets
    are few or grids off-centre. Where both agree the advice can be trusted; where they contradict there is none.

    Args:
        fit: The fitted law.
        minima: From :func:`isoflop_minima`; left out, those of the fit's own points.
        flops: Training budget to compare at; left out, ten times the largest budget of the minima.
        unique_tokens: Distinct tokens, for laws that count repeats.
        given: Values of the law's other inputs.
        flops_per_token: As for :func:`lightning_scaling.allocation.allocate`.

    Returns:
        Both optima, their factor and a verdict.

    Raises:
        ValueError: There are no minima to compare with, or the law needs inputs that are not given.
    """
    if minima is None and (minima := minima_of(fit, flops_per_token)) is None:
        raise ValueError(
            "The fit has no points from which isoFLOP minima could be read (params and tokens, several sizes at each "
            "of at least three budgets); pass `minima`."
        )
    budget = 10 * float(minima.flops[-1]) if flops is None else positive("flops", flops)
    task = Task(fit.law, size_input(fit.law), dict(given or {}), unique_tokens, 0.0, flops_per_token)
    rows, vary = parameter_rows(fit.params, fit.draws())
    return compare(task, rows, vary, minima, budget)


def compare(task: Task, values: Values, vary: bool, minima: IsoflopMinima, flops: float) -> Comparison:
    """The comparison for estimates (first row) and draws; see :func:`compare_approaches`."""
    best = at_flops(task, values, np.full((len(next(iter(values.values()))), 1), flops), None)
    surface = float(best.size[0]) if best.edge[0] == 0 else math.nan
    measured = float(minima.params_at(flops))
    drawn = np.quantile(best.size[1:], [(1 - _LEVEL) / 2, (1 + _LEVEL) / 2]).tolist() if vary else None
    in_range, in_range_sd = _in_range(task, {name: value[:1] for name, value in values.items()}, minima)
    made = Comparison(
        flops=flops,
        surface=surface,
        measured=measured,
        factor=surface / measured,
        surface_interval=drawn and (drawn[0], drawn[1]),
        measured_interval=minima.interval(flops, _LEVEL),
        in_range=in_range,
        surface_exponent=float(best.exponent[0]),
        measured_exponent=minima.exponent,
        status=Agreement.UNKNOWN,
        message="",
        minima=minima,
    )
    status, message = _verdict(made, in_range_sd)
    return replace(made, status=status, message=message)


def minima_of(fit: Fit, flops_per_token: PerToken | None = None) -> IsoflopMinima | None:
    """IsoFLOP minima of a fit's own points; None where these hold fewer than three budgets with a minimum."""
    points = fit.points
    if points is None or not {"params", "tokens"} <= set(points.inputs) or set(fit.law.inputs) != {"params", "tokens"}:
        return None
    size, tokens = points.inputs["params"], points.inputs["tokens"]
    try:
        minima = isoflop_minima(size, points.y, tokens=tokens, flops_per_token=flops_per_token)
    except ValueError:
        return None
    return minima if minima.status == MinimaStatus.OK else None


def _in_range(task: Task, values: Values, minima: IsoflopMinima) -> tuple[float, float]:
    """Geometric mean of the law's optimum over the minima in their last decade, and the sd of its logarithm."""
    recent = minima.inside & (np.log(minima.flops[-1] / minima.flops) <= _RECENT)
    if not np.any(recent):
        return math.nan, math.nan
    budgets = minima.flops[recent][:, None]
    rows = {name: np.repeat(value, len(budgets), axis=0) for name, value in values.items()}
    best = at_flops(task, rows, budgets, None)
    away = np.log(best.size / minima.params[recent])
    variance = np.maximum(minima.sd[recent], 0.02) ** 2
    weights = 1.0 / variance / (1.0 / variance).sum()
    return float(np.exp(weights @ away)), float(np.sqrt(weights**2 @ variance))


def _verdict(c: Comparison, in_range_sd: float) -> tuple[Agreement, str]:
    if not (math.isfinite(c.surface) and math.isfinite(c.measured)):
        missing = "the law has no optimum" if not math.isfinite(c.surface) else "the runs show no minimum"
        return Agreement.UNKNOWN, f"At {c.flops:.3g} FLOPs {missing}, so there is nothing to compare."
    first, last = c.measured_interval
    said = (
        f"At {c.flops:.3g} FLOPs the law's optimum is {count(c.surface)} parameters, that of the isoFLOP minima "
        f"{count(c.measured)} (90%: {count(first)} to {count(last)})"
    )
    lower, upper = c.surface_interval or (c.surface, c.surface)
    apart, far = lower > last or upper < first, abs(math.log(c.factor)) > math.log(NEAR)
    if abs(math.log(c.in_range)) - normal_quantile(_LEVEL) * in_range_sd > math.log(NEAR):
        return Agreement.CONTRADICT, (
            f"{said}; already within the range of the runs, up to {c.minima.flops[-1]:.3g} FLOPs, the law's optimum is "
            f"x{c.in_range:.2g} the measured one. Fit it with weights on the runs near the optimum, or another law."
        )
    if far and apart:
        return Agreement.CONTRADICT, f"{said}: they contradict each other, so neither is advice."
    if far or apart:
        return Agreement.DIFFER, f"{said}: they differ by x{c.factor:.2g}; the interval holds both."
    return Agreement.AGREE, f"{said}: they agree."
