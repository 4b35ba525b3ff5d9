"""Tables of runs from a file or stdin: CSV, Parquet or JSON, recognised by their content."""

from __future__ import annotations

import gzip
import io
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning_scaling._utils.serialization import parse_json

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from numpy.typing import NDArray

STDIN = "-"
_PARQUET, _GZIP = b"PAR1", b"\x1f\x8b"


def name_of(source: str) -> str:
    """What to call a source in messages."""
    return "stdin" if source == STDIN else source


def read_table(source: str) -> pd.DataFrame:
    """Read a table of runs.

    Args:
        source: Path of a CSV (also with tabs or semicolons), Parquet or JSON file, one row per run or point; JSON may
            be one object per line, a list of objects, or one object of columns. It may be compressed with gzip. ``"-"``
            reads the same from stdin.

    Returns:
        The table, its rows counted from 0.

    Raises:
        OSError: The file cannot be opened.
        ValueError: It holds no table.
    """
    raw = sys.stdin.buffer.read() if source == STDIN else Path(source).read_bytes()
    name = name_of(source)
    if raw.startswith(_GZIP):
        try:
            raw = gzip.decompress(raw)
        except (OSError, EOFError) as error:
            raise ValueError(f"{name} is damaged: {error}.") from None
    if raw.startswith(_PARQUET):
        return _parquet(raw, name)
    text = raw.decode("utf-8-sig")
    if not text.strip():
        raise ValueError(f"{name} is empty.")
    table = _json(text, name) if text.lstrip()[0] in "{[" else _csv(text, name)
    if not len(table):
        raise ValueError(f"{name} has a header but no rows.")
    return table


def numbers(table: pd.DataFrame, column: str, name: str) -> NDArray[np.float64]:
    """A column as floats; nan where it is empty.

    Raises:
        ValueError: A row holds something that is not a number.
    """
    import pandas as pd

    values = table[column]
    if values.dtype.kind in "mM":
        raise ValueError(f"Column {column!r} of {name} holds times; it must hold numbers.")
    found = pd.to_numeric(values, errors="coerce")
    wrong = found.isna() & values.notna()
    if wrong.any():
        row = values.index[wrong][0]
        raise ValueError(f"Column {column!r} of {name} holds {values[row]!r} in row {row + 1}; it must hold numbers.")
    return found.to_numpy(dtype="float64", na_value=float("nan"))


def labels(table: pd.DataFrame, column: str, name: str) -> NDArray[np.str_]:
    """A column as labels.

    Raises:
        ValueError: A row has none.
    """
    values = table[column]
    if values.isna().any():
        row = values.index[values.isna()][0]
        raise ValueError(f"Column {column!r} of {name} has no label in row {row + 1}; every row must have one.")
    return values.astype(str).to_numpy(dtype=str)


def keep(table: pd.DataFrame, condition: str, name: str) -> pd.DataFrame:
    """The rows that fulfil a condition in the language of `pandas.DataFrame.query`.

    Raises:
        ValueError: The condition cannot be evaluated, or no row fulfils it.
    """
    try:
        kept: pd.DataFrame = table.query(condition)
    except Exception as error:
        reason = str(error).strip().splitlines()
        raise ValueError(
            f"`--where` {condition!r} cannot be evaluated on {name} ({reason[0] if reason else type(error).__name__}); "
            f"write a condition on its columns {', '.join(map(str, table.columns))}, such as 'loss < 3'."
        ) from None
    if not len(kept):
        raise ValueError(f"No row of {name} fulfils `--where` {condition!r}.")
    return kept


def _csv(text: str, name: str) -> pd.DataFrame:
    import pandas as pd

    header = text.lstrip().split("\n", 1)[0]
    separator = max(",\t;|", key=header.count)
    try:
        table: pd.DataFrame = pd.read_csv(io.StringIO(text), sep=separator, skipinitialspace=True)
    except ValueError as error:
        raise ValueError(f"{name} cannot be read as CSV: {str(error).strip()}.") from None
    if not isinstance(table.index, pd.RangeIndex):
        raise ValueError(f"{name} cannot be read as CSV: its rows have more fields than its header has names.")
    table.columns = pd.Index([str(column).strip() for column in table.columns])
    return table


def _parquet(raw: bytes, name: str) -> pd.DataFrame:
    import pandas as pd

    try:
        table: pd.DataFrame = pd.read_parquet(io.BytesIO(raw))
    except Exception as error:
        raise ValueError(f"{name} cannot be read as Parquet: {error}") from None
    table = table.reset_index(drop=isinstance(table.index, pd.RangeIndex))
    return table


def _json(text: str, name: str) -> pd.DataFrame:
    import pandas as pd

    rows: Any
    try:
        rows = parse_json(text)
    except json.JSONDecodeError:
        rows = _lines(text, name)
    if isinstance(rows, dict) and not all(isinstance(values, list) for values in rows.values()):
        rows = [rows]
    if isinstance(rows, list) and not all(isinstance(row, dict) for row in rows):
        raise ValueError(f"{name} is JSON, but no table: it must hold one object per row.")
    try:
        table: pd.DataFrame = pd.DataFrame(rows)
    except ValueError as error:
        raise ValueError(f"{name} is JSON, but no table: {error}.") from None
    return table


def _lines(text: str, name: str) -> list[Any]:
    rows = []
    for number, line in enumerate(text.splitlines(), start=1):
        if line.strip():
            try:
                rows.append(parse_json(line))
            except json.JSONDecodeError as error:
                raise ValueError(f"{name} is not JSON lines: line {number}, {error.msg}.") from None
    return rows
