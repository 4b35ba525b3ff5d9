"""One figure of a benchmark with its target, and the table of them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Row:
    """One figure.

    Attributes:
        part: Part of the task.
        what: What was measured.
        value: The figure.
        target: What it should be, in words; empty for context.
        met: Whether it is; None for context.
    """

    part: str
    what: str
    value: float | str
    target: str = ""
    met: bool | None = None


def most(part: str, what: str, value: float, limit: float) -> Row:
    """A figure that should be at most a limit."""
    return Row(part, what, value, f"<= {limit:g}", bool(value <= limit))


def near(part: str, what: str, value: float, wanted: float, tolerance: float) -> Row:
    """A figure that should equal another within a tolerance."""
    return Row(part, what, value, f"{wanted:g} +- {tolerance:.2g}", bool(abs(value - wanted) <= tolerance))


def shown(rows: list[Row]) -> str:
    """The rows as a table."""
    met = {None: "", True: "yes", False: "NO"}
    lines = [
        ("part", "what", "measured", "target", "met"),
        *((r.part, r.what, _figure(r.value), r.target, met[r.met]) for r in rows),
    ]
    widths = [max(len(line[j]) for line in lines) for j in range(5)]
    told, before = [], ""
    for part, *rest in lines:
        cells = ["" if part == before else part, *rest]
        before = part
        sides = [str.ljust, str.ljust, str.rjust, str.ljust, str.ljust]
        told.append(
            "  ".join(side(cell, width) for side, cell, width in zip(sides, cells, widths, strict=True)).rstrip()
        )
    return "\n".join(told)


def _figure(value: float | str) -> str:
    if isinstance(value, str):
        return value
    size = abs(value)
    if size >= 0.1 or size == 0:
        return f"{value:.4g}"
    return f"{value:.5f}" if size >= 1e-4 else f"{value:.1e}"
