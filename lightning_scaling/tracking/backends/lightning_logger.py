"""Gives the metrics to any Lightning logger, in the training thread: such loggers are not made for several threads."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar


class LoggerTarget:
    """A Lightning logger as a target for metrics; params, tags, notes and artifacts stay in the journal.

    The call is made where :meth:`metrics` is called, so keep calls few (some hundreds in a run).

    Args:
        logger: Any object with Lightning's ``log_metrics(metrics, step=...)``.

    Raises:
        TypeError: If it has no such method.
    """

    kind: ClassVar[str] = "logger"

    def __init__(self, logger: Any) -> None:
        if not callable(getattr(logger, "log_metrics", None)):
            raise TypeError(
                f"`logger` should have a method `log_metrics(metrics, step=...)`, but got {type(logger).__name__}."
            )
        self.logger = logger

    @property
    def key(self) -> str:
        """What identifies the logger."""
        return f"logger:{type(self.logger).__name__}"

    @property
    def name(self) -> str:
        """What to call the logger in a sentence."""
        return type(self.logger).__name__

    def describe(self) -> dict[str, Any]:
        """What kind of logger it is; its rows cannot be sent later."""
        return {"kind": self.kind, "class": type(self.logger).__name__}

    def metrics(self, values: Mapping[str, float], step: int) -> None:
        """Log finite values; raises what the logger raises."""
        self.logger.log_metrics(dict(values), step=step)
