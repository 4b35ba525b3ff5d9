"""Selection among laws by rolling-origin evaluation."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from lightning_scaling.laws.arrays import Array
from lightning_scaling.laws.base import UNITS, Law
from lightning_scaling.laws.data import column
from lightning_scaling.laws.ensemble import DEFAULT, Combination, CombinedFit, law_over
from lightning_scaling.laws.estimate import FitStatus
from lightning_scaling.laws.registry import get
from lightning_scaling.laws.registry import names as known_names
from lightning_scaling.laws.results import Fit
from lightning_scaling.laws.summary import table as aligned

Metric = Callable[[Array, Array], float]
Candidate = Law | Combination

ORIGINS = (0.4, 0.6, 0.8)
_METRICS = ("rmsle", "median_error")
_LEVEL = 0.9
_LEAST_SEEN = 3
_LACKS = "the data lack "


@dataclass(frozen=True, eq=False)
class Comparison:
    """Laws ranked by how well they forecast.

    Attributes:
        table: One row per law, best first, each a dict: ``law``, ``score`` (of the metric, the mean over origins),
            ``rmsle``, ``median_error`` (median of ``|predicted/observed - 1|``), ``coverage`` (share of the later
            points inside the 90 % interval; None where there is no interval), ``parameters``, ``status`` (of the fit
            at the last origin) and ``origins`` (one dict per origin).
        skipped: Why a law was not ranked, by name.
        laws: What was ranked, by name: ``comparison.laws[comparison.best].fit(data)`` fits the best to everything.
        by: What orders the points.
        metric: Name of the metric.
        splits: By origin: greatest value of `by` that was fitted on, points fitted on, points scored.
    """

    table: list[dict[str, Any]]
    skipped: Mapping[str, str]
    laws: Mapping[str, Candidate] = field(repr=False)
    by: str
    metric: str
    splits: tuple[tuple[float, int, int], ...]

    @property
    def best(self) -> str | None:
        """Name of the law with the least score; None when no law could be ranked."""
        return self.table[0]["law"] if self.table else None

    def summary(self) -> str:
        """The ranking as text, with what was left out and why."""
        lines = [f"Held-out error of laws fitted on the lower part of {self.by}, ranked by {self.metric}"]
        for edge, seen, later in self.splits:
            lines.append(f"  {seen} points up to {self.by} {edge:.4g}, scored on the {later} beyond")
        rows = [("law", "rmsle", "median error", "in 90 %", "parameters", "status")]
        for row in self.table:
            error, covered = f"{100 * row['median_error']:.3g} %", row["coverage"]
            inside = "" if covered is None else f"{100 * covered:.0f} %"
            rows.append((row["law"], f"{row['rmsle']:.4g}", error, inside, str(row["parameters"]), row["status"]))
        lines += ["", *(aligned(rows, right=(1, 2, 3, 4)) if self.table else ["no law could be ranked"])]
        unfit = [f"{name}: {reason}" for name, reason in self.skipped.items() if _LACKS not in reason]
        lacking = [f"{n} ({reason.removeprefix(_LACKS)})" for n, reason in self.skipped.items() if _LACKS in reason]
        if lacking:
            unfit.append(f"for lack of inputs: {', '.join(lacking)}")
        lines += ["", "not ranked"] if unfit else []
        for text in unfit:
            lines += textwrap.wrap(text, 100, initial_indent="  ", subsequent_indent="    ")
        return "\n".join(lines)


def compare(
    data: Any,
    names: Iterable[str | Law | Combination] | None = None,
    loss: str = "loss",
    by: str | None = None,
    origins: Sequence[float] = ORIGINS,
    metric: str | Metric = "rmsle",
    *,
    columns: Mapping[str, str] | None = None,
    **options: Any,
) -> Comparison:
    """Rank laws by how well they forecast points beyond those they were fitted to.

    Each law is fitted to the lower part of the points (by compute, say) and scored on the rest, at several origins:
    rolling-origin evaluation (Tashman, Int. J. Forecasting 16(4), 2000). How well a law fits the points it
    has seen says next to nothing about that, so no R2 enters. Points of equal `by` are never divided.

    Args:
        data: Mapping of arrays, DataFrame, or anything indexable by column name; columns of shape ``(n,)``. Rows whose
            loss or `by` is not positive and finite are left out.
        names: Laws by name, laws as objects, or combinations of laws; left out, every law of the catalogue that
            predicts the loss, and for single curves the combination of some.
        loss: Column of what the laws predict.
        by: Column that orders the points; left out, ``flops``, else 6 times ``params`` times ``tokens``, else the first
            input that `data` has.
        origins: Shares of the points to fit on, between 0 and 1.
        metric: ``"rmsle"``: root mean square of ``ln(predicted/observed)``; ``"median_error"``: median of
            ``|predicted/observed - 1|``; or a function of predicted and observed, less being better.
        columns: Column by input, where names differ.
        **options: For :meth:`Law.fit`, such as ``objective="least_squares"``.

    Returns:
        The ranking. Laws with too many parameters for the first origins are scored at the later ones and rank after
            those scored at all. Laws without inputs in `data`, or that cannot be fitted, are named in `skipped`.

    Raises:
        TypeError: `data` has no columns.
        ValueError: A column is missing, an origin or the metric is not one of those, or too few points are left.
        KeyError: A name is not in the catalogue.
    """
    if isinstance(metric, str) and metric not in _METRICS:
        raise ValueError(f"`metric` must be 'rmsle', 'median_error' or a function, but got {metric!r}.")
    if not len(origins) or not all(0 < q < 1 for q in origins):
        raise ValueError(f"`origins` must hold shares of the points between 0 and 1, but got {tuple(origins)!r}.")
    have = _Table(data, loss, dict(columns or {}))
    chosen, skipped = _choose(names, have, by)
    used = list(dict.fromkeys(name for candidate in chosen.values() for name in candidate.inputs))
    order, by = have.order(by, used)
    rows = {name: have.column(name) for name in used} | {loss: have.column(loss)}
    good = np.isfinite(order) & (order > 0) & np.isfinite(rows[loss]) & (rows[loss] > 0)
    if not good.any():
        raise ValueError(f"No row of `data` has a positive {loss!r} and a positive {by!r}.")
    order, rows = order[good], {name: values[good] for name, values in rows.items()}
    edges = _edges(order, origins, by)
    found: list[dict[str, Any]] = []
    for label, candidate in chosen.items():
        try:
            found.append(_evaluated(label, candidate, rows, loss, order, edges, metric, options))
        except (ValueError, np.linalg.LinAlgError) as error:
            skipped[label] = str(error)
    best = {row["law"]: math.inf if math.isnan(row["score"]) else row["score"] for row in found}
    found.sort(key=lambda row: (-len(row["origins"]), best[row["law"]], row["law"]))
    name = metric if isinstance(metric, str) else getattr(metric, "__name__", "a function")
    splits = tuple((edge, int(np.sum(order <= edge)), int(np.sum(order > edge))) for edge in edges)
    return Comparison(found, skipped, {row["law"]: chosen[row["law"]] for row in found}, by, name, splits)


def _choose(
    names: Iterable[str | Law | Combination] | None, have: _Table, by: str | None
) -> tuple[dict[str, Candidate], dict[str, str]]:
    """The candidates whose inputs the data have, and why the others are left out."""
    chosen, skipped = dict[str, Candidate](), dict[str, str]()
    for name in known_names() if names is None else [names] if isinstance(names, str) else names:
        label = name if isinstance(name, str) else name.name
        try:
            candidate = law_over(name, have.quantity(by, get(name))) if isinstance(name, str) else name
        except TypeError:
            skipped[label] = "it needs options: give it as an object"
            continue
        if names is None and candidate.output != "loss":
            continue
        if missing := [column for column in candidate.inputs if not have.has(column)]:
            skipped[label] = f"{_LACKS}{', '.join(missing)}"
        else:
            chosen[label] = candidate
    if names is None and all(len(candidate.inputs) == 1 for candidate in chosen.values()):
        over = have.quantity(by, get(DEFAULT[0]))
        if over is not None:
            median = Combination(DEFAULT, over)
            chosen[median.name] = median
    return chosen, skipped


class _Table:
    """Columns by the names that laws use."""

    def __init__(self, data: Any, loss: str, columns: Mapping[str, str]) -> None:
        self.data, self.loss, self.names = data, loss, columns
        self.values = {loss: column(data, loss, "loss")}

    def has(self, name: str) -> bool:
        try:
            self.column(name)
        except ValueError:
            return False
        return name != self.loss

    def column(self, name: str) -> Array:
        if name not in self.values:
            values = column(self.data, self.names.get(name, name), f"input {name!r}")
            size = len(self.values[self.loss])
            if len(values) != size:
                raise ValueError(f"The column {name!r} has {len(values)} values, but {self.loss!r} has {size}.")
            self.values[name] = values
        return self.values[name]

    def order(self, by: str | None, used: Sequence[str]) -> tuple[Array, str]:
        product = not self.has("flops") and self.has("params") and self.has("tokens")
        if by is None and product:
            return 6.0 * self.column("params") * self.column("tokens"), "6*params*tokens"
        by = next(filter(self.has, ("flops", *used, *UNITS)), None) if by is None else by
        if by is not None:
            return self.column(by), by
        raise ValueError("`data` has no input of any law to order the points by; name a column in `by` or `columns`.")

    def quantity(self, by: str | None, law: Law) -> str | None:
        """The input to use for a law that takes any single quantity."""
        usual = law.inputs[0]
        candidates = (usual, by or usual, "flops", "steps", "tokens", *UNITS)
        return next((name for name in candidates if (name in UNITS or name == usual) and self.has(name)), None)


def _edges(order: Array, origins: Sequence[float], by: str) -> list[float]:
    """By origin, the greatest value that is fitted on."""
    values = np.sort(order)
    edges = []
    for share in sorted(set(origins)):
        edge = float(values[max(math.ceil(share * len(values)) - 1, 0)])
        if edge < values[-1] and np.sum(values <= edge) >= _LEAST_SEEN and edge not in edges:
            edges.append(edge)
    if not edges:
        raise ValueError(
            f"The {len(values)} points with {len(np.unique(values))} values of {by} cannot be split into points to fit "
            f"(at least {_LEAST_SEEN}) and later ones to score at `origins` {tuple(origins)}."
        )
    return edges


def _evaluated(
    label: str,
    candidate: Candidate,
    rows: Mapping[str, Array],
    loss: str,
    order: Array,
    edges: Sequence[float],
    metric: str | Metric,
    options: Mapping[str, Any],
) -> dict[str, Any]:
    """Scores of one candidate at every origin from the first at which it can be fitted.

    Raises:
        ValueError: It cannot be fitted at the last origin, or at a later one than one at which it can.
    """
    parts: list[dict[str, Any]] = []
    for edge in edges:
        seen = {name: values[order <= edge] for name, values in rows.items()}
        later = {name: values[order > edge] for name, values in rows.items()}
        try:
            fit = candidate.fit(seen, loss, **({} if isinstance(candidate, Combination) else options))
        except ValueError as error:
            if not parts and edge != edges[-1]:
                continue
            raise ValueError(f"with {len(seen[loss])} points: {error}") from None
        parts.append({"edge": edge} | _scores(fit, {n: later[n] for n in candidate.inputs}, later[loss], metric))
    covered = [part["coverage"] for part in parts if part["coverage"] is not None]
    return {
        "law": label,
        **{name: float(np.mean([part[name] for part in parts])) for name in ("score", *_METRICS)},
        "coverage": float(np.mean(covered)) if covered else None,
        "parameters": sum(len(member.params) for member in fit.members.values())
        if isinstance(fit, CombinedFit)
        else len(fit.names),
        "status": FitStatus.OK.value if isinstance(fit, CombinedFit) else fit.status.value,
        "origins": parts,
    }


def _scores(
    fit: Fit | CombinedFit, inputs: Mapping[str, Array], observed: Array, metric: str | Metric
) -> dict[str, Any]:
    predicted = np.broadcast_to(fit.predict(**inputs), observed.shape)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.where(predicted > 0, predicted / observed, np.nan)
        size = np.abs(np.log(ratio))
    bad = not np.all(np.isfinite(size))
    scores: dict[str, Any] = {
        "rmsle": math.inf if bad else float(np.sqrt(np.mean(size**2))),
        "median_error": math.inf if bad else float(np.median(np.abs(ratio - 1))),
    }
    scores["score"] = scores[metric] if isinstance(metric, str) else float(metric(predicted, observed))
    lower, upper = fit.interval(_LEVEL, **dict[str, Any](inputs))
    known = np.isfinite(lower) & np.isfinite(upper)
    inside = (lower <= observed) & (observed <= upper)
    scores["coverage"] = float(np.mean(inside[known])) if known.any() else None
    return scores
