"""Learning rates as a law sees them: how much has been summed up, and how much was given up how long ago."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from lightning_scaling.laws.base import Law

Array = NDArray[np.float64]

_MOST = 4000
_RATIO = 2.0
_RATE_RATIO = 2.5
_CELLS = 400_000
_LEAST_RATE = 1e-9
_AT_PEAK = 0.999


class Rates:
    """One schedule: stretches of equal rate, and what the laws need of them.

    A smooth decay of many steps is kept as at most 4000 stretches, each with the mean rate of its steps; jumps stay
    jumps.

    Args:
        rates: Rate of every step 1..T, shape ``(T,)``, or the stretches, shape ``(m, 2)``: number of steps and rate.
        warmup: Whether the rises up to the first peak count, as negative falls.
        what: Its name, for messages.

    Raises:
        ValueError: It is empty, not of numbers, negative, or zero throughout.
    """

    def __init__(self, rates: Any, *, warmup: bool, what: str = "rates") -> None:
        counts, rate = _stretches(rates, what)
        self.counts, self.rate = _merge(counts, rate)
        self.ends = np.cumsum(self.counts)
        self.summed = np.cumsum(self.counts * self.rate)
        change = np.arange(1 if warmup else _first_peak(self.rate) + 1, len(self.rate))
        self._drop = self.rate[change - 1] - self.rate[change]
        self._log_rate = np.log(np.maximum(self.rate[change], _LEAST_RATE * self.rate.max()))
        self._rate_cell = _cells(self._log_rate, _RATE_RATIO)
        self._after = self.ends[change - 1]
        self._before = self.summed[change - 1]

    @property
    def steps(self) -> int:
        """Number of steps."""
        return int(self.ends[-1])

    def pairs(self) -> list[list[float]]:
        """The stretches as (number of steps, rate): `rates` with which this schedule can be made again."""
        return [[float(count), float(rate)] for count, rate in zip(self.counts, self.rate, strict=True)]

    def sum_to(self, steps: Array) -> Array:
        """Sum of the rates of the steps up to and with each of `steps`, shape ``(n,)``."""
        return np.asarray(np.interp(steps, np.append(0.0, self.ends), np.append(0.0, self.summed)))

    def falls(self, steps: Array, *, by: str) -> tuple[Array, Array, Array]:
        """What the rate has given up before each step, how long ago, and to which rate.

        Falls whose distance from the step lies within a factor of 2, and whose rate within one of 2.5, are put together
        as two that keep their means and variances: sums over them are right to about 1 part in 100,000 of a loss, at a
        cost that does not grow with the steps.

        Args:
            steps: Shape ``(n,)``.
            by: ``"sum"``: the distance is the rate summed since the fall, that of the fall's own step included;
                ``"steps"``: it is the number of steps since, likewise.

        Returns:
            Fall, distance and logarithm of the rate fallen to, each of shape ``(n, k)``; a fall of 0 fills empty
            places.
        """
        rows = max(1, _CELLS // max(1, len(self._drop)))
        parts = [self._falls(steps[i : i + rows], by) for i in range(0, max(1, len(steps)), rows)]
        width = max(part[0].shape[1] for part in parts)
        fill = (0.0, 1.0, 0.0)
        padded = [
            [np.pad(a, ((0, 0), (0, width - a.shape[1])), constant_values=f) for a, f in zip(part, fill, strict=True)]
            for part in parts
        ]
        fall, distance, log_rate = (np.concatenate([part[i] for part in padded]) for i in range(3))
        return fall, distance, log_rate

    def _falls(self, steps: Array, by: str) -> tuple[Array, Array, Array]:
        reached, origin = (self.sum_to(steps), self._before) if by == "sum" else (steps, self._after)
        distance = reached[:, None] - origin
        happened = (distance > 0) & (steps[:, None] > self._after)
        row, change = np.nonzero(happened)
        drop, log_distance = self._drop[change], np.log(distance[row, change])
        cell = 2 * self._rate_cell[change] + (drop < 0)
        by_distance = _cells(log_distance, _RATIO)
        kinds = int(cell.max(initial=0)) + 1
        per_row = (int(by_distance.max(initial=0)) + 1) * kinds
        used, place = np.unique(row * per_row + by_distance * kinds + cell, return_inverse=True)
        owner = used // per_row
        owner, nodes = _nodes(owner, place, drop, log_distance, self._log_rate[change])
        column = np.arange(len(owner)) - np.searchsorted(owner, owner)
        shape = (len(steps), int(column.max(initial=-1)) + 1)
        result = (np.zeros(shape), np.ones(shape), np.zeros(shape))
        for array, values in zip(result, nodes, strict=True):
            array[owner, column] = values
        return result


class Scheduled(Law):
    """A law that knows the learning rate of every step.

    Args:
        rates: Rate of every step 1..T as an array, warm-up included; or a mapping from the name of each schedule to
            such an array, when points of several runs are fitted together. Stretches of equal rate may be given
            instead, shape ``(m, 2)``: number of steps and rate.

    Attributes:
        by: How the distance of a fall is measured; see :meth:`Rates.falls`.
        warmup: Whether the rises up to the first peak count, as negative falls.
        schedules: Names of the schedules, in the order in which the input `schedule` counts them; empty for a single
            one.

    Raises:
        ValueError: A schedule is empty, not of numbers, negative, or zero throughout.
    """

    units = MappingProxyType({"schedule": "number of the schedule, from 0 in the order of `rates`"})
    by: ClassVar[str] = "sum"
    warmup: ClassVar[bool] = False

    def __init__(self, rates: Any = None) -> None:
        several = isinstance(rates, Mapping)
        if several and not rates:
            raise ValueError(f"{self.name}: `rates` is an empty mapping; give at least one schedule.")
        named = dict(rates) if isinstance(rates, Mapping) else {} if rates is None else {"rates": rates}
        self._rates = tuple(
            Rates(values, warmup=self.warmup, what=f"{self.name}: rates {name!r}") for name, values in named.items()
        )
        self.schedules = tuple(map(str, named)) if several else ()
        self.inputs = ("steps", "schedule") if several else ("steps",)
        self.zero_allowed = ("schedule",) if several else ()

    def options(self) -> dict[str, Any]:
        """The schedules as stretches of equal rate."""
        if self.schedules:
            pairs = {name: rates.pairs() for name, rates in zip(self.schedules, self._rates, strict=True)}
            return {"rates": pairs}
        return {"rates": self._rates[0].pairs()} if self._rates else {}

    def features(self, x: Mapping[str, Any]) -> Mapping[str, Any]:
        """Adds ``summed``, the rate summed up to each step, and its falls: see :meth:`Rates.falls`.

        Raises:
            ValueError: The law has no rates, a step lies outside of them, or there is no schedule of that number.
        """
        if not self._rates:
            raise ValueError(
                f"{self.name} needs the learning rate of every step: make it with laws.get({self.name!r}, rates=...)."
            )
        steps = np.asarray(x["steps"], dtype=np.float64)
        if self.schedules:
            steps, number = np.broadcast_arrays(steps, np.asarray(x["schedule"], dtype=np.float64))
        else:
            number = np.zeros_like(steps)
        flat, which = steps.ravel(), number.ravel()
        self._check(flat, which)
        summed = np.empty_like(flat)
        falls: list[tuple[NDArray[np.intp], tuple[Array, Array, Array]]] = []
        for i, rates in enumerate(self._rates):
            rows = np.flatnonzero(which == i)
            summed[rows] = rates.sum_to(flat[rows])
            falls.append((rows, rates.falls(flat[rows], by=self.by)))
        shape = (len(flat), max(1, *(fall[0].shape[1] for _, fall in falls)))
        fall, distance, log_rate = np.zeros(shape), np.ones(shape), np.zeros(shape)
        for rows, parts in falls:
            for array, values in zip((fall, distance, log_rate), parts, strict=True):
                array[rows, : values.shape[1]] = values
        wide = (*steps.shape, shape[1])
        return {
            **x,
            "summed": summed.reshape(steps.shape),
            "fall": fall.reshape(wide),
            "distance": distance.reshape(wide),
            "log_rate": log_rate.reshape(wide),
        }

    def _check(self, steps: Array, number: Array) -> None:
        count = len(self._rates)
        wrong = number[~((number >= 0) & (number < count) & (number == np.floor(number)))]
        if len(wrong):
            raise ValueError(
                f"{self.name}: there is no schedule number {wrong[0]:g}; the {count} schedules are counted from 0 to "
                f"{count - 1}: {', '.join(self.schedules)}."
            )
        for i, rates in enumerate(self._rates):
            own = steps[number == i]
            beyond = own[~(own <= rates.steps)]
            if len(beyond):
                name = f"schedule {self.schedules[i]!r}" if self.schedules else "schedule"
                raise ValueError(
                    f"{self.name}: step {beyond.max():g} lies beyond the {rates.steps} steps of the {name}; give the "
                    "rates of all steps that are asked for."
                )


def column(parameter: Any) -> Any:
    """A parameter with one more axis at the end, to go with the falls; a plain number stays as it is."""
    return parameter[..., None] if hasattr(parameter, "shape") else parameter


def _stretches(rates: Any, what: str) -> tuple[Array, Array]:
    try:
        array = np.asarray(rates, dtype=np.float64)
    except (TypeError, ValueError):
        raise ValueError(f"{what}: the learning rates must be numbers, one per step.") from None
    if array.ndim == 2 and array.shape[1] == 2:
        counts, rate = array[:, 0], array[:, 1]
    elif array.ndim == 1:
        counts, rate = np.ones(len(array)), array
    else:
        raise ValueError(
            f"{what}: the learning rates must have shape (steps,), or (stretches, 2) for pairs of number of steps and "
            f"rate, but have {array.shape}."
        )
    if not len(rate) or not np.all(np.isfinite(rate) & (rate >= 0)) or not np.any(rate > 0):
        raise ValueError(f"{what}: the learning rates must be finite, not negative, and not all zero.")
    if not np.all(np.isfinite(counts) & (counts > 0)):
        raise ValueError(f"{what}: every stretch must have a positive number of steps.")
    return counts, rate


def _cells(logarithm: Array, ratio: float) -> NDArray[np.int64]:
    cell = np.floor(logarithm / np.log(ratio)).astype(np.int64)
    return np.asarray(cell - cell.min()) if len(cell) else cell


def _nodes(
    owner: NDArray[np.int64], place: NDArray[np.intp], drop: Array, log_distance: Array, log_rate: Array
) -> tuple[NDArray[np.int64], tuple[Array, Array, Array]]:
    """Every cell as two equal falls that keep mean and variance of both logarithms (Gauss's rule with two nodes)."""
    size, count = np.abs(drop), len(owner)

    def mean(values: Array) -> Array:
        return np.asarray(np.bincount(place, size * values, count) / total)

    total = np.bincount(place, size, count)
    half = 0.5 * np.bincount(place, drop, count)
    d, r = mean(log_distance), mean(log_rate)
    off_d, off_r = log_distance - d[place], log_rate - r[place]
    wide_d, wide_r = np.sqrt(mean(off_d**2)), np.sqrt(mean(off_r**2))
    wide_r = np.where(mean(off_d * off_r) < 0, -wide_r, wide_r)
    single = np.bincount(place, minlength=count) == 1
    half, wide_d, wide_r = (
        np.where(single, 2 * half, half),
        np.where(single, 0.0, wide_d),
        np.where(single, 0.0, wide_r),
    )
    twice = np.repeat(np.arange(count), np.where(single, 1, 2))
    side = np.where(np.append(True, np.diff(twice) != 0), 1.0, -1.0)
    distance: Array = np.exp(d[twice] + side * wide_d[twice])
    log_rates: Array = r[twice] + side * wide_r[twice]
    return owner[twice], (np.asarray(half[twice], dtype=np.float64), distance, log_rates)


def _first_peak(rate: Array) -> int:
    near = int(np.argmax(rate >= _AT_PEAK * rate.max()))
    falling = np.flatnonzero(np.diff(rate[near:]) < 0)
    return near + int(falling[0]) if len(falling) else len(rate) - 1


def _merge(counts: Array, rate: Array) -> tuple[Array, Array]:
    same = np.flatnonzero(np.append(True, np.diff(rate) != 0))
    counts, rate = np.add.reduceat(counts, same), rate[same]
    if len(rate) <= _MOST:
        return counts, rate
    way = np.append(0.0, np.cumsum(np.abs(np.diff(rate))))
    cell = np.minimum(np.floor(way / way[-1] * (_MOST - 1)), _MOST - 2)
    first = np.flatnonzero(np.append(True, np.diff(cell) != 0))
    total = np.add.reduceat(counts, first)
    return total, np.add.reduceat(counts * rate, first) / total
