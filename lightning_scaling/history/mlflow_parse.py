"""Conversion of an MLflow run to a :class:`~lightning_scaling.runs.run.Run`, or the reason why there is none."""

from __future__ import annotations

import contextlib
import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lightning_scaling._utils.serialization import parse_json
from lightning_scaling.history import aliases
from lightning_scaling.runs.final_loss import is_finished
from lightning_scaling.runs.run import Run
from lightning_scaling.tracking import schema

Series = tuple[NDArray[np.float64], NDArray[np.float64]]

MAX_POINTS = 300
FEWEST = 8
_HUGE = 1.7e308
_PAST_THE_END = 1.02
CURVE_LOSS, CURVE_RATE = f"{schema.ARTIFACT_CURVE}:loss", f"{schema.ARTIFACT_CURVE}:lr"


@dataclass(frozen=True)
class Info:
    """An MLflow run as a search gives it.

    Attributes:
        run_id: Its id.
        name: Its name.
        status: ``"FINISHED"``, ``"RUNNING"``, ``"FAILED"``, ``"KILLED"`` or ``"SCHEDULED"``.
        end: When it ended, in milliseconds since 1970; ``None`` for one that has not.
        artifacts: Where its artifacts lie.
        params: Its params.
        tags: Its tags, those of MLflow itself left out.
        metrics: The last value of each metric.
        start: When it began, in milliseconds since 1970; ``None`` where that is not known.
    """

    run_id: str
    name: str
    status: str
    end: int | None
    artifacts: str
    params: Mapping[str, str] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)
    start: int | None = None

    @property
    def ended(self) -> bool:
        """Whether nothing more is to come."""
        return self.end is not None and self.status in ("FINISHED", "FAILED", "KILLED")

    def labels(self, wanted: Sequence[str]) -> dict[str, str]:
        """The tags and params among the wanted names, tags first."""
        found = {name: self.tags.get(name, self.params.get(name, "")) for name in wanted}
        return {name: value for name, value in found.items() if value}


@dataclass(frozen=True)
class Experiment:
    """An experiment.

    Attributes:
        id: Its id.
        name: Its name.
        tags: Its tags.
    """

    id: str
    name: str
    tags: Mapping[str, str] = field(default_factory=dict)


class SkippedError(Exception):
    """A run that says nothing; the message is the reason, in words that runs share."""


@dataclass(frozen=True)
class Reading:
    """How runs are read: under which names, and at which resolution.

    Attributes:
        losses: Names of the loss, in order of preference.
        rates: Names of the learning rate.
        family: Names of the tags and params that make up the family; ``None`` for :data:`aliases.FAMILY`, of which the
            first one found is the family.
        max_points: Points kept of a curve; ``None`` keeps all.
    """

    losses: tuple[str, ...] = aliases.LOSSES
    rates: tuple[str, ...] = aliases.RATES
    family: tuple[str, ...] | None = None
    max_points: int | None = MAX_POINTS

    def loss_of(self, info: Info) -> str | None:
        """Name of the metric that holds the loss of a run; ``scaling/loss`` when that is what it followed."""
        followed, has_ours = info.params.get(schema.PARAM_MONITOR), schema.LOSS in info.metrics
        for name in self.losses:
            if name == schema.LOSS:
                if has_ours and (not followed or self.losses == (schema.LOSS,)):
                    return name
            elif name == followed and has_ours:
                return schema.LOSS
            elif name in info.metrics:
                return name
        # when any loss will do, so does a metric that the run followed
        return schema.LOSS if has_ours and self.losses == aliases.LOSSES else None

    def wanted(self, info: Info) -> tuple[str, ...]:
        """The metrics to read of a run, loss first; none if it logged no loss."""
        loss = self.loss_of(info)
        if loss is None:
            return ()
        order = self.rates if loss == schema.LOSS else [*(n for n in self.rates if n != schema.LR), schema.LR]
        rate = next((name for name in order if name in info.metrics), None)
        return (loss,) if rate is None else (loss, rate)

    def family_of(self, info: Info) -> str | None:
        """The family named by the run's own tags and params; ``None`` if there is none.

        Raises:
            SkippedError: If a name asked for is missing.
        """
        if self.family is None:
            return next(iter(info.labels(aliases.FAMILY).values()), None)
        found = info.labels(self.family)
        missing = [name for name in self.family if name not in found]
        if missing:
            raise SkippedError(f"no tag or param `{missing[0]}`")
        return found[self.family[0]] if len(found) == 1 else ", ".join(f"{key}={value}" for key, value in found.items())


def usual(step: NDArray[np.float64], value: NDArray[np.float64]) -> Series:
    """One value per step in rising order: of several, the last one; what MLflow stores for infinity is infinity."""
    last = np.append(np.diff(step) > 0, True) if step.size else np.zeros(0, dtype=bool)
    step, value = step[last], value[last]
    return step, np.where(np.abs(value) > _HUGE, np.copysign(np.inf, value), value)


def thinned(series: Series, most: int | None) -> Series:
    """At most so many points: the means of the finite values of bins, narrow ones at the start; ``inf`` for the rest.

    A bin of which half the values are not finite is one that is not finite.
    """
    step, value = series
    if most is None or step.size <= most:
        return series
    share = np.linspace(0, 1, most + 1)[1:]
    # as many points as steps allow at first, then ever more values per point, evenly spaced from the middle on
    ends = np.unique(np.ceil(step.size * share ** (1 + (1 - share))).astype(int))
    starts = np.concatenate([[0], ends[:-1]])
    finite = np.isfinite(value)
    count = np.add.reduceat(finite, starts).astype(np.float64)
    size = ends - starts
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = np.add.reduceat(np.where(finite, value, 0.0), starts) / count
        place = np.rint(np.add.reduceat(step, starts) / size)
    mean = np.where(count * 2 > size, mean, np.inf)
    place[-1] = step[-1]
    return place, mean


def to_run(info: Info, series: Mapping[str, Series], reading: Reading, experiment: str) -> tuple[Run, list[str]]:
    """The run, and what it lacks.

    Args:
        info: The run as the search gave it.
        series: Its metrics, at least those of :meth:`Reading.wanted`, or its curve under :data:`CURVE_LOSS`.
        reading: How it is read.
        experiment: Name of its experiment, the family of runs that name none.

    Returns:
        The run, and the lacks in words that runs share.

    Raises:
        SkippedError: If there is nothing to learn from it.
    """
    wanted = reading.wanted(info)
    if not wanted:
        raise SkippedError("no loss")
    ours = wanted[0] == schema.LOSS
    family = reading.family_of(info) or experiment
    if ours and CURVE_LOSS in series:
        (step, loss), rates = series[CURVE_LOSS], series.get(CURVE_RATE)
    else:
        step, loss = series.get(wanted[0], (np.empty(0), np.empty(0)))
        rates = series.get(wanted[1]) if len(wanted) > 1 else None
        if ours:
            step, loss = _centred(step + 1, loss)
            rates = None if rates is None else (rates[0] + 1, rates[1])
    last = int(step[-1]) if step.size else 0
    if np.count_nonzero(np.isfinite(loss)) < FEWEST:
        raise SkippedError("too few losses" if step.size < FEWEST else "losses that are not finite")
    if not math.isfinite(loss[-1]):
        raise SkippedError("the loss is not finite at its end")
    total = _total(info, last)
    if np.any(step < 0) or np.any(np.diff(step) <= 0):
        raise SkippedError("steps that do not rise")
    params = _count(aliases.PARAMS, info.params, info.metrics)
    lr = _rates_at(step, rates)
    running = info.status == "RUNNING"
    lacks = {
        "still running": running,
        "ended before its plan did": not running and not is_finished(last, total),
        "no parameter count": params is None,
        "no learning rate": lr is None,
    }
    logged = info.metrics if ours else {}
    tokens = logged.get(schema.TOKENS) or logged.get(schema.SAMPLES)
    run = Run(
        step,
        np.where(np.isfinite(loss), loss, np.inf),
        lr,
        total_steps=total,
        params=params,
        tokens_per_step=_each(tokens, last),
        flops_per_step=_each(logged.get(schema.FLOPS), last),
        family=family,
        name=info.name or info.run_id,
        meta={
            "run_id": info.run_id,
            "status": info.status,
            "metric": info.params.get(schema.PARAM_MONITOR) or schema.LOSS if ours else wanted[0],
            "steps": "optimizer steps" if ours else "steps as logged",
            "start_time": info.start,
            "end_time": info.end if info.ended else None,
            **(_forecasts(info) if ours else {}),
        },
    )
    return run, [lack for lack, holds in lacks.items() if holds]


def _forecasts(info: Info) -> dict[str, Any]:
    """The forecasts that its own monitor made while it trained, where it left them."""
    try:
        return {"forecasts": parse_json(info.tags[schema.TAG_FORECASTS])}
    except (KeyError, ValueError):
        return {}


def _centred(step: NDArray[np.float64], loss: NDArray[np.float64]) -> Series:
    """Means since the point before, put in the middle of what they cover; the last one stays where the run ended."""
    if step.size < 2:
        return step, loss
    middle = np.rint((np.concatenate([[0.0], step[:-1]]) + 1 + step) / 2)
    middle[-1] = step[-1]
    return middle, loss


def _total(info: Info, last: int) -> int:
    planned = _count(aliases.TOTAL_STEPS, info.params)
    if planned is not None and last <= _PAST_THE_END * planned:
        return max(planned, last)
    if info.status == "FINISHED":
        return max(last, 1)
    raise SkippedError("not finished, and its planned length is not known")


def _count(names: Sequence[str], *places: Mapping[str, str | float]) -> int | None:
    """The first number of at least 1 under one of the names."""
    for name, place in itertools.product(names, places):
        with contextlib.suppress(ValueError):
            value = float(place.get(name, 0))
            if math.isfinite(value) and value >= 1:
                return int(value)
    return None


def _rates_at(step: NDArray[np.float64], rates: Series | None) -> NDArray[np.float64] | None:
    if rates is None:
        return None
    known = np.isfinite(rates[1])
    return np.interp(step, rates[0][known], rates[1][known]) if known.any() else None


def _each(total: float | None, steps: int) -> float | None:
    return total / steps if total is not None and math.isfinite(total) and total > 0 and steps else None
