"""Reading of past runs from MLflow and from folders."""

from lightning_scaling.history.cache import cache_folder
from lightning_scaling.history.error import HistoryError
from lightning_scaling.history.folder import history_from_folder
from lightning_scaling.history.read import history_from_mlflow, run_from_mlflow
from lightning_scaling.history.reader_thread import HistoryReader, ReadHistory

__all__ = [
    "HistoryError",
    "HistoryReader",
    "ReadHistory",
    "cache_folder",
    "history_from_folder",
    "history_from_mlflow",
    "run_from_mlflow",
]
