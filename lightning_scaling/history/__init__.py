"""Finished runs, read from MLflow: what a new run can learn from."""

from lightning_scaling.history.background import BackgroundHistory, Learned
from lightning_scaling.history.cache import cache_folder
from lightning_scaling.history.error import HistoryError
from lightning_scaling.history.read import history_from_mlflow, run_from_mlflow

__all__ = [
    "BackgroundHistory",
    "HistoryError",
    "Learned",
    "cache_folder",
    "history_from_mlflow",
    "run_from_mlflow",
]
