"""A fresh sqlite MLflow for each test, and runs in it as this package, or somebody else, logs them."""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

STEPS = np.arange(10, 401, 10)


def falling(steps: np.ndarray, seed: int = 0) -> np.ndarray:
    return 2 + 3 * steps**-0.4 + np.random.default_rng(seed).normal(0, 0.002, steps.size)


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sqlite MLflow with its schema: making it takes seconds, copying it does not."""
    database = tmp_path_factory.mktemp("history") / "empty.db"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # mlflow and sqlalchemy warn of each other while they are imported
        from mlflow.tracking import MlflowClient

        MlflowClient(tracking_uri=f"sqlite:///{database}").search_experiments()
    return database


@dataclass
class Experiment:
    """An experiment of one test."""

    uri: str
    client: Any
    id: str
    name: str = "past"

    def log(
        self,
        metrics: Mapping[str, tuple[Sequence[float], Sequence[float]]],
        *,
        params: Mapping[str, Any] | None = None,
        tags: Mapping[str, str] | None = None,
        status: str | None = "FINISHED",
        name: str | None = None,
    ) -> str:
        from mlflow.entities import Metric, Param

        run_id = self.client.create_run(self.id, run_name=name, tags=dict(tags or {})).info.run_id
        points = [
            Metric(key, float(value), index, int(step))
            for key, (steps, values) in metrics.items()
            for index, (step, value) in enumerate(zip(steps, values, strict=True))
        ]
        known = [Param(key, str(value)) for key, value in (params or {}).items()]
        self.client.log_batch(run_id, metrics=points, params=known)
        if status is not None:
            self.client.set_terminated(run_id, status)
        return str(run_id)

    def ours(self, seed: int = 0, total: int = 400, **known: Any) -> str:
        """A run as the callback logs it: means since the update before, at Lightning's steps, which count from 0."""
        metrics = {
            "scaling/loss": (STEPS - 1, falling(STEPS, seed)),
            "scaling/lr": (STEPS - 1, 1e-3 * (1 - STEPS / 401)),
            "scaling/tokens": (STEPS - 1, STEPS * 64.0),
            "scaling/flops": (STEPS - 1, STEPS * 1e6),
        }
        params = {"scaling.params.total": 1234, "scaling.plan.total_steps": total, **known.pop("params", {})}
        return self.log(metrics, params=params, **known)

    def foreign(self, metric: str = "train_loss", seed: int = 0, **known: Any) -> str:
        metrics = {metric: (STEPS, falling(STEPS, seed)), "lr-AdamW": (STEPS, np.full(STEPS.size, 1e-3))}
        return self.log(metrics, **known)


@pytest.fixture
def past(empty_store: Path, tmp_path: Path) -> Experiment:
    from mlflow.tracking import MlflowClient

    database = tmp_path / "mlflow.db"
    shutil.copy(empty_store, database)
    client = MlflowClient(tracking_uri=f"sqlite:///{database}")
    experiment = client.create_experiment("past", artifact_location=str(tmp_path / "artifacts"))
    return Experiment(f"sqlite:///{database}", client, experiment)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LIGHTNING_SCALING_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"
