"""Faults put into trainings and into their surroundings, and how many the trainings survive.

A training survives if its weights, generators of random numbers, checkpoints, last step and exit are those of the
training without the callbacks, and if it ends in time. Faults are drawn with fixed seeds.

    python benchmarks/soak.py [--quick] [--only WORD] [--json]

The whole takes about half an hour on two cores, --quick under four minutes. Needs POSIX processes and signals.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from typing import Any

import _soak_crashes
import _soak_ends
import _soak_files
import _soak_isolation
import _soak_ranks
import _soak_servers
from _cli import Report, main
from _soak_training import quiet

FAULTS, HANGS = ["RuntimeError", "KeyboardInterrupt", "SIGTERM"], ["", "server", "figure", "law", "update at the end"]
Row = Callable[[bool], Any]
ROWS: dict[str, Row] = {
    "a function of ours raises": lambda quick: _soak_isolation.functions_raise(100 if quick else 1),
    "a restored state is damaged": lambda quick: _soak_isolation.states_damaged(25 if quick else 500),
    "kill -9, then a resume": lambda quick: _soak_crashes.killed(3 if quick else 200),
    "exception or signal": lambda quick: _soak_ends.interrupted(FAULTS, HANGS[:2] if quick else HANGS),
    "work that does not return at the end": lambda quick: _soak_ends.ended(HANGS[2:3] if quick else HANGS[:4]),
    "ranks that end apart, stop or fail": lambda quick: _soak_ranks.uneven(2 if quick else 20),
    "MLflow in trouble": lambda quick: _soak_servers.servers(["401 to everything"] if quick else None),
    "file system or clock in trouble": lambda quick: _soak_files.file_systems(),
    "a damaged file is read": lambda quick: _soak_files.readers(20 if quick else 1000),
}


def measure(arguments: argparse.Namespace) -> Report:
    """Run the rows, and print each as it is done."""
    quiet()
    table, figures, lost = [], {}, []
    for fault, row in ROWS.items():
        if arguments.only and arguments.only not in fault:
            continue
        begun = time.monotonic()
        found = row(arguments.quick)
        if isinstance(found[0], tuple):
            found, figures[fault] = found
        tried, problems = found
        lost += [f"{fault}: {problem}" for problem in problems]
        seconds = time.monotonic() - begun
        table.append(
            {
                "fault": fault,
                "tried": tried,
                "survived": tried - len(problems),
                "lost": len(problems),
                "seconds": round(seconds, 1),
            }
        )
        print(f"{fault}: {tried - len(problems)} of {tried}, {seconds:.0f} s", file=sys.stderr)
    report = Report(table=table, figures=figures, lost=lost).add("Faults", table, index=False)
    for fault, values in figures.items():
        title = "times as long to the emergency checkpoint" if "signal" in fault else "seconds"
        report.add(f"{fault}: {title}", [{"case": case, title: value} for case, value in values.items()], index=False)
    if lost:
        report.add("\n".join(["Lost", *lost]))
    report.status = int(bool(lost))
    return report


if __name__ == "__main__":
    main(__doc__, measure, only={"metavar": "WORD", "help": "only the rows whose name holds this"})
