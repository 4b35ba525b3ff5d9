"""The command line that the benchmarks share: options, tables for people, and one JSON document."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn

import numpy as np
import pandas as pd

Part = pd.DataFrame | Sequence[Mapping[str, Any]] | Mapping[str, Any]


class Report:
    """What a benchmark has measured: one JSON document, and text for people.

    Args:
        **document: Tables and figures by name.

    Attributes:
        status: Exit status of the script.
    """

    def __init__(self, **document: Any) -> None:
        self.document = document
        self.status = 0
        self._text: list[str] = []

    def add(self, text: str = "", table: Part | None = None, digits: int = 2, **options: Any) -> Report:
        """Add a title or remark and a table to what is printed for people.

        Args:
            text: The title or remark.
            table: The table, below it.
            digits: Decimals of its numbers.
            **options: Of :meth:`pandas.DataFrame.to_string`.
        """
        self._text += [text] if text else []
        if table is not None:
            frame = table if isinstance(table, pd.DataFrame) else pd.DataFrame(table)
            self._text.append(frame.round(digits).to_string(**options))
        return self

    def text(self) -> str:
        """Everything for people, parts separated by an empty line."""
        return "\n\n".join(self._text)


def main(doc: str | None, measure: Callable[[argparse.Namespace], Report], **options: dict[str, Any]) -> NoReturn:
    """Parse the arguments, measure, print the report, and exit.

    Args:
        doc: Docstring of the script; its first line is the description.
        measure: From the options to the report.
        **options: Further options by name, as keyword arguments of ``add_argument``; ``--json`` and ``--quick`` are
            always there.
    """
    parser = argparse.ArgumentParser(description=(doc or "").splitlines()[0])
    for name, settings in options.items():
        parser.add_argument(f"--{name.replace('_', '-')}", **settings)
    parser.add_argument("--json", action="store_true", help="one JSON document instead of tables")
    parser.add_argument("--quick", action="store_true", help="a reduced run, to see that it works")
    arguments = parser.parse_args()
    report = measure(arguments)
    print(json.dumps(report.document, default=_builtin) if arguments.json else report.text())
    sys.exit(report.status)


def _builtin(value: Any) -> Any:
    if isinstance(value, pd.DataFrame):
        named = any(name is not None for name in value.index.names)
        return json.loads((value.reset_index() if named else value).to_json(orient="records"))
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    raise TypeError(f"{type(value).__name__} is not JSON")
