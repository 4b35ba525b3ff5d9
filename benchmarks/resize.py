"""B7: accuracy of the advice on size, fitted on the cheap budgets of isoFLOP sets and scored on the largest.

The truth is the minimum of a parabola in ln N through the near-optimal runs of the largest budget: those within 3 % of
the least loss there, and at least the five best. The loss given up is what that parabola loses at the advised size.

With ``--every`` every budget is asked about that has at least four budgets of a tenth of it and less.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Iterator

import numpy as np
from _cli import Report, main
from _ladders import Ladder, isoflops

from lightning_scaling import laws
from lightning_scaling.advice.resize.decision import Resizing
from lightning_scaling.advice.resize.state import LadderTable, ModelState
from lightning_scaling.allocation import allocate, fit_tradeoff, isoflop_minima

NEAR, FEWEST, GAP = 0.03, 5, 0.05
FACTORS, LOST = (0.77, 1.3), 0.0015
METHODS = ("ours", "minima", "plain minima", "plain surface")


def budgets(ladder: Ladder) -> list[tuple[float, float]]:
    """Least and greatest ln flops of each budget."""
    ordered = np.sort(np.log(ladder.flops))
    cuts = np.flatnonzero(np.diff(ordered) > np.log1p(GAP)) + 1
    return [(float(part[0]), float(part[-1])) for part in np.split(ordered, cuts)]


def truth(ladder: Ladder, rows: np.ndarray) -> tuple[float, float, int] | None:
    """ln of the best size, relative loss per squared ln size, and runs used; None where the runs show no minimum."""
    x, y = np.log(ladder.params[rows]), ladder.loss[rows]
    order = np.argsort(y)
    kept = order[: max(int((y <= y.min() * (1 + NEAR)).sum()), min(FEWEST, len(y)))]
    if len(np.unique(x[kept])) < 3:
        return None
    middle = x[kept].mean()
    bend, slope, level = np.polyfit(x[kept] - middle, y[kept], 2)
    if bend <= 0:
        return None
    away = -slope / (2 * bend)
    at = middle + away
    if not x[kept].min() - 0.3 < at < x[kept].max() + 0.3:
        return None
    return float(at), float(bend / (level + slope * away + bend * away**2)), len(kept)


def questions(ladder: Ladder, every: bool) -> Iterator[tuple[float, bool, np.ndarray, tuple[float, float, int]]]:
    """ln of a budget, whether it is the largest, the runs of a tenth of it and less, and the truth."""
    logs, groups = np.log(ladder.flops), budgets(ladder)
    for number, (lower, upper) in enumerate(reversed(groups)):
        if number and not every:
            return
        rows = (logs >= lower - 1e-9) & (logs <= upper + 1e-9)
        cheap = logs <= upper - np.log(10) + 1e-6
        known = truth(ladder, rows)
        enough = sum(last <= upper - np.log(10) + 1e-6 for _, last in groups) >= 4
        if known is not None and enough and cheap.sum() >= 12:
            yield float(logs[rows].mean()), number == 0, cheap, known


def advise(method: str, ladder: Ladder, rows: np.ndarray, log_flops: float) -> tuple[float, float | None]:
    """ln of the size and its standard deviation, where the method knows one."""
    size, tokens, loss, flops = (a[rows] for a in (ladder.params, ladder.tokens, ladder.loss, ladder.flops))
    if method == "ours":
        mean, sd = fit_tradeoff(size, tokens, loss, flops=flops).log_size(log_flops)
        return float(mean), float(sd)
    if method == "minima":
        mean, sd = isoflop_minima(size, loss, flops=flops).log_size(log_flops)
        return float(mean), float(sd)
    if method == "plain minima":
        return plain_minima(size, loss, flops, log_flops), None
    fit = laws.get("chinchilla").fit(ladder.take(rows), objective="least_squares")
    return float(np.log(allocate(fit, flops=float(np.exp(log_flops))).params)), None


def plain_minima(size: np.ndarray, loss: np.ndarray, flops: np.ndarray, log_flops: float) -> float:
    """Approach 2 plainly: the minimum of each budget found as the truth is, and a straight line through them."""
    logs, places = [], []
    group = Ladder("", "", size, size, flops, loss)
    for lower, upper in budgets(group):
        rows = (np.log(flops) >= lower - 1e-9) & (np.log(flops) <= upper + 1e-9)
        found = truth(group, rows)
        if found is not None:
            logs.append(np.log(flops[rows]).mean())
            places.append(found[0])
    return float(np.polyval(np.polyfit(logs, places, 1), log_flops))


def judged(every: bool, quick: bool) -> list[dict]:
    """One row per question and method."""
    rows = []
    for ladder in list(isoflops())[: 3 if quick else None]:
        for log_flops, largest, cheap, (at, bend, runs) in questions(ladder, every):
            for method in METHODS:
                if not largest and method.startswith("plain"):
                    continue
                try:
                    size, sd = advise(method, ladder, cheap, log_flops)
                except ValueError:
                    size, sd = np.nan, None
                off = size - at
                lost = bend * off**2
                rows.append(
                    {
                        "set": ladder.name,
                        "flops": float(np.exp(log_flops)),
                        "largest": largest,
                        "method": method,
                        "factor": float(np.exp(off)),
                        "lost": float(lost),
                        "inside": None if sd is None else bool(abs(off) <= 1.645 * sd),
                        "lower": None if sd is None else float(np.exp(off - 1.645 * sd)),
                        "upper": None if sd is None else float(np.exp(off + 1.645 * sd)),
                        "met": bool(FACTORS[0] <= np.exp(off) <= FACTORS[1] and lost <= LOST),
                        "runs": runs,
                    }
                )
    return rows


def advised(quick: bool) -> dict[str, list[bool]]:
    """For every run of the largest budgets, whether the advice is to resize, by how far off its size truly is."""
    resized: dict[str, list[bool]] = {"within x1.5": [], "x1.5 to x3": [], "beyond x3": [], "beyond x3, right side": []}
    for ladder in list(isoflops())[: 3 if quick else None]:
        for log_flops, _, cheap, (at, _, _) in questions(ladder, every=False):
            few = np.zeros(int(cheap.sum()))
            table = (a[cheap] for a in (ladder.params, ladder.params, ladder.tokens, ladder.loss))
            table_of_runs = LadderTable(*table, few, ladder.flops[cheap], few * np.nan, few + 1.0, 0, 0, 0)
            for row in np.flatnonzero(np.abs(np.log(ladder.flops) - log_flops) < GAP):
                present = ModelState(ladder.params[row], ladder.tokens[row], flops=ladder.flops[row])
                resizing = Resizing(present)
                resizing.table, resizing._runs = table_of_runs, [None]
                advice = resizing.advise()
                off = np.log(ladder.params[row]) - at
                where = (
                    "within x1.5" if abs(off) < np.log(1.5) else "beyond x3" if abs(off) > np.log(3) else "x1.5 to x3"
                )
                resized[where].append(bool(advice.action == "resize"))
                if where == "beyond x3" and advice.action == "resize":
                    resized["beyond x3, right side"].append(bool((advice.evidence["factor"] > 1) == (off > 0)))
    return resized


def text_of(rows: list[dict]) -> str:
    """One line per set, then the totals."""
    largest = [row for row in rows if row["largest"]]
    lines = [
        f"{'N*/N_true, loss given up':64s}" + "".join(f"{name:>17s}" for name in METHODS) + "   90 % interval of ours"
    ]
    for name in dict.fromkeys(row["set"] for row in largest):
        line = {row["method"]: row for row in largest if row["set"] == name}
        cells = "".join(
            f"x{row['factor']:.2f} {row['lost']:.2%}{'' if row['met'] else ' *'}".rjust(17)
            for row in (line[method] for method in METHODS)
        )
        ours = line["ours"]
        interval = f"{ours['lower']:.2f} to {ours['upper']:.2f}{'' if ours['inside'] else ' misses'}"
        lines.append(f"{name:64s}{cells}   {interval}")
    lines.append(f"\n* outside of x{FACTORS[0]} to x{FACTORS[1]}, or more than {LOST:.2%} of the loss given up")
    for method in METHODS:
        mine = [row for row in rows if row["method"] == method]
        top = [row for row in mine if row["largest"]]
        error = np.sqrt(np.nanmean([np.log(row["factor"]) ** 2 for row in top]))
        met = sum(row["met"] for row in top)
        text = f"{method:14s} largest budgets: {met} of {len(top)} met, rms ln factor {error:.3f}"
        if mine[0]["inside"] is not None:
            held, held_top = (np.mean([row["inside"] for row in part]) for part in (mine, top))
            text += f"; 90 % intervals hold {held_top:.0%} of these, {held:.0%} of all {len(mine)} budgets asked about"
        lines.append(text)
    return "\n".join(lines)


def report(options: argparse.Namespace) -> Report:
    """Print the table."""
    warnings.simplefilter("ignore")
    rows = judged(options.every, options.quick)
    resized = advised(options.quick)
    lines = [f"  {where:24s}{sum(those):4d} of {len(those)}" for where, those in resized.items()]
    title = "runs of the largest budgets advised to resize, by how far their size truly is off:"
    return Report(sizes=rows, advised=resized).add(text_of(rows)).add("\n".join([title, *lines]))


if __name__ == "__main__":
    main(__doc__, report, every={"action": "store_true", "help": "smaller budgets too"})
