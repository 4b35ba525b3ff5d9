"""Checks of arguments; every message names the argument, the rule and the value."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any


def positive(name: str, value: Any, *, zero: bool = False) -> float:
    """A finite positive number as a float.

    Args:
        name: The argument.
        value: Its value.
        zero: Whether 0 is allowed, too.

    Raises:
        ValueError: It is not one.
    """
    wanted = "a finite number that is not negative" if zero else "a positive finite number"
    try:
        single = not isinstance(value, bool | str | bytes) and not getattr(value, "ndim", 0)
        number = float(value) if single else math.nan
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number) or number < 0 or (number == 0 and not zero):
        raise ValueError(f"`{name}` must be {wanted}, counted in units of one, but got {value!r}.")
    return number


def probability(name: str, value: Any) -> float:
    """A probability strictly between 0 and 1 as a float.

    Raises:
        ValueError: It is not one.
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1:
        raise ValueError(f"`{name}` must lie strictly between 0 and 1, but got {value!r}.")
    return float(value)


def one_of(name: str, value: Any, choices: Iterable[str]) -> str:
    """One of some words.

    Raises:
        ValueError: It is none of them.
    """
    allowed = list(choices)
    if value not in allowed:
        raise ValueError(f"`{name}` must be one of {', '.join(map(repr, allowed))}, but got {value!r}.")
    return str(value)


def is_number(value: Any) -> bool:
    """Whether the value is a finite number and no boolean."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def is_count(value: Any) -> bool:
    """Whether the value is a positive integer and no boolean."""
    return isinstance(value, int) and not isinstance(value, bool) and value > 0
