"""Coverage of confidence intervals: planted parameters, simulated noise, every law of the catalogue.

For every law with a planted case in ``tests/laws``, many noisy tables are drawn and the 90 % interval of every
parameter is asked whether it holds the planted value: by the profile of all tables at once; for fewer tables through
``Law.fit(...).conf_int(0.9)``, with least squares and with the default objective; and by the bootstrap for three laws.

    python benchmarks/coverage.py [--law NAME ...] [--json] [--quick]
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pandas as pd
from _cli import Report, main
from scipy.stats import t as student

from lightning_scaling.laws.options import Settings
from lightning_scaling.laws.problem import Problem
from lightning_scaling.laws.solvers.objectives import Objective

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "laws"))

from planted import CASES, Case

LEVEL = 0.9
RESAMPLED = ("chinchilla", "m2", "clark")
FAR = 3.5
SLOW = {"multi_power": 4}


def error(draws: int) -> float:
    """Standard deviation of a share of `draws` whose true value is the level."""
    return float(np.sqrt(LEVEL * (1 - LEVEL) / draws))


def profiled(case: Case, draws: int, seed: int) -> np.ndarray:
    """Whether the profile interval of each parameter holds the planted value, shape ``(draws, parameters)``.

    It does where holding the parameter there raises the objective by no more than chance allows. All tables are fitted
    together, from the planted values.
    """
    law = case.law
    clean = law.evaluate(case.truth, **case.inputs)
    e = case.noise * np.random.default_rng([7, seed]).standard_normal((draws, len(clean)))
    y = clean * np.exp(e) if law.space == "log" else clean + e * np.std(clean)
    problem = Problem(law, case.inputs, y, np.ones(len(clean)), Settings(Objective("least_squares"), law.space))
    truth = problem.to_coordinates(np.array([case.truth[p.name] for p in problem.free]))
    ends = problem.descend(np.tile(truth, (draws, 1)))
    dof = problem.size - len(truth)
    allowed = student.ppf((1 + LEVEL) / 2, dof) ** 2 * ends.value / dof
    held = np.empty((draws, len(truth)), dtype=bool)
    for j in range(len(truth)):
        lower, upper = np.tile(problem.lower, (draws, 1)), np.tile(problem.upper, (draws, 1))
        lower[:, j] = upper[:, j] = truth[j]
        held[:, j] = problem.descend(ends.u, lower=lower, upper=upper).value - ends.value <= allowed
    return held


def asked(case: Case, draws: int, seed: int, **how: object) -> tuple[np.ndarray, int]:
    """The same through the public interface, and how many tables gave some parameter no interval.

    A parameter without an interval counts as not held.
    """
    held, without = [], 0
    for draw in range(draws):
        fit = case.law.fit(case.seen(noise=case.noise, seed=100_000 * (seed + 1) + draw), **how)
        ends = fit.conf_int(LEVEL)
        without += any(np.isnan(ends[name]).any() for name in case.truth)
        held.append([ends[name][0] <= case.truth[name] <= ends[name][1] for name in case.truth])
    return np.array(held), without


def row_of(name: str, seed: int, draws: int, public: int, default: int) -> dict:
    """The shares of one law."""
    case = CASES[name]
    by_profile = profiled(case, draws, seed).mean(axis=0)
    row = {
        "law": name,
        "parameters": len(case.truth),
        "points": len(next(iter(case.inputs.values()))),
        "noise": case.noise,
        "least": float(by_profile.min()),
        "greatest": float(by_profile.max()),
        "mean": float(by_profile.mean()),
        "far": int(np.sum(np.abs(by_profile - LEVEL) > FAR * error(draws))),
    }
    for what, count, objective in (("squares", public, "least_squares"), ("huber", default, "huber")):
        if count:
            held, without = asked(case, max(2, count // SLOW.get(name, 1)), seed, objective=objective)
            shares = held.mean(axis=0)
            row |= {
                f"{what}_least": float(shares.min()),
                f"{what}_greatest": float(shares.max()),
                f"{what}_mean": float(shares.mean()),
                f"{what}_none": without,
            }
    return row


def resampled(name: str, seed: int, draws: int, refits: int) -> dict:
    """The shares of one law by the bootstrap."""
    held, _ = asked(CASES[name], draws, seed, objective="least_squares", bootstrap=refits)
    shares = held.mean(axis=0)
    return {
        "law": name,
        "draws": draws,
        "refits": refits,
        "least": float(shares.min()),
        "greatest": float(shares.max()),
        "mean": float(shares.mean()),
    }


def overall(table: pd.DataFrame, draws: dict[str, int]) -> list[dict]:
    """The shares over all parameters of all laws; the spread between laws gives their error."""
    rows = []
    for prefix, what in (
        ("", "profile, all at once"),
        ("squares_", "fit and conf_int, least squares"),
        ("huber_", "fit and conf_int, default (Huber .001)"),
    ):
        if f"{prefix}mean" not in table:
            continue
        seen = table.dropna(subset=[f"{prefix}mean"])
        spread = float(seen[f"{prefix}mean"].std()) if len(seen) > 1 else error(draws[prefix])
        rows.append(
            {
                "by": what,
                "laws": len(seen),
                "draws": draws[prefix],
                "error of one share": error(draws[prefix]),
                "least": float(seen[f"{prefix}least"].min()),
                "greatest": float(seen[f"{prefix}greatest"].max()),
                "mean": float(seen[f"{prefix}mean"].mean()),
                "its error": spread / np.sqrt(len(seen)),
            }
        )
    return rows


def report(args: argparse.Namespace) -> Report:
    """Run the task and print its tables."""
    draws, public, default, tables, refits = (60, 6, 4, 12, 100) if args.quick else (500, 40, 15, 100, 300)
    names = args.law or list(CASES)
    rows = []
    for seed, name in enumerate(CASES):
        if name in names:
            some = not args.quick or seed % 10 == 0
            rows.append(row_of(name, seed, draws, public * some, default * some))
    table = pd.DataFrame(rows)
    total = overall(table, {"": draws, "squares_": public, "huber_": default})
    boot = [resampled(name, seed, tables, refits) for seed, name in enumerate(RESAMPLED) if name in names]
    out = Report(**{"laws": rows, "overall": total, "bootstrap": boot})
    out.add(
        f"share of 90 % intervals that hold the planted value, least and greatest over the parameters of a law: {draws}"
        f" tables (Monte Carlo error {error(draws):.3f});\nfar: parameters more than {FAR:g} such errors from .9;"
        f" squares, huber: {public} and {default} tables through fit and conf_int (errors {error(public):.3f},"
        f" {error(default):.3f}), of multi_power a quarter as many;\n"
        "none: tables that gave some parameter no interval"
    )
    out.add(table.round(3).to_string(index=False))
    out.add(pd.DataFrame(total).round(4).to_string(index=False))
    if boot:
        out.add(f"bootstrap, least squares (error {error(tables):.3f})")
        out.add(pd.DataFrame(boot).round(3).to_string(index=False))
    return out


if __name__ == "__main__":
    main(__doc__, report, law={"nargs": "+", "choices": sorted(CASES), "help": "only these laws"})
