"""Sends later what a run could not send: from its journal to its MLflow run, only what is missing there."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lightning_scaling._utils.serialization import finite_or_none
from lightning_scaling.tracking.backends.mlflow import MLflowTarget
from lightning_scaling.tracking.delivery_log import DeliveryLog
from lightning_scaling.tracking.journal import being_written
from lightning_scaling.tracking.journal_reader import JournalContents, is_journal, read_journal
from lightning_scaling.tracking.sink import Op, Sink

_Row = dict[str, Any]


@dataclass(frozen=True)
class JournalSync:
    """How the sync of one journal to one run went.

    Attributes:
        journal: The journal.
        run: The run, as ``MLflow run <id> at <uri>``; ``""`` when the journal names none.
        sent: Rows sent now.
        waiting: Rows still missing there.
        dropped: Rows that cannot be sent: refused, or an artifact whose file is gone.
        error: What went wrong, one sentence, or ``""``.
    """

    journal: str
    run: str
    sent: int = 0
    waiting: int = 0
    dropped: int = 0
    error: str = ""


@dataclass(frozen=True)
class SyncReport:
    """How a sync went, journal by journal."""

    journals: tuple[JournalSync, ...]

    @property
    def sent(self) -> int:
        """Rows sent now."""
        return sum(one.sent for one in self.journals)

    @property
    def waiting(self) -> int:
        """Rows still missing."""
        return sum(one.waiting for one in self.journals)

    @property
    def dropped(self) -> int:
        """Rows that cannot be sent."""
        return sum(one.dropped for one in self.journals)

    @property
    def ok(self) -> bool:
        """Whether everything is where it belongs."""
        return self.waiting == 0 and not any(one.error for one in self.journals)

    def to_dict(self) -> dict[str, Any]:
        """The report as builtins."""
        sums = {"ok": self.ok, "sent": self.sent, "waiting": self.waiting, "dropped": self.dropped}
        return {**sums, "journals": [asdict(one) for one in self.journals]}


@dataclass(frozen=True)
class PendingJournal:
    """A journal with rows that its run does not have.

    Attributes:
        path: The journal.
        rows: Rows not sent.
        runs: The runs they belong to.
        live: Whether a process is writing it now.
    """

    path: str
    rows: int
    runs: tuple[str, ...]
    live: bool

    def to_dict(self) -> dict[str, Any]:
        """The journal as builtins."""
        return asdict(self)


def pending_journals(folder: Path | str) -> list[PendingJournal]:
    """The journals below a folder with rows that were meant for an MLflow run and have not been sent.

    A file that cannot be read is passed over.
    """
    pending = []
    for path in _journals(Path(folder)):
        try:
            contents = read_journal(path)
        except (OSError, ValueError):
            continue
        record = DeliveryLog(path)
        missing = {}
        for target in _targets(contents, record, None, None, None):
            rows = _missing(contents, record, target, None)
            if rows:
                missing[target.name] = len(rows)
        if missing:
            pending.append(PendingJournal(str(path), sum(missing.values()), tuple(missing), being_written(path)))
    return pending


def sync(
    journal: Path | str,
    *,
    tracking_uri: str | None = None,
    run_id: str | None = None,
    experiment: str | None = None,
    timeout: float = 60.0,
) -> SyncReport:
    """Send what is missing of a journal, or of all journals below a folder, to MLflow.

    Rows that were sent already are not sent again, and a row that does get sent twice is stored once, so a sync can be
    repeated or stopped at any time.

    Args:
        journal: A journal, or a folder.
        tracking_uri: Where the run is kept; by default what the journal says.
        run_id: The run to send to; by default the one that the journal names.
        experiment: For a journal that names no run: the experiment in which to create one. It is remembered, and the
            next sync of the journal sends to the same run.
        timeout: Seconds given to each run of each journal.

    Returns:
        What was sent, and what is still missing.

    Raises:
        FileNotFoundError: If there is no such file or folder.
        ValueError: If the file is not a journal, or one ``run_id`` is given for several journals.
    """
    place = Path(journal)
    if place.is_dir():
        paths = list(_journals(place))
        if run_id is not None and len(paths) > 1:
            raise ValueError(
                f"`run_id` names one run, but {place} holds {len(paths)} journals: give one journal with it."
            )
    else:
        paths = [place]
    done: list[JournalSync] = []
    for path in paths:
        contents = read_journal(path)
        record = DeliveryLog(path)
        targets = _targets(contents, record, tracking_uri, run_id, experiment)
        if not targets and not place.is_dir():
            reason = (
                "The journal names no MLflow run: give a run id, or an experiment in which to create a run, together "
                "with a tracking URI."
            )
            done.append(JournalSync(str(path), "", waiting=len(_sendable(contents.ops)), error=reason))
        done += [_send(contents, record, target, run_id, timeout) for target in targets]
    return SyncReport(tuple(done))


def _journals(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.rglob("*.jsonl")):
        if is_journal(path):
            yield path


def _targets(
    contents: JournalContents,
    record: DeliveryLog,
    tracking_uri: str | None,
    run_id: str | None,
    experiment: str | None,
) -> list[MLflowTarget]:
    """The runs to send to, each once, in the order of the journal."""
    named = [one for segment in contents.segments for one in _mlflow(segment.targets)]
    if not named and record.created:
        named = [record.created]
    uri = tracking_uri or next((str(one["tracking_uri"]) for one in named), None)
    if run_id is not None:
        return [MLflowTarget(run_id, uri)] if uri else []
    runs = {(str(one["run_id"]), tracking_uri or str(one["tracking_uri"])): None for one in named if one.get("run_id")}
    if not runs and experiment is not None and uri:
        name = contents.header.get("name")
        return [MLflowTarget(None, uri, experiment=experiment, run_name=str(name) if name else contents.path.stem)]
    return [MLflowTarget(run, where) for run, where in runs]


def _mlflow(targets: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [one for one in targets if one.get("kind") == "mlflow" and one.get("tracking_uri")]


def _belongs(contents: JournalContents, target: MLflowTarget, run_id: str | None) -> set[str]:
    """The segments whose rows the target is to have."""
    if run_id is not None:
        return {segment.id for segment in contents.segments}
    named = {segment.id: {one["run_id"] for one in _mlflow(segment.targets)} for segment in contents.segments}
    if not any(named.values()):
        return set(named)
    return {segment for segment, runs in named.items() if target.run_id in runs}


def _missing(
    contents: JournalContents, record: DeliveryLog, target: MLflowTarget, run_id: str | None
) -> list[tuple[_Row, Mapping[str, Any]]]:
    """Rows that the target does not have, with what to send of each: nothing that a later row, sent, has replaced."""
    segments = _belongs(contents, target, run_id)
    missing: list[tuple[_Row, Mapping[str, Any]]] = []
    newer: set[tuple[str, str]] = set()
    for row in reversed(_sendable(contents.ops)):
        if row["segment"] not in segments:
            continue
        data = _payload(row)
        if row["n"] in record.sent(target.key, row["segment"]):
            newer.update((row["op"], name) for name in _replaces(row, data))
            continue
        if row["op"] == "tags":
            data = {key: value for key, value in data.items() if ("tags", key) not in newer}
        elif any((row["op"], name) in newer for name in _replaces(row, data)):
            data = {}
        if data:
            missing.append((row, data))
    return missing[::-1]


def _replaces(row: _Row, data: Mapping[str, Any]) -> list[str]:
    """What an earlier row must not overwrite once this one is sent."""
    if row["op"] == "tags":
        return list(data)
    if row["op"] == "artifact":
        return [str(data["path"])]
    return ["text"] if row["op"] == "note" else []


def _sendable(ops: list[_Row]) -> list[_Row]:
    return [row for row in ops if _payload(row)]


def _payload(row: _Row) -> dict[str, Any]:
    if row["op"] == "metrics":
        return {key: value for key, value in row["values"].items() if finite_or_none(value) is not None}
    if row["op"] == "note":
        return {"text": row["text"]}
    if row["op"] == "artifact":
        return {"path": row["path"]}
    return dict(row["values"])


def _send(
    contents: JournalContents, record: DeliveryLog, target: MLflowTarget, run_id: str | None, timeout: float
) -> JournalSync:
    rows = _missing(contents, record, target, run_id)
    troubles: list[str] = []
    numbers: dict[int, tuple[str, int]] = {}

    def on_sent(done: list[int]) -> None:
        if target.created and not record.created:
            record.remember(**{key: str(value) for key, value in target.describe().items()})
        for segment in {numbers[n][0] for n in done}:
            record.add(target.key, segment, [numbers[n][1] for n in done if numbers[n][0] == segment])

    sink = Sink(
        target,
        interval=0.0,
        limit=len(rows) + 1,
        on_sent=on_sent,
        on_trouble=lambda kind, sentence: troubles.append(sentence),
    )
    gone: list[int] = []
    for n, (row, data) in enumerate(rows):
        numbers[n] = (row["segment"], row["n"])
        payload = data
        if row["op"] == "artifact":
            content = contents.artifact(row)
            if content is None:
                gone.append(n)
                continue
            payload = {**data, "content": content}
        sink.put(Op(n, row["op"], int(row["t"]), payload, int(row.get("step", 0))))
    sink.close(timeout)
    if sink.waiting and not troubles:
        troubles.append(f"{target.name} has not answered within {timeout:g} s.")
    if gone:
        on_sent(gone)
        troubles.append(f"{len(gone)} artifacts are no longer in {contents.files}.")
    if target.created and not sink.waiting:
        try:
            target.finish()
        except Exception as error:
            troubles.append(f"{target.name} could not be marked as finished ({type(error).__name__}: {error}).")
    return JournalSync(
        journal=str(contents.path),
        run=target.name,
        sent=len(rows) - len(gone) - sink.waiting - sink.refused,
        waiting=sink.waiting,
        dropped=sink.refused + len(gone),
        error=troubles[-1] if troubles else "",
    )
