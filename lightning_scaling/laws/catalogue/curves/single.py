"""Base class of laws of a single input that may be chosen."""

from __future__ import annotations

from typing import Any, ClassVar

from lightning_scaling.laws.base import UNITS, Law, Parameter


class SingleInput(Law):
    """A law of one input, which may be steps, tokens, FLOPs or any other input that counts in units of one.

    Args:
        over: Name of the input; left out, :attr:`usual`.

    Raises:
        ValueError: The name is not that of an input.
    """

    usual: ClassVar[str] = "steps"

    def __init__(self, over: str | None = None) -> None:
        self.over = self.usual if over is None else over
        allowed = sorted({*UNITS, *self.units})
        if self.over not in allowed:
            raise ValueError(f"{self.name}: over={over!r} is not an input; it may be {', '.join(allowed)}.")
        self.inputs = (self.over,)
        self.formula = type(self).formula.replace(self.usual, self.over)
        self.parameters = tuple(self._parameters())

    def _parameters(self) -> list[Parameter]:
        raise NotImplementedError

    def options(self) -> dict[str, Any]:
        """The input's name."""
        return {"over": self.over}

    def _x(self, x: Any) -> Any:
        return getattr(x, self.over)
