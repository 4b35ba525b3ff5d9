"""Finished runs, read from MLflow: what a new run can learn from."""

from lightning_scaling.history.cache import cache_folder
from lightning_scaling.history.error import HistoryError
from lightning_scaling.history.read import history_from_mlflow, run_from_mlflow
from lightning_scaling.history.reader_thread import HistoryReader, Learned

__all__ = [
    "HistoryError",
    "HistoryReader",
    "Learned",
    "cache_folder",
    "history_from_mlflow",
    "run_from_mlflow",
]
