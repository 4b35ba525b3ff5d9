"""Shares of the domains in a mixture, checked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

_OFF = 0.02


def check_domains(domains: Sequence[str]) -> tuple[str, ...]:
    """The names of the domains as a tuple.

    Raises:
        TypeError: They are not a sequence of names.
        ValueError: There are fewer than two, or one occurs twice.
    """
    if isinstance(domains, str) or not all(isinstance(name, str) and name for name in domains):
        raise TypeError(f"`domains` must be a list of names, but got {domains!r}.")
    names = tuple(domains)
    if len(names) < 2 or len(set(names)) < len(names):
        raise ValueError(f"`domains` must be at least two different names, but got {', '.join(names) or 'none'}.")
    return names


def check_shares(law: str, x: Mapping[str, Any], domains: tuple[str, ...]) -> None:
    """Make sure that the shares of a mixture add up to one.

    Raises:
        ValueError: At some point they do not.
    """
    total = np.asarray(sum(np.asarray(x[name], dtype=np.float64) for name in domains))
    off = np.abs(total - 1.0)
    if np.any(off > _OFF):
        worst = total.flat[int(np.argmax(off))]
        raise ValueError(
            f"{law}: the proportions of {', '.join(domains)} must add up to 1 at every point, but add up to {worst:g} "
            "at one; give fractions (not percent) of all the domains."
        )
