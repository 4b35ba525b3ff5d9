"""Sweeps among the recorded runs: groups of one compute under one schedule, of one size under several, and parts."""

from __future__ import annotations

from itertools import combinations

import numpy as np
from _data import Recorded

LEVELS = 6


def same_schedule(items: list[Recorded]) -> dict[str, list[Recorded]]:
    """The isoFLOP groups of the xlstm runs.

    Their budgets are not recorded: each size was trained on up to six amounts of tokens, which stand in nearly the same
    ratios for all sizes. So tokens are a function of the size times one of six levels, found by alternating between
    assigning and averaging.
    """
    runs = [item for item in items if item.source == "xlstm_scaling" and item.run.params]
    sizes: dict[float, list[Recorded]] = {}
    for item in runs:
        sizes.setdefault(round(item.run.params, -4), []).append(item)
    log = {item.id: float(np.log(item.run.tokens_per_step * item.run.total_steps)) for item in runs}
    level = np.log([1, 1.41, 1.65, 2.1, 2.4, 7.2])
    curve = np.array([-1.0, float(np.log(3.2e18 / 6))])
    found: dict[str, int] = {}
    for _ in range(30):
        offsets = {}
        for size, group in sizes.items():
            amounts = np.unique([log[item.id] for item in group])
            expected = float(np.polyval(curve, np.log(size)))
            best = (np.inf, (), expected)
            for chosen in combinations(range(LEVELS), len(amounts)):
                apart = amounts - level[list(chosen)]
                offset = (apart.sum() + 0.5 * expected) / (len(apart) + 0.5)
                error = float(((apart - offset) ** 2).sum() + 0.5 * (offset - expected) ** 2)
                best = min(best, (error, chosen, offset))
            offsets[size] = best[2]
            for item in group:
                found[item.id] = best[1][int(np.argmin(np.abs(amounts - log[item.id])))]
        rest = {item.id: log[item.id] - offsets[round(item.run.params, -4)] for item in runs}
        level = np.array([np.mean([rest[one] for one, at in found.items() if at == n]) for n in range(LEVELS)])
        level -= level[0]
        curve = np.polyfit(np.log(list(offsets)), list(offsets.values()), 2)
    groups: dict[str, list[Recorded]] = {}
    for item in runs:
        groups.setdefault(f"xlstm {found[item.id] + 1}", []).append(item)
    return dict(sorted(groups.items()))


def mixed_schedules(items: list[Recorded]) -> dict[str, list[Recorded]]:
    """Runs of one family, size and length under at least two schedules."""
    groups: dict[tuple, list[Recorded]] = {}
    for item in items:
        if item.source in ("multipowerlaw", "haegele_schaipp", "supercollapse"):
            groups.setdefault((item.family, item.run.params, item.run.total_steps), []).append(item)
    return {
        f"{family} {(size or 0) / 1e6:.0f}M {length}": group
        for (family, size, length), group in sorted(groups.items(), key=str)
        if len({item.schedule for item in group}) > 1
    }


def parts(groups: dict[str, list[Recorded]], count: int, least: int) -> dict[str, list[Recorded]]:
    """Sweeps of 30 to 90 % of the runs of each group in turn, but of at least so many, drawn at random."""
    rng = np.random.default_rng(0)
    found = {}
    for n in range(count):
        name, group = list(groups.items())[n % len(groups)]
        size = min(max(least, round(len(group) * rng.uniform(0.3, 0.9))), len(group))
        found[f"{name}, part {n}"] = [group[i] for i in sorted(rng.choice(len(group), size, replace=False))]
    return found
