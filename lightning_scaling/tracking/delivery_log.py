"""Which rows of a journal have reached their target, kept in a small file beside the journal."""

from __future__ import annotations

import json
import os
import threading
from bisect import bisect_right
from collections.abc import Iterable
from pathlib import Path
from typing import Any


class Ranges:
    """A set of integers kept as closed intervals, small however many integers it holds.

    Example:
        >>> seen = Ranges()
        >>> seen.add([0, 1, 2, 7])
        >>> seen.pairs, 2 in seen, 3 in seen
        ([[0, 2], [7, 7]], True, False)
    """

    def __init__(self, pairs: Iterable[Iterable[int]] = ()) -> None:
        self.pairs: list[list[int]] = sorted([int(low), int(high)] for low, high in pairs)

    def add(self, numbers: Iterable[int]) -> None:
        """Put the numbers in."""
        merged: list[list[int]] = []
        for low, high in sorted(self.pairs + [[number, number] for number in numbers]):
            if merged and low <= merged[-1][1] + 1:
                merged[-1][1] = max(merged[-1][1], high)
            else:
                merged.append([low, high])
        self.pairs = merged

    def __contains__(self, number: int) -> bool:
        at = bisect_right(self.pairs, [number, float("inf")]) - 1
        return at >= 0 and number <= self.pairs[at][1]

    def __len__(self) -> int:
        return sum(high - low + 1 for low, high in self.pairs)


class DeliveryLog:
    """The rows already sent, for each target and each segment of a journal.

    Losing this file is harmless: a row sent twice is stored once. So nothing here raises. Several threads may add rows.

    Args:
        journal: Path of the journal; the record lies beside it, as ``<name>.sent.json``.
    """

    def __init__(self, journal: Path) -> None:
        self.path = journal.with_suffix(".sent.json")
        self._targets: dict[str, dict[str, Ranges]] = {}
        self.created: dict[str, str] = {}
        self._lock = threading.Lock()
        self._load()

    def _load(self) -> None:
        try:
            data: Any = json.loads(self.path.read_text(encoding="utf-8"))
            self._targets = {
                str(target): {str(segment): Ranges(pairs) for segment, pairs in segments.items()}
                for target, segments in data["targets"].items()
            }
            self.created = {str(key): str(value) for key, value in data.get("created", {}).items()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            self._targets, self.created = {}, {}

    def sent(self, target: str, segment: str) -> Ranges:
        """The rows of a segment that the target has."""
        return self._targets.setdefault(target, {}).setdefault(segment, Ranges())

    def add(self, target: str, segment: str, rows: Iterable[int]) -> None:
        """Note that the target has these rows, and save."""
        with self._lock:
            self.sent(target, segment).add(rows)
            self._save()

    def remember(self, **created: str) -> None:
        """Note the run that was created to send this journal to, and save."""
        with self._lock:
            self.created = created
            self._save()

    def _save(self) -> None:
        data = {
            "targets": {
                target: {segment: ranges.pairs for segment, ranges in segments.items() if ranges.pairs}
                for target, segments in self._targets.items()
            },
            "created": self.created,
        }
        part = self.path.with_name(f"{self.path.name}.{os.getpid()}.part")
        try:
            part.write_text(json.dumps(data, separators=(",", ":")), encoding="utf-8")
            os.replace(part, self.path)
        except OSError:
            pass
