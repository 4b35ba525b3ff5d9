"""State of objects as builtins."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar


class AttributeState:
    """An object whose state is the values of some of its attributes.

    Attributes:
        STATE: Names of those attributes; a leading underscore is left out of the keys.
    """

    STATE: ClassVar[tuple[str, ...]] = ()

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs, as builtins."""
        return {name.lstrip("_"): getattr(self, name) for name in self.STATE}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from what :meth:`state_dict` returned."""
        for name in self.STATE:
            setattr(self, name, state[name.lstrip("_")])
