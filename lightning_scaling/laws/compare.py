"""Which law extrapolates these points best: scores on points that a fit has not seen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lightning_scaling.laws.card import table as aligned
from lightning_scaling.laws.law import Law
from lightning_scaling.laws.points import column
from lightning_scaling.laws.registry import get, names

Array = NDArray[np.float64]

_ORIGINS = (0.4, 0.55, 0.7)
_SPARE = 3
_LEAST_HELD = 3
_LEVEL = 0.9


@dataclass(frozen=True)
class Comparison:
    """How well laws foretold points that they were not fitted to.

    Attributes:
        table: One row per law, best first: ``name``, ``rmsle`` (root mean square of the log error, mean over origins),
            ``median_error`` (of the relative error, in absolute terms), ``bias`` (median log error: above 0 the law
            says too much), ``covered`` (share of held-out points inside the 90 % interval), ``origins`` and
            ``held_out`` (how many were scored), ``status`` of the last fit.
        skipped: Laws that could not be scored, with the reason.
        by: What ordered the points.
        level: Probability of the intervals behind ``covered``.
    """

    table: list[dict[str, Any]]
    skipped: dict[str, str] = field(default_factory=dict)
    by: str = ""
    level: float = _LEVEL

    @property
    def best(self) -> str:
        """Name of the law with the least ``rmsle``.

        Raises:
            ValueError: No law could be scored.
        """
        if not self.table:
            reasons = "; ".join(f"{name}: {reason}" for name, reason in self.skipped.items())
            raise ValueError(f"No law could be scored. {reasons}".strip())
        return str(self.table[0]["name"])

    def summary(self) -> str:
        """The table as text, and what was left out."""
        rows = [("law", "rms log error", "median error", "bias", f"in {self.level:.0%} interval", "held out", "status")]
        rows += [
            (
                row["name"],
                f"{100 * row['rmsle']:.2f} %",
                f"{100 * row['median_error']:.2f} %",
                f"{100 * row['bias']:+.2f} %",
                f"{100 * row['covered']:.0f} %" if np.isfinite(row["covered"]) else "",
                f"{row['held_out']} at {row['origins']}",
                row["status"],
            )
            for row in self.table
        ]
        lines = [f"Held-out points, ordered by {self.by}; fitted on those before, scored on those after", ""]
        lines += aligned(rows, right=(1, 2, 3, 4))
        lines += [f"left out: {name}: {reason}" for name, reason in self.skipped.items()]
        return "\n".join(lines)


def compare(
    data: Any,
    names: Sequence[str | Law] | None = None,
    loss: str = "loss",
    by: str | Any = None,
    origins: Sequence[float] = _ORIGINS,
    *,
    columns: Mapping[str, str] | None = None,
    **options: Any,
) -> Comparison:
    """Rank laws by how well they foretell dearer runs, or the rest of a curve, from cheaper ones.

    The points are put in order of compute. At each origin every law is fitted to the points before it and scored on
    those after it (rolling origin; Tashman, Int. J. Forecast. 16(4), 2000). How well a law fits the points it was
    fitted to says nothing about that and is not looked at.

    Args:
        data: As in :meth:`Law.fit`.
        names: Laws, or their names; left out, all laws of the loss whose inputs `data` has.
        loss: Column of the loss.
        by: Column that orders the points, or values of shape ``(n,)``; left out, ``flops``, else params times tokens,
            else the first input of the first law.
        origins: Where to cut: share of the distinct values of `by` that is seen, each between 0 and 1.
        columns: Column by input, where names differ.
        **options: Further arguments of :meth:`Law.fit`, the same for all laws.

    Returns:
        The scores.

    Raises:
        ValueError: An origin is not between 0 and 1, `by` cannot be told, or no law fits the columns.
    """
    if not origins or not all(0 < origin < 1 for origin in origins):
        raise ValueError(f"`origins` must be shares between 0 and 1, but got {list(origins)!r}.")
    columns = dict(columns or {})
    laws, skipped = _candidates(data, names, columns)
    if not laws:
        raise ValueError(
            f"No law has all its inputs among the columns {', '.join(map(str, _columns(data)))}; rename them or use "
            "`columns`."
        )
    y = column(data, loss, "loss")
    order, told = _order(data, by, laws[0], columns, len(y))
    usable = np.isfinite(order) & np.isfinite(y) & (y > 0)
    rows = []
    for law in laws:
        inputs = {name: column(data, columns.get(name, name), f"input {name!r}") for name in law.inputs}
        row = _score(law, inputs, y, order, usable, origins, options)
        if isinstance(row, str):
            skipped[law.name] = row
        else:
            rows.append(row)
    rows.sort(key=lambda row: float(row["rmsle"]))
    return Comparison(rows, skipped, told)


def _columns(data: Any) -> list[Any]:
    return list(data.keys() if hasattr(data, "keys") else getattr(data, "columns", []))


def _candidates(
    data: Any, wanted: Sequence[str | Law] | None, columns: Mapping[str, str]
) -> tuple[list[Law], dict[str, str]]:
    there = set(_columns(data))
    found: list[Law] = []
    skipped: dict[str, str] = {}
    for item in wanted if wanted is not None else names():
        law = item if isinstance(item, Law) else get(item)
        lacking = [name for name in law.inputs if columns.get(name, name) not in there]
        if lacking:
            if wanted is not None:
                skipped[law.name] = f"no column for {', '.join(lacking)}"
        elif wanted is not None or (law.output == "loss" and {"single run", "ladder"} & law.tags):
            found.append(law)
    return found, skipped


def _order(data: Any, by: Any, law: Law, columns: Mapping[str, str], count: int) -> tuple[Array, str]:
    def has(name: str) -> bool:
        return columns.get(name, name) in _columns(data)

    def values(name: str) -> Array:
        return column(data, columns.get(name, name), f"order {name!r}")

    if by is not None and not isinstance(by, str):
        given = np.asarray(by, dtype=np.float64)
        if given.shape != (count,):
            raise ValueError(f"`by` must have one value per point ({count}), but has shape {given.shape}.")
        return given, "the given values"
    if by is not None:
        return values(by), by
    if has("flops"):
        return values("flops"), "flops"
    if has("params") and has("tokens"):
        return values("params") * values("tokens"), "params x tokens"
    return values(law.inputs[0]), law.inputs[0]


def _score(
    law: Law,
    inputs: Mapping[str, Array],
    y: Array,
    order: Array,
    usable: NDArray[np.bool_],
    origins: Sequence[float],
    options: Mapping[str, Any],
) -> dict[str, Any] | str:
    steps = np.unique(order[usable])
    squares: list[float] = []
    errors: list[Array] = []
    inside: list[Array] = []
    status, reason = "", "too few points before or after every origin"
    for origin in origins:
        cut = steps[min(int(origin * len(steps)), len(steps) - 1)]
        seen, held = usable & (order < cut), usable & (order >= cut)
        if seen.sum() < len(law.parameters) + _SPARE or held.sum() < _LEAST_HELD:
            continue
        try:
            fit = law.fit({**{k: v[seen] for k, v in inputs.items()}, "y": y[seen]}, "y", **options)
        except ValueError as error:
            reason = str(error)
            continue
        there = {name: values[held] for name, values in inputs.items()}
        with np.errstate(all="ignore"):
            error_ = np.log(fit.predict(**there)) - np.log(y[held])
            low, high = fit.interval(_LEVEL, **there)
        if not np.all(np.isfinite(error_)):
            reason = "it has no finite positive value at the held-out points"
            continue
        squares.append(float(np.sqrt(np.mean(error_**2))))
        errors.append(error_)
        inside.append(np.where(np.isfinite(low + high), (low <= y[held]) & (y[held] <= high), np.nan))
        status = fit.status
    if not squares:
        return reason
    every, covered = np.concatenate(errors), np.concatenate(inside)
    return {
        "name": law.name,
        "rmsle": float(np.mean(squares)),
        "median_error": float(np.median(np.abs(np.expm1(every)))),
        "bias": float(np.median(every)),
        "covered": float(np.nanmean(covered)) if np.isfinite(covered).any() else float("nan"),
        "origins": len(squares),
        "held_out": len(every),
        "status": status,
    }
