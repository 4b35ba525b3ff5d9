"""Interface of a tracker that a run is written to."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol

# An unquoted slash in a password makes the path begin early: everything up to the last "@" may be secret.
_USER = re.compile(r"\b([a-z][a-z0-9+.-]*://)[^\s?\"'<>]*@", re.IGNORECASE)
_TOKEN = re.compile(
    r"([?&;][^=&;\s]*(?:pass|pwd|token|secret|key|sig|auth|cred)[^=&;\s]*)=[^&;#/\s\"'<>]*", re.IGNORECASE
)
_LONGEST_CAUSE = 300


class RefusedError(Exception):
    """The target answered, and does not take this row; the message is one sentence."""


class GoneError(Exception):
    """The target answered, and will take no row at all until somebody mends it; the message is one sentence."""


@dataclass(frozen=True)
class Point:
    """One value of one metric: ``time`` in milliseconds since 1970, ``step`` in optimizer steps."""

    key: str
    value: float
    time: int
    step: int


class RunTarget(Protocol):
    """A run of a tracker, to which a :class:`~lightning_scaling.tracking.sink.Sink` sends.

    The methods from ``open`` on run in the sink's thread, and may block or raise.
    """

    kind: ClassVar[str]
    title: ClassVar[str]

    @classmethod
    def from_logger(cls, logger: Any) -> RunTarget | None:
        """The run that a Lightning logger writes to; ``None`` for a logger of another tracker. May raise."""

    @classmethod
    def active(cls) -> RunTarget | None:
        """The run that is active in this thread without a logger; ``None`` if there is none. May raise."""

    @classmethod
    def from_spec(cls, spec: Mapping[str, Any]) -> RunTarget:
        """The run that :meth:`describe` described; without a ``run_id`` one that is created in its ``experiment``."""

    @classmethod
    def configured_uri(cls) -> str:
        """Server (or local store) that the user has configured for this tracker."""

    @property
    def key(self) -> str:
        """What identifies the target in the record of sent rows."""

    @property
    def name(self) -> str:
        """What to call the target in a sentence."""

    @property
    def reference(self) -> dict[str, str | None]:
        """``run_id`` and ``tracking_uri``, as the readers of past runs take them."""

    @property
    def created(self) -> bool:
        """Whether the run did not exist before :meth:`open`."""

    def describe(self) -> dict[str, Any]:
        """``kind``, ``run_id`` and ``tracking_uri``, by which a later ``sync`` finds the run again; no secrets."""

    def open(self) -> None:
        """Connect; called once before the first row, and again after it failed."""

    def write(
        self, *, metrics: list[Point] | None = None, params: dict[str, str] | None = None, tags: Any = None
    ) -> None:
        """Store metrics, params and tags (a mapping of strings)."""

    def note(self, text: str) -> None:
        """Set the description of the run."""

    def artifact(self, path: str, content: bytes) -> None:
        """Store a file under the run."""

    def finish(self) -> None:
        """Mark a run that this target created as finished."""


def without_secrets(uri: str) -> str:
    """The tracking URI without user name and password, local paths made absolute, so that it can be kept in a file."""
    if uri.startswith("sqlite:///") and not re.match(r"sqlite:///(/|[A-Za-z]:|:memory:|$)", uri):
        return f"sqlite:///{Path(uri[len('sqlite:///') :]).absolute()}"
    if uri.startswith("file:") and not uri.startswith("file:/"):
        return f"file://{Path(uri[len('file:') :]).absolute()}"
    if "://" not in uri:
        return uri if re.match(r"databricks|uc|file:", uri) else str(Path(uri).absolute())
    return redacted(uri)


def redacted(text: str) -> str:
    """The text, with user names, passwords and tokens taken out of the addresses in it.

    Example:
        >>> redacted("API request to http://me:secret@host/x?token=abc&a=1 failed")
        'API request to http://host/x?token=***&a=1 failed'
    """
    return _TOKEN.sub(r"\1=***", _USER.sub(r"\1", text))


def cause_of(error: BaseException) -> str:
    """Kind and first line of an exception, without secrets: ``"ConnectionError: connection refused"``."""
    first = next(iter(redacted(str(error)).strip().splitlines()), "")[:_LONGEST_CAUSE]
    return f"{type(error).__name__}: {first}" if first else type(error).__name__
