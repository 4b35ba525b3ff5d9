"""Fake targets that fail or block on command, and a fresh sqlite MLflow for each test."""

from __future__ import annotations

import shutil
import threading
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from lightning_scaling.tracking.backends.base import Point

WAIT = 30.0  # generous: only ever reached when a test fails


class FakeTarget:
    """Keeps what it is sent; raises ``failure`` while set; blocks while ``gate`` is closed."""

    kind = "mlflow"

    def __init__(self, run_id: str = "run") -> None:
        self.run_id = run_id
        self.metrics: list[Point] = []
        self.params: dict[str, str] = {}
        self.tags: dict[str, str] = {}
        self.notes: list[str] = []
        self.artifacts: dict[str, bytes] = {}
        self.calls: list[str] = []
        self.opened = 0
        self.failure: Callable[[str, Any], None] | None = None
        self.gate = threading.Event()
        self.gate.set()
        self.entered = threading.Event()
        self.reached: dict[int, threading.Event] = {}

    @property
    def key(self) -> str:
        return f"mlflow:{self.run_id}"

    @property
    def name(self) -> str:
        return f"fake {self.run_id}"

    def describe(self) -> dict[str, Any]:
        return {"kind": "mlflow", "run_id": self.run_id, "tracking_uri": "sqlite:////nowhere/fake.db"}

    def _step(self, kind: str, content: Any) -> None:
        self.calls.append(kind)
        event = self.reached.get(len(self.calls))
        if event is not None:
            event.set()
        self.entered.set()
        assert self.gate.wait(WAIT)
        if self.failure is not None:
            self.failure(kind, content)

    def open(self) -> None:
        self.opened += 1

    def write(
        self, *, metrics: list[Point] | None = None, params: dict[str, str] | None = None, tags: Any = None
    ) -> None:
        kind = "metrics" if metrics else "params" if params else "tags"
        self._step(kind, metrics or params or tags)
        self.metrics += metrics or []
        self.params.update(params or {})
        self.tags.update(tags or {})

    def note(self, text: str) -> None:
        self._step("note", text)
        self.notes.append(text)

    def artifact(self, path: str, content: bytes) -> None:
        self._step("artifact", path)
        self.artifacts[path] = content


def dead(kind: str, content: Any) -> None:
    raise ConnectionError("connection refused")


@pytest.fixture
def target() -> Iterator[FakeTarget]:
    fake = FakeTarget()
    yield fake
    fake.gate.set()


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture(scope="session")
def mlflow_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sqlite MLflow with its schema: making it takes seconds, copying it does not."""
    database = tmp_path_factory.mktemp("mlflow") / "template.db"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # mlflow and sqlalchemy warn of each other while they are imported
        from mlflow.tracking import MlflowClient

        MlflowClient(tracking_uri=f"sqlite:///{database}").search_experiments()
    return database


@dataclass
class Store:
    """A sqlite MLflow of one test."""

    uri: str
    client: Any
    experiment: str

    def run(self, **kwargs: Any) -> str:
        return str(self.client.create_run(self.experiment, **kwargs).info.run_id)

    def history(self, run_id: str, key: str) -> list[tuple[int, float]]:
        return sorted((one.step, one.value) for one in self.client.get_metric_history(run_id, key))

    def data(self, run_id: str) -> Any:
        return self.client.get_run(run_id).data


@pytest.fixture
def store(mlflow_template: Path, tmp_path: Path) -> Store:
    from mlflow.tracking import MlflowClient

    database = tmp_path / "mlflow.db"
    shutil.copy(mlflow_template, database)
    uri = f"sqlite:///{database}"
    client = MlflowClient(tracking_uri=uri)
    return Store(uri, client, client.create_experiment("tests", artifact_location=str(tmp_path / "artifacts")))
