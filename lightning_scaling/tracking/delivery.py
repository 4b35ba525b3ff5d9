"""Report of a tracker on the rows of a run: sent, waiting, dropped."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class TargetReport:
    """How one target fared.

    Attributes:
        name: What it is.
        kind: ``"mlflow"``, that of another backend, or ``"logger"``.
        sent: Rows it has taken.
        waiting: Rows not sent; those of an MLflow run can be sent later from the journal.
        dropped: Rows that it did not take: refused (a sync offers them again), or meant for a logger that failed.
        error: The last thing that went wrong, one sentence, or ``""``.
    """

    name: str
    kind: str
    sent: int
    waiting: int
    dropped: int
    error: str


@dataclass(frozen=True)
class TrackerReport:
    """What has been written, and what has not.

    Attributes:
        targets: One report for each target.
        journal: The journal, ``None`` without one.
        rows: Rows made for the journal in this segment.
        unwritten: Rows that the disk did not take.
        nonfinite: Numbers that were NaN or infinite: ``null`` in the journal, left out elsewhere.
        left_out: Values that are not numbers, steps that are not whole, and the like.
        error: The last thing that went wrong, one sentence, or ``""``.
    """

    targets: tuple[TargetReport, ...]
    journal: str | None
    rows: int
    unwritten: int
    nonfinite: int
    left_out: int
    error: str

    @property
    def sent(self) -> int:
        """Rows sent, all targets together."""
        return sum(one.sent for one in self.targets)

    @property
    def waiting(self) -> int:
        """Rows not sent, all targets together."""
        return sum(one.waiting for one in self.targets)

    @property
    def dropped(self) -> int:
        """Rows that were not taken, all targets together."""
        return sum(one.dropped for one in self.targets)

    @property
    def message(self) -> str:
        """One sentence on rows that wait and how to send them; ``""`` when none does."""
        if not self.waiting:
            return ""
        rows = f"{self.waiting} rows have" if self.waiting != 1 else "1 row has"
        behind = "; ".join(one.error.rstrip(".") for one in self.targets if one.waiting and one.error)
        cause = f" ({behind})" if behind else ""
        if self.journal is None:
            return f"{rows} not been sent and there is no journal to send them from{cause}."
        if self.unwritten:
            return f"{rows} not been sent, and the journal {self.journal} could not be written in full{cause}."
        return f"{rows} not been sent{cause}: send them later with `lightning-scaling sync {self.journal}`."

    def to_dict(self) -> dict[str, Any]:
        """The report as builtins."""
        sums = {"sent": self.sent, "waiting": self.waiting, "dropped": self.dropped, "message": self.message}
        return {**asdict(self), "targets": [asdict(one) for one in self.targets], **sums}
