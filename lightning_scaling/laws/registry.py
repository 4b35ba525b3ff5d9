"""Registry of the laws in the folders of `catalogue`, by name."""

from __future__ import annotations

import inspect
import pkgutil
from difflib import get_close_matches
from functools import cache
from importlib import import_module
from typing import Any

from lightning_scaling.laws import catalogue
from lightning_scaling.laws.base import Law
from lightning_scaling.laws.form import FunctionalForm


@cache
def _classes() -> dict[str, type[Law]]:
    found: dict[str, type[Law]] = {}
    for module in pkgutil.walk_packages(catalogue.__path__, f"{catalogue.__name__}."):
        for _, kind in inspect.getmembers(import_module(module.name), inspect.isclass):
            own = kind.__module__ == module.name
            if own and issubclass(kind, Law) and not inspect.isabstract(kind) and not kind.__name__.startswith("_"):
                if kind.name in found:
                    raise RuntimeError(f"two laws are called {kind.name!r}: {found[kind.name]} and {kind}")
                found[kind.name] = kind
    return dict(sorted(found.items()))


def names(tag: str | None = None) -> list[str]:
    """Names of the laws.

    Args:
        tag: Only those that may be used for this, such as ``"allocation"``; left out, all.

    Returns:
        The names in alphabetical order.
    """
    return [name for name, kind in _classes().items() if tag is None or tag in kind.tags]


def get(name: str, **options: Any) -> Law:
    """A law by name.

    Args:
        name: Its name, as in :func:`names`.
        **options: What this law can be made with, such as ``breaks=2`` for ``bnsl``.

    Returns:
        The law.

    Raises:
        KeyError: There is no such law.
        TypeError: The law does not take these options.
    """
    classes = _classes()
    if name not in classes:
        near = get_close_matches(str(name), classes, n=3, cutoff=0.5)
        hint = f"did you mean {' or '.join(near)}?" if near else "`lightning-scaling laws` lists them."
        raise KeyError(f"There is no law {name!r}; {hint}")
    return classes[name](**options)


def group(name: str) -> str:
    """The folder of the catalogue in which a law stands, such as ``"dense"``."""
    return _classes()[name].__module__.split(".")[-2]


FunctionalForm.lookup = get
