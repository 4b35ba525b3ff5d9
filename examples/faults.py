"""Break small real trainings in the ways that happen, and print what the monitor said of each and when.

    python examples/faults.py              # every fault, several seeds, and healthy twins: 15 minutes on two cores
    python examples/faults.py --quick      # two faults, one seed
    python examples/faults.py --only frozen,leak --seeds 2 --json

The trainings and the faults are in `broken_runs.py`.
"""

from __future__ import annotations

import argparse
import json
import logging
import multiprocessing
import os
import statistics
import sys
import time
import warnings
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import torch
from broken_runs import FAULTS, HEALTHY, STEPS, train

from lightning_scaling import Run, RunHistory

IN_TIME = 0.15
TWINS = 4


def quiet() -> None:
    """One training thread, and nothing but this example's own table."""
    torch.set_num_threads(1)
    for name in ("lightning_scaling", "pytorch_lightning", "lightning_fabric", "lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    warnings.filterwarnings("ignore")


def job(name: str, seed: int, steps: int, history: list[Run] | None) -> tuple[dict[str, Any], Run | None]:
    """One training, in a process of the pool."""
    fault = FAULTS.get(name) or HEALTHY[name]
    return train(name, fault, seed, steps, None if history is None else RunHistory(history))


def jobs_of(names: list[str], seeds: int, twins: int) -> Iterator[tuple[str, int]]:
    """Names and seeds of all trainings; healthy ones have other seeds than broken ones."""
    for name in names:
        yield from ((name, seed) for seed in (range(seeds) if name in FAULTS else range(50, 50 + twins)))


def run_all(
    names: list[str], seeds: int, twins: int, steps: int, workers: int, keep: Path | None
) -> list[dict[str, Any]]:
    """All trainings, those first that others have for a history."""
    context = multiprocessing.get_context("spawn")
    results = []
    with ProcessPoolExecutor(workers, mp_context=context, initializer=quiet) as pool:
        families = {(FAULTS.get(name) or HEALTHY[name]).peak for name in names if _knows(name)}
        relatives: dict[float, list[Run]] = {}
        for peak in families:
            name = next(key for key, fault in HEALTHY.items() if fault.peak == peak and not fault.with_history)
            found = [pool.submit(job, name, 100 + number, steps, None) for number in range(TWINS)]
            relatives[peak] = [run for run in (one.result()[1] for one in found) if run is not None]
        waiting = []
        for name, seed in jobs_of(names, seeds, twins):
            fault = FAULTS.get(name) or HEALTHY[name]
            waiting.append(pool.submit(job, name, seed, steps, relatives[fault.peak] if _knows(name) else None))
        for number, one in enumerate(waiting, 1):
            result, run = one.result()
            results.append(result)
            print(f"\r{number} of {len(waiting)} trainings done", end="", file=sys.stderr, flush=True)
            if keep is not None and run is not None:
                run.to_csv(keep / f"{result['name'].replace('/', 'd')}-{result['seed']}.csv")
        print(file=sys.stderr)
    return results


def _knows(name: str) -> bool:
    return (FAULTS.get(name) or HEALTHY[name]).with_history


def summary(results: list[dict[str, Any]]) -> dict[str, Any]:
    """The figures of the table: one row for each fault, then the healthy runs."""
    rows, healthy = [], []
    for name in dict.fromkeys(result["name"] for result in results):
        mine = [result for result in results if result["name"] == name]
        if name in HEALTHY:
            told = [one for one in mine if one["flagged"] is not None or one["early"]]
            healthy.append({"name": name, "title": mine[0]["title"], "seeds": len(mine), "flagged": len(told)})
            continue
        clean = [one for one in mine if not one["early"]]
        found = [one for one in clean if one["delay"] is not None and one["delay"] <= IN_TIME]
        right = [one for one in found if one["cause"] in FAULTS[name].causes]
        rows.append(
            {
                "name": name,
                "title": mine[0]["title"],
                "seeds": len(mine),
                "early": len(mine) - len(clean),
                "flagged": len(found),
                "delay": statistics.median(one["delay"] for one in found) if found else None,
                "kinds": sorted({str(one["kind"] or "seen") for one in found}),
                "causes": sorted({str(one["cause"]) for one in found}),
                "right": len(right),
            }
        )
    return {"faults": rows, "healthy": healthy}


def table(figures: dict[str, Any], minutes: float) -> None:
    """Print the table."""
    faults, healthy = figures["faults"], figures["healthy"]
    print(f"{'fault':30}{'flagged':>9}{'delay':>8}  {'kind':28}{'likely cause':34}right")
    for row in faults:
        delay = "" if row["delay"] is None else f"{row['delay']:.1%}"
        print(
            f"{row['title']:30}{row['flagged']:>4} of {row['seeds']}{delay:>8}  {', '.join(row['kinds']):28}"
            f"{', '.join(row['causes']):34}{row['right']}"
        )
    seeds, found = sum(row["seeds"] for row in faults), sum(row["flagged"] for row in faults)
    early, right = sum(row["early"] for row in faults), sum(row["right"] for row in faults)
    if seeds:
        print(
            f"\n{found} of {seeds} broken runs flagged within {IN_TIME:.0%} of the run ({found / seeds:.0%}), the "
            f"likely cause right in {right} of them; {early} flagged before anything was broken."
        )
    for row in healthy:
        print(f"{row['title']:30}{row['flagged']:>4} of {row['seeds']} flagged")
    twins, told = sum(row["seeds"] for row in healthy), sum(row["flagged"] for row in healthy)
    if twins:
        print(f"{told} of {twins} healthy runs flagged ({told / twins:.1%}).")
    print(f"Took {minutes:.1f} minutes.")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Break small trainings and see what the monitor says.")
    parser.add_argument("--seeds", type=int, default=4, help="seeds of each fault (default 4)")
    parser.add_argument("--twins", type=int, default=12, help="healthy runs of each kind (default 12)")
    parser.add_argument("--steps", type=int, default=STEPS, help=f"optimizer steps of each run (default {STEPS})")
    parser.add_argument("--only", help="names of faults and healthy kinds, separated by commas")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes (default: one per core)")
    parser.add_argument("--keep", type=Path, help="folder for the curves, as CSV")
    parser.add_argument("--quick", action="store_true", help="two faults, one seed")
    parser.add_argument("--json", action="store_true", help="one JSON document instead of the table")
    options = parser.parse_args()
    options.names = [*FAULTS, *HEALTHY] if options.only is None else options.only.split(",")
    if options.quick:
        options.names, options.seeds, options.twins, options.workers = ["labels", "frozen"], 1, 0, 1
    unknown = [name for name in options.names if name not in FAULTS and name not in HEALTHY]
    if unknown:
        parser.error(f"no fault is called {', '.join(unknown)}; there are {', '.join([*FAULTS, *HEALTHY])}.")
    if options.steps < 200 or options.seeds < 1 or options.workers < 1 or options.twins < 0:
        parser.error("--steps must be at least 200, --seeds and --workers at least 1, --twins at least 0.")
    return options


def main() -> None:
    options = arguments()
    begun = time.perf_counter()
    if options.keep is not None:
        options.keep.mkdir(parents=True, exist_ok=True)
    os.environ.update(OMP_NUM_THREADS="1", MKL_NUM_THREADS="1")
    results = run_all(options.names, options.seeds, options.twins, options.steps, options.workers, options.keep)
    figures = summary(results)
    if options.json:
        print(json.dumps({**figures, "runs": results}, indent=1))
    else:
        table(figures, (time.perf_counter() - begun) / 60)


if __name__ == "__main__":
    main()
