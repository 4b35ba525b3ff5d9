"""The journal of a run, and its delivery to MLflow and other loggers without waiting."""

from lightning_scaling.tracking import schema as names
from lightning_scaling.tracking.backends.lightning_logger import LoggerTarget
from lightning_scaling.tracking.backends.mlflow import MLflowTarget
from lightning_scaling.tracking.delivery import TargetReport, TrackerReport
from lightning_scaling.tracking.detect import Target, find_targets
from lightning_scaling.tracking.journal import Journal, new_journal_path
from lightning_scaling.tracking.journal_reader import JournalContents, Segment, read_journal
from lightning_scaling.tracking.sink import Breaker, Sink
from lightning_scaling.tracking.sync import JournalSync, PendingJournal, SyncReport, pending_journals, sync
from lightning_scaling.tracking.tracker import Tracker

__all__ = [
    "Breaker",
    "Journal",
    "JournalContents",
    "JournalSync",
    "LoggerTarget",
    "MLflowTarget",
    "PendingJournal",
    "Segment",
    "Sink",
    "SyncReport",
    "Target",
    "TargetReport",
    "Tracker",
    "TrackerReport",
    "find_targets",
    "names",
    "new_journal_path",
    "pending_journals",
    "read_journal",
    "sync",
]
