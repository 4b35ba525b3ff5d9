"""Numbers as text for people."""

from __future__ import annotations

import math

_PREFIXES = ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k"))


def count(value: float, *, digits: int = 3, power: str = "e{}") -> str:
    """A count with a unit prefix: ``2.83e9`` becomes ``2.83B``.

    Args:
        value: The count.
        digits: Significant digits.
        power: How a power of ten is written where no prefix fits, as for values of ``1e15`` and more.

    Example:
        >>> count(2.83e9), count(999_999), count(12), count(1.2e18)
        ('2.83B', '1M', '12', '1.2e18')
    """
    if not math.isfinite(value) or value == 0:
        return f"{value:g}"
    rounded = float(f"{value:.{digits}g}")
    size = abs(rounded)
    for limit, prefix in _PREFIXES:
        if limit <= size < 1e15:
            return f"{rounded / limit:.{digits}g}{prefix}"
    if 1e-4 <= size < 1e15:
        return f"{rounded:.{digits}g}"
    exponent = math.floor(math.log10(size) + 1e-12)
    return f"{rounded / 10.0**exponent:.{digits}g}{power.format(exponent)}"


def significant(value: float, digits: int = 4) -> str:
    """A loss or another metric with trailing zeros kept: ``2`` becomes ``2.000``, ``0.012345`` becomes ``0.01235``.

    Example:
        >>> significant(2), significant(0.012345), significant(12345.6)
        ('2.000', '0.01235', '1.235e+04')
    """
    return f"{value:#.{digits}g}" if abs(value) < 10 ** (digits - 1) else f"{value:.{digits}g}"


def percent(share: float, digits: int = 1, *, signed: bool = False) -> str:
    """A fraction as a percentage: ``0.0123`` becomes ``1.2%``; empty where it is not finite.

    Example:
        >>> percent(0.0123), percent(0.0123, signed=True), percent(0.5, 0)
        ('1.2%', '+1.2%', '50%')
    """
    if not math.isfinite(share):
        return ""
    return f"{share:+.{digits}%}" if signed else f"{share:.{digits}%}"


def plural(number: int, noun: str) -> str:
    """A number with its noun: ``1 run``, ``1,200 runs``.

    Example:
        >>> plural(1, "run"), plural(1200, "run")
        ('1 run', '1,200 runs')
    """
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"
