"""Reading the ledger: which forecast was current when a given part of the run had been seen."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

Row = Mapping[str, Any]

_OLDEST = 0.15


def known(row: Row, key: str) -> float | None:
    """The number in a row, or ``None`` where there is none or it is not finite."""
    value = row.get(key)
    return float(value) if value is not None and math.isfinite(value) else None


def forecasts(ledger: Sequence[Row]) -> list[Row]:
    """The rows that hold a forecast with a finite median and interval."""
    return [row for row in ledger if all(known(row, key) is not None for key in ("final", "lower", "upper"))]


def checkpoints(ledger: Sequence[Row], fractions: Sequence[float] = (0.25, 0.5, 0.75)) -> list[Row]:
    """The last forecast made at or before each fraction of the plan, without repeats.

    Args:
        ledger: Rows of ``Monitor.forecast_log``, oldest first.
        fractions: Parts of the plan, each in (0, 1].

    Returns:
        One row per fraction that has a forecast made in the 15 % of the plan before it. Runs without a known end have
        no fractions, so none of their rows is chosen.
    """
    chosen: list[Row] = []
    for fraction in fractions:
        due = [
            row
            for row in ledger
            if row.get("fraction") is not None and fraction - _OLDEST < row["fraction"] <= fraction + 1e-9
        ]
        if due and (not chosen or due[-1] is not chosen[-1]):
            chosen.append(due[-1])
    return chosen


def notable(ledger: Sequence[Row]) -> Row | None:
    """The first row with advice to do something, or with the verdict that the run has left its forecast."""
    for row in ledger:
        if row.get("action", "continue") != "continue" or row.get("verdict") == "deviating":
            return row
    return None


def trouble_of(row: Row) -> str:
    """What a notable row says, in a few words."""
    action = row.get("action", "continue")
    return "off its forecast" if action == "continue" else f"advice to {action}"


def percent(error: float | None) -> str:
    """A relative error for people: ``0.0123`` becomes ``+1.2%``."""
    return "" if error is None or not math.isfinite(error) else f"{error:+.1%}"


def digits(value: float) -> str:
    """A loss for people, to four digits: ``2`` becomes ``2.000``, ``0.012345`` becomes ``0.01235``."""
    return f"{value:#.4g}" if abs(value) < 1000 else f"{value:.4g}"
