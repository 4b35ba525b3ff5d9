"""The journal of a run, and its delivery to MLflow and other loggers without waiting."""

from lightning_scaling.tracking import schema
from lightning_scaling.tracking.backends import BACKENDS, LoggerTarget, MLflowTarget, RunTarget
from lightning_scaling.tracking.delivery import TargetReport, TrackerReport
from lightning_scaling.tracking.detect import Target, find_targets
from lightning_scaling.tracking.journal import EventKind, Journal, new_journal_path
from lightning_scaling.tracking.journal_reader import JournalContents, Segment, read_journal
from lightning_scaling.tracking.journal_sync import JournalSync, PendingJournal, SyncReport, pending_journals, sync
from lightning_scaling.tracking.sink import Breaker, Sink
from lightning_scaling.tracking.tracker import Tracker

__all__ = [
    "BACKENDS",
    "Breaker",
    "EventKind",
    "Journal",
    "JournalContents",
    "JournalSync",
    "LoggerTarget",
    "MLflowTarget",
    "PendingJournal",
    "RunTarget",
    "Segment",
    "Sink",
    "SyncReport",
    "Target",
    "TargetReport",
    "Tracker",
    "TrackerReport",
    "find_targets",
    "new_journal_path",
    "pending_journals",
    "read_journal",
    "schema",
    "sync",
]
