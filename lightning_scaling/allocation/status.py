"""Status of an allocation, with the message that explains it."""

from __future__ import annotations

import math

import numpy as np

from lightning_scaling._utils.formatting import count
from lightning_scaling.allocation.comparison import Agreement, Comparison
from lightning_scaling.allocation.result import Alternative, Status
from lightning_scaling.allocation.solve import Bounds, Optimum
from lightning_scaling.allocation.task import Task
from lightning_scaling.laws.estimate import FitStatus
from lightning_scaling.laws.results import Fit

_FAR = 10.0
_UNSURE = 0.05


def extrapolation_of(fit: Fit, task: Task, best: Optimum) -> float:
    """How far size and data lie outside of the ranges fitted on, as a factor."""
    ranges = fit.ranges
    factors = [
        max(value / ranges[name][1], ranges[name][0] / value, 1.0)
        for name, value in ((task.size, float(best.size[0])), ("tokens", float(best.tokens[0])))
        if name in ranges and ranges[name][0] > 0 and value > 0
    ]
    return max(factors) if factors else math.nan


def assess(
    fit: Fit,
    task: Task,
    best: Optimum,
    alternatives: tuple[Alternative, ...],
    comparison: Comparison | None,
    extrapolation: float,
    limits: Bounds,
    asked: tuple[str, ...],
    target: float | None,
) -> tuple[Status, str]:
    """The most serious status that applies, and all there is to say, gravest first."""
    found: list[tuple[Status, str]] = []
    edge = int(best.edge[0])
    if (edge and limits is None) or not math.isfinite(best.flops[0]):
        return Status.NO_OPTIMUM, _no_optimum(fit.law.name, best, asked, target)
    if comparison is not None and comparison.status == Agreement.CONTRADICT:
        found.append((Status.CONTRADICTED, comparison.message))
    if not fit.ok:
        found.append((Status.UNIDENTIFIED, f"The fit itself is {fit.status}: {fit.message}".rstrip(": ")))
    if comparison is not None and comparison.status == Agreement.DIFFER:
        found.append((Status.UNCERTAIN, comparison.message))
    if edge and limits is not None:
        end = f"lower end, {count(limits[0])}" if edge < 0 else f"upper end, {count(limits[1])}"
        found.append((Status.AT_BOUNDS, f"The best size within the bounds is their {end}."))
    if extrapolation > _FAR:
        found.append((Status.EXTRAPOLATED, f"x{extrapolation:.3g} outside of what the law was fitted on."))
    notes = [text for _, text in found]
    if 1.0 < extrapolation <= _FAR:
        notes.append(f"x{extrapolation:.3g} outside of what the law was fitted on.")
    notes += _notes(fit, task, best, alternatives, comparison)
    return (found[0][0] if found else Status.OK), " ".join(notes)


def _no_optimum(name: str, best: Optimum, asked: tuple[str, ...], target: float | None) -> str:
    if target is not None and not math.isfinite(best.flops[0]):
        return f"{name} never reaches a loss of {target:.4g}, with any budget."
    if asked == ("params",):
        side = "few" if best.edge[0] < 0 else "many"
        return f"Under {name} a model of this size is not optimal for any budget: it would want ever so {side} tokens."
    if asked == ("tokens",):
        side = "small" if best.edge[0] < 0 else "big"
        return f"Under {name} these tokens are not optimal for any budget: they would want an ever so {side} model."
    side = "smaller" if best.edge[0] < 0 else "bigger"
    return (
        f"Under {name} with these constants the loss keeps falling as the model gets {side}, so a budget has no best "
        "split: it does not weigh size against data here."
    )


def _notes(
    fit: Fit, task: Task, best: Optimum, alternatives: tuple[Alternative, ...], comparison: Comparison | None
) -> list[str]:
    notes = []
    if comparison is not None and comparison.status == Agreement.AGREE:
        notes.append(comparison.message)
    lost = float(np.mean(best.edge[1:] != 0)) if len(best.edge) > 1 else 0.0
    if lost > _UNSURE:
        notes.append(f"{lost:.0%} of the fit's draws have no optimum: its points hardly determine the split.")
    if fit.status == FitStatus.PUBLISHED:
        notes.append("Published constants hold for their own data and recipe; how uncertain this is, is unknown.")
    seen = float(best.tokens[0])
    if task.unique_tokens is not None and "unique_tokens" not in task.law.inputs and seen > task.unique_tokens:
        notes.append(
            f"{seen / task.unique_tokens:.3g} epochs, which {task.law.name} counts as if all tokens were new; "
            "data_constrained counts repeats."
        )
    notes += _ends(alternatives)
    return notes


def _ends(alternatives: tuple[Alternative, ...]) -> list[str]:
    """Whether the best of the values tried lies at the end of those tried."""
    notes = []
    for name, chosen in alternatives[0].given.items() if alternatives else ():
        tried = sorted({a.given[name] for a in alternatives})
        if len(tried) > 1 and chosen in (tried[0], tried[-1]):
            word = "smallest" if chosen == tried[0] else "largest"
            notes.append(f"Of the values tried for {name} the {word}, {chosen:g}, is best: the optimum may lie beyond.")
    return notes
