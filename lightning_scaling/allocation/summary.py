"""Allocations and minima as tables for people."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from lightning_scaling.allocation.checks import quantity

if TYPE_CHECKING:
    from lightning_scaling.allocation.choice import Choice
    from lightning_scaling.allocation.isoflop import IsoflopMinima
    from lightning_scaling.allocation.result import Allocation


def _flops(value: float) -> str:
    return f"{value:.3g}"


def _loss(value: float) -> str:
    return f"{value:.4f}"


def _plain(value: float) -> str:
    return f"{value:.3g}"


_ROWS = (
    ("params", quantity),
    ("tokens", quantity),
    ("flops", _flops),
    ("loss", _loss),
    ("ratio", _plain),
    ("exponent", _plain),
)
_TITLES = {"ratio": "tokens per parameter", "exponent": "exponent of size"}


def _waste(off: tuple[float, Choice]) -> str:
    factor, choice = off
    known = math.isfinite(choice.extra_compute)
    return f"x{factor:g}: {choice.extra_compute:.0%}" if known else f"x{factor:g}: it leaves no tokens"


def allocation_rows(found: Allocation) -> list[tuple[str, str, str]]:
    """Name, value and interval of everything an allocation says, as text."""
    intervals = found.intervals()
    fixed = {name for name, ends in intervals.items() if ends is not None and ends[0] == ends[1]}
    rows = []
    for name, show in _ROWS:
        ends = intervals[name]
        title = "active params" if name == "params" and found.size == "active_params" else _TITLES.get(name, name)
        told = "unknown" if ends is None else "given" if name in fixed else f"{show(ends[0])} to {show(ends[1])}"
        rows.append((title, show(getattr(found, name)), told))
    if found.epochs is not None:
        rows.append(
            ("epochs", f"{found.epochs:.3g}", f"of {quantity(found.unique_tokens or math.nan)} distinct tokens")
        )
    if found.inference_tokens:
        share = 1.0 - found.training_flops / found.flops
        rows.append(("inference", quantity(found.inference_tokens), f"tokens, {share:.0%} of the budget"))
    for name, value in found.given.items():
        tried = len({other.given.get(name) for other in found.alternatives})
        told = f"best of {tried}" if tried > 1 else "given"
        rows.append((name, f"{value:g}" if isinstance(value, int | float) else "a function", told))
    return rows


def allocation_summary(found: Allocation) -> str:
    """A table: the optimum with intervals, what being off costs, the choice, and what to know."""
    lines = [f"Allocation under {found.law}: {found.status}"]
    if found.status != "no optimum":
        lines.append(f"{'':22}{'best':>10}   {found.level:.0%} interval")
        lines += [f"{name:22}{value:>10}   {ends}" for name, value, ends in allocation_rows(found)]
    return "\n".join([*lines, *remarks(found)])


def remarks(found: Allocation) -> list[str]:
    """What being off costs, the choice, the alternatives, and what to know: a line each."""
    lines = []
    if found.status != "no optimum":
        lines.append(f"Compute wasted by a model too big by {', '.join(map(_waste, found.misallocation.items()))}")
        if found.choice is not None:
            lines.append(f"The choice: {found.choice}.")
        for other in found.alternatives[1:]:
            values = ", ".join(f"{name} {value:g}" for name, value in other.given.items())
            lines.append(
                f"Instead with {values}: {quantity(other.params)} on {quantity(other.tokens)} tokens, "
                f"{other.flops:.3g} FLOPs, loss {other.loss:.4f}"
            )
    return [*lines, found.message] if found.message else lines


def minima_summary(minima: IsoflopMinima) -> str:
    """A table: one line per budget, then the power law."""
    lines = [
        f"IsoFLOP minima: {minima.status}",
        f"{'flops':>10}{'params':>10}{'+-':>7}{'tokens':>10}{'loss':>9}{'runs':>6}",
    ]
    rows = zip(
        minima.flops, minima.params, minima.sd, minima.tokens, minima.loss, minima.points, minima.inside, strict=True
    )
    for flops, params, sd, tokens, loss, points, inside in rows:
        if inside:
            lines.append(f"{flops:>10.3g}{quantity(params):>10}{sd:>7.1%}{quantity(tokens):>10}{loss:>9.4f}{points:>6}")
        else:
            lines.append(f"{flops:>10.3g}{'no minimum inside':>27}{loss:>9.4f}{points:>6}")
    if math.isfinite(minima.slope):
        error = f" +- {minima.slope_sd:.3f}" if math.isfinite(minima.slope_sd) else ""
        lower, upper = minima.exponent_interval()
        lines.append(f"params = {minima.coefficient:.4g} * flops^{minima.slope:.4f}{error} over all budgets")
        lines.append(
            f"exponent at {minima.flops[-1]:.3g} FLOPs: {minima.exponent:.3f} (90%: {lower:.3f} to {upper:.3f})"
        )
    if minima.message:
        lines.append(minima.message)
    return "\n".join(lines)
