"""Later delivery of what a run could not send: from its journal to its run, only what is missing there."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from lightning_scaling._utils.serialization import finite_or_none
from lightning_scaling.tracking.backends import BACKENDS, MLflowTarget, RunTarget
from lightning_scaling.tracking.backends.base import cause_of, without_secrets
from lightning_scaling.tracking.delivery_log import DeliveryLog
from lightning_scaling.tracking.journal import being_written
from lightning_scaling.tracking.journal_reader import JournalContents, is_journal, read_journal
from lightning_scaling.tracking.sink import Op, Sink

_Row = dict[str, Any]
_Missing = tuple[_Row, Mapping[str, Any]]


@dataclass(frozen=True)
class JournalSync:
    """How the sync of one journal to one run went.

    Attributes:
        journal: The journal.
        run: The run, as ``MLflow run <id> at <uri>``; ``""`` when the journal names none.
        sent: Rows sent now.
        waiting: Rows still missing there.
        dropped: Rows that cannot be sent: refused (the next sync offers them again), or an artifact whose file is gone.
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


def pending_journals(folder: Path | str) -> list[PendingJournal]:
    """The journals below a folder with rows that were meant for a tracker's run and have not been sent.

    A file that cannot be read is passed over.
    """
    pending = []
    for path in _journals(Path(folder)):
        try:
            contents = read_journal(path)
        except (OSError, ValueError):
            continue
        log = DeliveryLog(path)
        targets = [(run.target(run.recorded_uri, contents), run.segments) for run in _runs(contents, log)]
        missing = {target.name: len(_missing(contents, log, target.key, segments)) for target, segments in targets}
        missing = {name: rows for name, rows in missing.items() if rows}
        if missing:
            pending.append(PendingJournal(str(path), sum(missing.values()), tuple(missing), being_written(path)))
    return pending


def sync(
    journal: Path | str,
    *,
    tracking_uri: str | None = None,
    run_id: str | None = None,
    experiment: str | None = None,
    to_recorded_server: bool = False,
    timeout: float = 60.0,
) -> SyncReport:
    """Send what is missing of a journal, or of all journals below a folder, to the run that it was meant for.

    Rows that were sent already are not sent again, and a row that does get sent twice is stored once, so a sync can be
    repeated or stopped at any time.

    A tracker's client sends the user's credentials along, and a journal may come from somebody else. So rows go to the
    server that the user has configured or names, not to any that a journal names.

    Args:
        journal: A journal, or a folder.
        tracking_uri: Where the run is kept; by default what the tracker is configured with (``MLFLOW_TRACKING_URI``).
            A journal that names another server is then not sent.
        run_id: The run to send to; by default the one that the journal names.
        experiment: For a journal that names no run: the experiment in which to create one. It is remembered, and the
            next sync of the journal sends to the same run.
        to_recorded_server: Send to the server that the journal names, whatever is configured.
        timeout: Seconds given to each run of each journal.

    Returns:
        What was sent, and what is still missing.

    Raises:
        FileNotFoundError: If there is no such file or folder.
        ValueError: If the file is not a journal, or one ``run_id`` is given for several journals.
    """
    place = Path(journal)
    paths = list(_journals(place)) if place.is_dir() else [place]
    if run_id is not None and len(paths) > 1:
        raise ValueError(f"`run_id` names one run, but {place} holds {len(paths)} journals: give one journal with it.")
    done: list[JournalSync] = []
    for path in paths:
        contents, log = read_journal(path), DeliveryLog(path)
        runs = _runs(contents, log)
        if run_id is not None or (experiment is not None and not runs):
            recorded = runs[0].recorded_uri if runs else ""
            runs = [_Run(MLflowTarget.kind, run_id, recorded, {one.id for one in contents.segments}, experiment)]
        if not runs and not place.is_dir():
            reason = (
                "The journal names no MLflow run: give a run id, or an experiment in which to create a run, together "
                "with a tracking URI."
            )
            waiting = sum(bool(_payload(row)) for row in contents.ops)
            done.append(JournalSync(str(path), "", waiting=waiting, error=reason))
        for run in runs:
            uri = tracking_uri or run.trusted_uri(to_recorded_server)
            target = run.target(uri or run.recorded_uri, contents)
            rows = _missing(contents, log, target.key, run.segments)
            if uri is None and rows:
                configured = without_secrets(BACKENDS[run.kind].configured_uri())
                reason = (
                    f"The journal names the server {without_secrets(run.recorded_uri)}, and {target.title} is "
                    f"configured with {configured}: give `--tracking-uri`, or `--to-recorded-server` if you trust the "
                    "journal."
                )
                done.append(JournalSync(str(path), target.name, waiting=len(rows), error=reason))
            else:
                done.append(_send(contents, log, target, rows, timeout))
    return SyncReport(tuple(done))


@dataclass
class _Run:
    """A run that a journal is to be sent to.

    Attributes:
        kind: Its backend.
        run_id: The run; ``None`` for one that is to be created.
        recorded_uri: The server that the journal names, ``""`` for none.
        segments: Ids of the segments whose rows it is to have.
        experiment: Where it is to be created.
    """

    kind: str
    run_id: str | None
    recorded_uri: str
    segments: set[str] = field(default_factory=set)
    experiment: str | None = None

    def target(self, uri: str, contents: JournalContents) -> RunTarget:
        """The run at a server."""
        name = str(contents.header.get("name") or contents.path.stem)
        spec = {"run_id": self.run_id, "tracking_uri": uri, "experiment": self.experiment, "run_name": name}
        return BACKENDS[self.kind].from_spec(spec)

    def trusted_uri(self, to_recorded_server: bool) -> str | None:
        """The server to send to; ``None`` if the journal names one that the user has not configured."""
        if to_recorded_server and self.recorded_uri:
            return self.recorded_uri
        configured = BACKENDS[self.kind].configured_uri()
        same = without_secrets(configured).rstrip("/") == without_secrets(self.recorded_uri).rstrip("/")
        return configured if same or not self.recorded_uri else None


def _journals(folder: Path) -> Iterator[Path]:
    return filter(is_journal, sorted(folder.rglob("*.jsonl")))


def _runs(contents: JournalContents, log: DeliveryLog) -> list[_Run]:
    """The runs that a journal names, else the one created for it, each once, in the order of the journal."""
    runs: dict[tuple[str, ...], _Run] = {}
    named = [(segment.id, spec) for segment in contents.segments for spec in segment.targets]
    for segment, spec in named or [(segment.id, log.created) for segment in contents.segments]:
        kind, run_id, uri = (str(spec.get(name) or "") for name in ("kind", "run_id", "tracking_uri"))
        if kind in BACKENDS and run_id and uri:
            runs.setdefault((kind, run_id, uri), _Run(kind, run_id, uri)).segments.add(segment)
    return list(runs.values())


def _missing(contents: JournalContents, log: DeliveryLog, key: str, segments: set[str]) -> list[_Missing]:
    """Rows that the target does not have, with what to send of each: nothing that a later row, sent, has replaced."""
    missing: list[_Missing] = []
    newer: set[tuple[str, str]] = set()
    for row in reversed(contents.ops):
        data = _payload(row)
        if not data or row["segment"] not in segments:
            continue
        if row["n"] in log.sent(key, row["segment"]):
            newer.update((row["op"], name) for name in _replaces(row, data))
            continue
        if row["op"] == "tags":
            data = {name: value for name, value in data.items() if ("tags", name) not in newer}
        elif any((row["op"], name) in newer for name in _replaces(row, data)):
            continue
        if data:
            missing.append((row, data))
    return missing[::-1]


def _replaces(row: _Row, data: Mapping[str, Any]) -> list[str]:
    """What an earlier row must not overwrite once this one is sent."""
    if row["op"] == "artifact":
        return [str(data["path"])]
    return list(data) if row["op"] in ("tags", "note") else []


def _payload(row: _Row) -> dict[str, Any]:
    if row["op"] == "metrics":
        return {key: value for key, value in row["values"].items() if finite_or_none(value) is not None}
    if row["op"] in ("note", "artifact"):
        return {key: row[key] for key in ("text", "path") if key in row}
    return dict(row["values"])


def _send(
    contents: JournalContents, log: DeliveryLog, target: RunTarget, rows: list[_Missing], timeout: float
) -> JournalSync:
    troubles: list[str] = []

    def on_sent(done: list[int]) -> None:
        if target.created and not log.created:
            log.remember(**{key: str(value) for key, value in target.describe().items()})
        sent = [rows[n][0] for n in done]
        for segment in {row["segment"] for row in sent}:
            log.add(target.key, segment, [row["n"] for row in sent if row["segment"] == segment])

    def on_trouble(kind: str, sentence: str) -> None:
        troubles.append(sentence)

    sink = Sink(target, interval=0.0, limit=len(rows) + 1, on_sent=on_sent, on_trouble=on_trouble)
    gone: list[int] = []
    for n, (row, data) in enumerate(rows):
        payload = dict(data)
        if row["op"] == "artifact":
            payload["content"] = contents.artifact(row)
            if payload["content"] is None:
                gone.append(n)
                continue
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
            troubles.append(f"{target.name} could not be marked as finished ({cause_of(error)}).")
    dropped, trouble = sink.refused + len(gone), troubles[-1] if troubles else ""
    sent = len(rows) - dropped - sink.waiting
    return JournalSync(str(contents.path), target.name, sent, sink.waiting, dropped, trouble)
