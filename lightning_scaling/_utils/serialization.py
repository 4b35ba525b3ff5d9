"""Builtins that strict JSON can hold, and files that are written whole or not at all."""

from __future__ import annotations

import contextlib
import json
import math
import os
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np

NonFinite = Literal["null", "text"]


def to_builtins(value: Any, *, nonfinite: NonFinite = "null") -> Any:
    """The value made of ``None``, booleans, integers, finite floats, strings, lists and dicts.

    Args:
        value: Anything; an object of no known kind becomes its text.
        nonfinite: What a number that is not finite becomes: ``None``, or the text ``"nan"``, ``"inf"`` or ``"-inf"``.

    Example:
        >>> to_builtins({"a": (1, float("inf"))})
        {'a': [1, None]}
    """
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None if nonfinite == "null" else str(float(value))
    if isinstance(value, Mapping):
        return {str(key): to_builtins(item, nonfinite=nonfinite) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [to_builtins(item, nonfinite=nonfinite) for item in value]
    if isinstance(value, (np.generic, np.ndarray)):
        return to_builtins(value.tolist(), nonfinite=nonfinite)
    return str(value)


def with_nonfinite(value: Any) -> Any:
    """What :func:`to_builtins` gave with ``nonfinite="text"``, the numbers that are not finite as floats again.

    Example:
        >>> with_nonfinite(to_builtins({"a": (1, float("inf"))}, nonfinite="text"))
        {'a': [1, inf]}
    """
    if isinstance(value, dict):
        return {key: with_nonfinite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [with_nonfinite(item) for item in value]
    return float(value) if value in ("nan", "inf", "-inf") else value


def finite_or_none(value: object) -> float | None:
    """The number as a finite float; ``None`` when it is not a number or not finite.

    Example:
        >>> finite_or_none("2"), finite_or_none(float("nan")), finite_or_none(2)
        (None, None, 2.0)
    """
    if value is None or isinstance(value, (str, bytes)):
        return None
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def atomic_write(path: str | os.PathLike[str], content: str | bytes) -> Path:
    """Write a file under another name and rename it, so that readers see the old content or the new one.

    The file gets the permissions that the umask allows; an existing one keeps its own.

    Args:
        path: The file.
        content: Text (written as UTF-8) or bytes.

    Returns:
        The file.

    Raises:
        OSError: If it cannot be written; the old content is then still there.
    """
    file = Path(path)
    part = file.with_name(f".{file.name}.{uuid.uuid4().hex[:12]}.part")
    try:
        part.write_bytes(content.encode() if isinstance(content, str) else content)
        with contextlib.suppress(OSError):
            part.chmod(file.stat().st_mode & 0o777)
        os.replace(part, file)
    except BaseException:
        with contextlib.suppress(OSError):
            part.unlink()
        raise
    return file


def parse_json(text: str | bytes) -> Any:
    """What a JSON text holds.

    Raises:
        json.JSONDecodeError: If it is no JSON, or nested more deeply than Python can follow.
    """
    try:
        return json.loads(text)
    except RecursionError:
        raise json.JSONDecodeError("nested too deeply", "", 0) from None
