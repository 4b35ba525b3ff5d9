"""Which rows of a journal have reached their target, kept in a small file next to the journal."""

from __future__ import annotations

import contextlib
import json
import threading
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from lightning_scaling._utils.serialization import atomic_write, parse_json


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
        journal: Path of the journal; the log lies next to it, as ``<name>.sent.json``.

    Attributes:
        created: The run that was created to send this journal to, as its target describes it; empty if none was.
    """

    def __init__(self, journal: Path) -> None:
        self.path = journal.with_suffix(".sent.json")
        self._sent: defaultdict[tuple[str, str], Ranges] = defaultdict(Ranges)
        self.created: dict[str, str] = {}
        self._lock = threading.Lock()
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
            data: Any = parse_json(self.path.read_text(encoding="utf-8"))
            for target, segments in data["targets"].items():
                self._sent.update({(target, segment): Ranges(pairs) for segment, pairs in segments.items()})
            self.created = {str(key): str(value) for key, value in data.get("created", {}).items()}

    def sent(self, target: str, segment: str) -> Ranges:
        """The rows of a segment that the target has."""
        return self._sent[target, segment]

    def add(self, target: str, segment: str, rows: Iterable[int]) -> None:
        """Note that the target has these rows, and save."""
        with self._lock:
            self._sent[target, segment].add(rows)
            self._save()

    def remember(self, **created: str) -> None:
        """Note the run that was created to send this journal to, and save."""
        with self._lock:
            self.created = created
            self._save()

    def _save(self) -> None:
        targets: dict[str, Any] = {}
        for (target, segment), ranges in self._sent.items():
            if ranges.pairs:
                targets.setdefault(target, {})[segment] = ranges.pairs
        with contextlib.suppress(OSError):
            atomic_write(self.path, json.dumps({"targets": targets, "created": self.created}, separators=(",", ":")))
