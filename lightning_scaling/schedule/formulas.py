"""What one scheduler does to the learning rate at a tick, by its own epoch.

The formulas restate those of PyTorch 2.13 (the same since 2.1) for arrays of epochs; before a run relies on them they
are checked against real stepping of copies of its schedulers.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch.optim import lr_scheduler as lrs
from torch.optim.swa_utils import SWALR

from lightning_scaling.schedule.probe import Probe
from lightning_scaling.schedule.scheduler_copy import Replica

Array = NDArray[np.float64]
Ticks = NDArray[np.int64]
Maps = tuple[Array, Array]
"""Factors ``a`` and shifts ``b`` of ``rate <- a * rate + b``, shape ``(n,)`` each."""
Table = Callable[[Ticks], Maps]
"""The maps of consecutive ticks, or of consecutive epochs of one scheduler."""


def untouched(scheduler: Any, base: type) -> bool:
    """Whether a scheduler computes and sets its rates as its torch base class does."""
    names = ("step", "get_lr", "_update_lr", "_get_closed_form_lr", "scale_fn")
    return all(getattr(type(scheduler), name, None) is getattr(base, name, None) for name in names)


def leaf_table(scheduler: Any, replica: Replica, first: int, last: int) -> Table | None:
    """The maps of a single scheduler by its own epoch, for epochs ``first .. last``."""
    for base, build in _BUILDERS.items():
        if isinstance(scheduler, base) and untouched(scheduler, base):
            with np.errstate(all="ignore"):
                return build(scheduler, replica, first, last)
    return _function_of_epoch(scheduler, replica, first, last)


def _ratios(formula: Callable[[Any, Array], Any]) -> Callable[[Any, Replica, int, int], Table]:
    """A scheduler that multiplies the rate by a formula of its epoch."""

    def build(s: Any, replica: Replica, first: int, last: int) -> Table:
        def table(epoch: Ticks) -> Maps:
            with np.errstate(all="ignore"):
                factor = np.asarray(formula(s, epoch.astype(np.float64)), dtype=np.float64)
            return np.broadcast_to(factor, epoch.shape), np.zeros(epoch.shape)

        return table

    return build


def _values(formula: Callable[[Any, Replica, Array], Array]) -> Callable[[Any, Replica, int, int], Table]:
    """A scheduler whose rate is a formula of its epoch."""

    def build(s: Any, replica: Replica, first: int, last: int) -> Table:
        def table(epoch: Ticks) -> Maps:
            with np.errstate(all="ignore"):
                return np.zeros(epoch.shape), formula(s, replica, epoch.astype(np.float64))

        return table

    return build


def _linear(s: Any, e: Array) -> Any:
    span = s.end_factor - s.start_factor
    inside = 1.0 + span / (s.total_iters * s.start_factor + (e - 1) * span)
    return np.where(e == 0, s.start_factor, np.where(e > s.total_iters, 1.0, inside))


def _polynomial(s: Any, e: Array) -> Any:
    n = float(s.total_iters)
    return np.where(e > n, 1.0, np.power((1.0 - e / n) / (1.0 - (e - 1) / n), s.power))


def _multi_step(s: Any, e: Array) -> Any:
    milestones = np.array(sorted(s.milestones), dtype=np.float64)
    if milestones.size == 0:
        return 1.0
    counts = np.array([s.milestones[m] for m in sorted(s.milestones)], dtype=np.float64)
    at = np.minimum(np.searchsorted(milestones, e), milestones.size - 1)
    return np.where(milestones[at] == e, np.power(float(s.gamma), counts[at]), 1.0)


def _cosine(s: Any, replica: Replica, first: int, last: int) -> Table:
    period, floor, base = float(s.T_max), float(s.eta_min), float(s.base_lrs[replica.group])

    def table(epoch: Ticks) -> Maps:
        e = np.concatenate([epoch[:1] - 1, epoch]).astype(np.float64)
        with np.errstate(all="ignore"):
            height = 1 + np.cos(np.pi * e / period)
            a = height[1:] / height[:-1]
            b = floor * (1 - a)
            if e[-1] > period:
                turn = (e[:-1] - period) % (2 * period) == 0
                a[turn], b[turn] = 1.0, (base - floor) * (1 - np.cos(np.pi / period)) / 2
        return a, b

    return table


def _warm_restarts(s: Any, replica: Replica, first: int, last: int) -> Table | None:
    if not (isinstance(s.T_0, int) and isinstance(s.T_mult, int)):
        return None
    starts, lengths = [0], [s.T_0]
    while s.T_mult > 1 and starts[-1] + lengths[-1] <= last:
        starts.append(starts[-1] + lengths[-1])
        lengths.append(lengths[-1] * s.T_mult)
    start, length = np.array(starts, dtype=np.float64), np.array(lengths, dtype=np.float64)
    floor, base = float(s.eta_min), float(s.base_lrs[replica.group])

    def position(e: Array) -> tuple[Array, Array]:
        if s.T_mult == 1:
            return e % s.T_0, np.full(e.shape, float(s.T_0))
        cycle = np.searchsorted(start, e, side="right") - 1
        return e - start[cycle], length[cycle]

    now = position(np.array([max(first - 1, 0)], dtype=np.float64))
    if (s.T_cur, s.T_i) != (now[0][0], now[1][0]):
        return None  # the restarts were moved by hand, with step(epoch)

    def table(epoch: Ticks) -> Maps:
        done, of = position(epoch.astype(np.float64))
        return np.zeros(epoch.shape), floor + (base - floor) * (1 + np.cos(np.pi * done / of)) / 2

    return table


def _one_cycle(s: Any, replica: Replica, e: Array) -> Array:
    group = replica.optimizer.param_groups[replica.group]
    anneal = s._anneal_func if hasattr(s, "_anneal_func") else s.anneal_func
    curved = abs(anneal(0.0, 1.0, 0.25) - 0.25) > 1e-3
    rate = np.full(e.shape, np.nan)
    start = 0.0
    for i, phase in enumerate(s._schedule_phases):
        end = phase["end_step"]
        here = np.isnan(rate) & ((e <= end) | (i == len(s._schedule_phases) - 1)) & (e <= s.total_steps)
        share = (e - start) / (end - start)
        low, high = group[phase["start_lr"]], group[phase["end_lr"]]
        curve = high + (low - high) / 2.0 * (np.cos(np.pi * share) + 1) if curved else (high - low) * share + low
        rate = np.where(here, curve, rate)
        start = end
    return rate


def _cyclic(s: Any, replica: Replica, first: int, last: int) -> Table | None:
    group = replica.group
    low, high = float(s.base_lrs[group]), float(s.max_lrs[group])
    custom = getattr(s, "_scale_fn_custom", None)
    by_cycle = s.scale_mode == "cycle"
    probe: Probe | None = None
    if custom is not None:
        ends = [int(1 + first / s.total_size), int(1 + last / s.total_size)] if by_cycle else [first, last]
        probe = Probe.over(custom, ends[0], ends[1], replica.deadline)
        if probe is None:
            return None

    def scale(x: Array) -> Any:
        if probe is not None:
            return probe(x)
        if s.mode == "triangular2":
            return np.power(2.0, 1 - x)
        return np.power(float(s.gamma), x) if s.mode == "exp_range" else 1.0

    def table(epoch: Ticks) -> Maps:
        e = epoch.astype(np.float64)
        cycle = np.floor(1 + e / s.total_size)
        x = 1.0 + e / s.total_size - cycle
        with np.errstate(all="ignore"):
            height = (high - low) * np.where(x <= s.step_ratio, x / s.step_ratio, (x - 1) / (s.step_ratio - 1))
        return np.zeros(epoch.shape), low + height * scale(cycle if by_cycle else e)

    return table


def _averaging(s: Any, replica: Replica, first: int, last: int) -> Table | None:
    """SWALR moves a share of the way to its fixed rate, counted by steps rather than by epochs."""
    lead = s._step_count - first
    target = float(replica.optimizer.param_groups[replica.group]["swa_lr"])
    curved = abs(s.anneal_func(0.25) - 0.25) > 1e-3

    def share(step: Array) -> Array:
        t: Array = np.clip(step / max(1, s.anneal_epochs), 0.0, 1.0)
        return np.asarray((1 - np.cos(np.pi * t)) / 2) if curved else t

    def table(epoch: Ticks) -> Maps:
        step = epoch.astype(np.float64) + lead
        if s.anneal_epochs == 0:
            step = np.maximum(step, 1)
        before, after = share(step - 1), share(step)
        with np.errstate(all="ignore"):
            a = np.where(before == 1, 0.0, (1 - after) / (1 - before))
        return a, np.where(before == 1, target, target * (after - a * before))

    return table


def _lambda(s: Any, replica: Replica, first: int, last: int) -> Table | None:
    probe = Probe.over(s.lr_lambdas[replica.group], first, last, replica.deadline)
    if probe is None:
        return None
    return _probed(probe, float(s.base_lrs[replica.group]))


def _multiplicative(s: Any, replica: Replica, first: int, last: int) -> Table | None:
    # Factors compound, so they must be near exact between the probed epochs.
    probe = Probe.over(s.lr_lambdas[replica.group], first, last, replica.deadline, tolerance=1e-13)
    if probe is None:
        return None
    return lambda epoch: (probe(epoch.astype(np.float64)), np.zeros(epoch.shape))


def _function_of_epoch(s: Any, replica: Replica, first: int, last: int) -> Table | None:
    """A user's scheduler, when its rate depends on its epoch alone: it is asked out of order and from other rates."""
    if not isinstance(s, lrs.LRScheduler) or type(s).step is not lrs.LRScheduler.step:
        return None
    group = replica.optimizer.param_groups[replica.group]
    present = s.last_epoch, group["lr"]

    def ask(epoch: int, rate: float, method: Callable[[], Any]) -> float:
        s.last_epoch, group["lr"] = epoch, rate
        try:
            return float(method()[replica.group])
        finally:
            s.last_epoch, group["lr"] = present

    for name in ("get_lr", "_get_closed_form_lr"):
        method = getattr(s, name, None)
        if method is None:
            continue
        s._get_lr_called_within_step = True
        before = {key: value for key, value in vars(s).items() if isinstance(value, (int, float, str, bool))}
        try:
            asked = [
                ask(epoch, rate, method) for epoch in {first, (first + last) // 2, last} for rate in (1.0, 0.5, 1.0)
            ]
        except Exception:
            continue
        alone = all(asked[i] == asked[i + 1] == asked[i + 2] for i in range(0, len(asked), 3))
        if alone and all(vars(s)[key] == value for key, value in before.items()):
            probe = Probe.over(partial(ask, rate=1.0, method=method), first, last, replica.deadline)
            return None if probe is None else _probed(probe, 1.0)
    return None


def _probed(probe: Probe, base: float) -> Table:
    return lambda epoch: (np.zeros(epoch.shape), base * probe(epoch.astype(np.float64)))


_BUILDERS: dict[type, Callable[[Any, Replica, int, int], Table | None]] = {
    lrs.LambdaLR: _lambda,
    lrs.MultiplicativeLR: _multiplicative,
    lrs.StepLR: _ratios(lambda s, e: np.where((e % s.step_size == 0) & (e != 0), float(s.gamma), 1.0)),
    lrs.MultiStepLR: _ratios(_multi_step),
    lrs.ConstantLR: _ratios(lambda s, e: np.where(e == s.total_iters, np.divide(1.0, s.factor), 1.0)),
    lrs.LinearLR: _ratios(_linear),
    lrs.ExponentialLR: _ratios(lambda s, e: float(s.gamma)),
    lrs.PolynomialLR: _ratios(_polynomial),
    lrs.CosineAnnealingLR: _cosine,
    lrs.CosineAnnealingWarmRestarts: _warm_restarts,
    lrs.OneCycleLR: _values(_one_cycle),
    lrs.CyclicLR: _cyclic,
    SWALR: _averaging,
}
