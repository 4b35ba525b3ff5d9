"""The command line that the benchmarks share: options, tables for people, and one JSON document."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

Part = pd.DataFrame | Sequence[Mapping[str, Any]] | Mapping[str, Any] | str


@dataclass
class Report:
    """What a benchmark has measured.

    Attributes:
        document: The JSON document: tables and figures by name.
        sections: What is printed without ``--json``: titles or remarks, and tables (or finished text).
        digits: Decimals of the numbers in tables.
        status: Exit status.
    """

    document: dict[str, Part]
    sections: list[tuple[str, Part]] = field(default_factory=list)
    digits: int = 2
    status: int = 0

    def text(self) -> str:
        """The sections, one after the other."""
        parts = []
        for title, content in self.sections:
            parts += [part for part in (title, _shown(content, self.digits)) if part]
        return "\n\n".join(parts)


def run(doc: str, measure: Callable[[argparse.Namespace], Report], **options: dict[str, Any]) -> int:
    """Parse the arguments, measure, and print the report.

    Args:
        doc: Docstring of the script; its first line is the description.
        measure: From the options to the report.
        **options: Further options by name, as keyword arguments of ``add_argument``; ``--json`` and ``--quick`` are
            always there.

    Returns:
        The exit status.
    """
    parser = argparse.ArgumentParser(description=doc.splitlines()[0])
    for name, settings in options.items():
        parser.add_argument(f"--{name.replace('_', '-')}", **settings)
    parser.add_argument("--json", action="store_true", help="one JSON document instead of tables")
    parser.add_argument("--quick", action="store_true", help="a reduced run, to see that it works")
    arguments = parser.parse_args()
    report = measure(arguments)
    if arguments.json:
        print(json.dumps({name: _plain(part) for name, part in report.document.items()}, default=_builtin))
    else:
        print(report.text())
    return report.status


def table(rows: Sequence[Sequence[Any]], header: Sequence[str], left: int = 1) -> str:
    """Rows as aligned columns.

    Args:
        rows: Cells; each is printed by ``str``.
        header: Titles of the columns.
        left: How many columns are aligned to the left.
    """
    lines = [list(map(str, line)) for line in (header, *rows)]
    widths = [max(len(line[k]) for line in lines) for k in range(len(header))]
    sides = [str.ljust if k < left else str.rjust for k in range(len(header))]
    return "\n".join(
        "  ".join(side(cell, width) for side, cell, width in zip(sides, line, widths, strict=True)).rstrip()
        for line in lines
    )


def _shown(content: Part, digits: int) -> str:
    if isinstance(content, str):
        return content
    frame = content if isinstance(content, pd.DataFrame) else pd.DataFrame(content)
    named = any(name is not None for name in frame.index.names)
    return str(frame.round(digits).to_string(index=named or bool(frame.index.dtype == object), na_rep="-"))


def _plain(part: Part) -> Any:
    if isinstance(part, pd.DataFrame):
        named = any(name is not None for name in part.index.names)
        return (part.reset_index() if named else part).to_dict("records")
    return part


def _builtin(value: Any) -> Any:
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    if isinstance(value, pd.DataFrame):
        return _plain(value)
    raise TypeError(f"{type(value).__name__} is not JSON")
