"""The base class of the callbacks, and the only module of the package that imports Lightning.

Lightning comes under two names, ``lightning.pytorch`` and ``pytorch_lightning``, whose classes are not related. A
Trainer of one accepts a callback of the other only inside a list, and LightningCLI not at all; a class with both bases
is accepted everywhere.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

_NAMESPACES = ("lightning.pytorch", "pytorch_lightning")


def _callback_bases() -> tuple[type, ...]:
    """The ``Callback`` class of every Lightning that can be imported; the second one costs about 0.2 s."""
    bases: list[type] = []
    failures: list[str] = []
    for namespace in _NAMESPACES:
        try:
            bases.append(importlib.import_module(namespace).Callback)
        except Exception as error:  # a broken install of one name must not take the other with it
            if not (isinstance(error, ModuleNotFoundError) and namespace.startswith(str(error.name))):
                failures.append(f"{namespace}: {type(error).__name__}: {error}")
    if not bases:
        found = f" ({'; '.join(failures)})" if failures else ""
        raise ImportError(
            "lightning_scaling.callbacks needs Lightning, but neither `lightning` nor `pytorch_lightning` can be "
            f"imported{found}; install one of them: `pip install lightning`."
        )
    return tuple(dict.fromkeys(bases))


if TYPE_CHECKING:

    class CallbackBase:
        """What type checkers see of Lightning's ``Callback``."""

        def _generate_state_key(self, **kwargs: Any) -> str: ...

else:
    CallbackBase = type("CallbackBase", _callback_bases(), {"__doc__": "Lightning's ``Callback``, under every name."})

__all__ = ["CallbackBase"]
