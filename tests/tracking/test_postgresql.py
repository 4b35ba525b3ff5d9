"""Trainings against a real MLflow server that keeps its runs in PostgreSQL: nothing is lost, nothing stored twice.

The database is a cluster of its own in a temporary folder; both servers listen on loopback only, and are stopped at
the end.
"""

from __future__ import annotations

import functools
import glob
import importlib
import importlib.util
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from lightning_scaling.callbacks import ScalingLawMonitor, run_logger
from lightning_scaling.cli import main
from lightning_scaling.tracking import pending_journals, read_journal, sync
from lightning_scaling.tracking.backends.mlflow import NOTE_TAG, ours

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

from _mlflow_server import Server, free_port

# mlflow, Lightning and the database drivers warn of much that these tests do not touch
pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.skipif(os.name != "posix", reason="needs signals")]

STEPS, LEAVES_AT, RETURNS_AT = 240, 80, 160
WAIT = 30.0  # generous: only ever reached when a test fails


def _program(name: str) -> str | None:
    """Where a program of PostgreSQL lies; Debian keeps those of the server off PATH. The newest comes last there."""
    found = sorted(glob.glob(f"/usr/lib/postgresql/*/bin/{name}"), key=lambda path: float(path.split("/")[4]))
    return shutil.which(name) or next(reversed(found), None)


def _unprivileged() -> dict[str, Any]:
    """The account to run PostgreSQL under, which refuses root, as arguments of ``subprocess``."""
    if os.geteuid() != 0:
        return {}
    import pwd

    for name in ("postgres", "nobody"):
        try:
            account = pwd.getpwnam(name)
        except KeyError:
            continue
        return {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}
    pytest.skip("needs an account other than root to run PostgreSQL under (`postgres` or `nobody`)")


@pytest.fixture(scope="module")
def database() -> Iterator[str]:
    """The URI of an empty database in a PostgreSQL cluster of its own."""
    initdb, pg_ctl = _program("initdb"), _program("pg_ctl")
    if initdb is None or pg_ctl is None:
        pytest.skip("needs the server of PostgreSQL: `initdb` and `pg_ctl`, on PATH or in /usr/lib/postgresql/*/bin")
    pytest.importorskip("psycopg2", reason="needs psycopg2 (pip install psycopg2-binary)")
    account, port, password = _unprivileged(), free_port(), secrets.token_hex(8)
    # not below tmp_path: pytest closes its folders to other accounts
    with tempfile.TemporaryDirectory(prefix="lightning-scaling-pg-") as name:
        folder = Path(name)
        (folder / "password").write_text(password)
        if account:
            for path in (folder, folder / "password"):
                os.chown(path, account["user"], account["group"])
        run = functools.partial(subprocess.run, cwd=folder, check=True, stdout=subprocess.DEVNULL, **account)
        data = str(folder / "data")
        run([initdb, "-D", data, "-U", "tests", "-A", "scram-sha-256", f"--pwfile={folder / 'password'}", "--no-sync"])
        options = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories='' -c fsync=off"
        # pg_ctl returns when the server takes connections
        run([pg_ctl, "start", "-w", "-t", "60", "-D", data, "-l", str(folder / "log"), "-o", options])
        try:
            yield f"postgresql://tests:{password}@127.0.0.1:{port}/postgres"
        finally:
            run([pg_ctl, "stop", "-w", "-m", "immediate", "-D", data])


@pytest.fixture(scope="module")
def server(database: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    # without its name, the driver would depend on the version of SQLAlchemy
    made = Server(tmp_path_factory.mktemp("server"), database.replace("postgresql:", "postgresql+psycopg2:"))
    made.start()
    yield made
    made.signal(signal.SIGKILL)


@pytest.fixture(autouse=True)
def settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Dead servers are found out at once, and rows are sent without a pause between batches."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
    monkeypatch.setattr(run_logger, "_WRITE_INTERVAL", 0.0)


@pytest.fixture
def rows(database: str) -> Callable[[str], list[tuple[str, int, int, float]]]:
    """Reads the metrics of a run out of the database itself: key, step, time and value of each row, sorted."""
    import psycopg2

    def read(run_id: str) -> list[tuple[str, int, int, float]]:
        connection = psycopg2.connect(database)
        try:
            with connection.cursor() as cursor:
                cursor.execute("SELECT key, step, timestamp, value FROM metrics WHERE run_uuid = %s", (run_id,))
                return sorted(cursor.fetchall())
        finally:
            connection.close()

    return read


def in_journal(journal: Path) -> list[tuple[str, int, int, float]]:
    """The metrics that a journal holds for its run, as ``rows`` gives them."""
    return sorted(
        (key, int(row["step"]), int(row["t"]), value)
        for row in read_journal(journal).ops
        if row["op"] == "metrics"
        for key, value in row["values"].items()
        if value is not None
    )


@dataclass
class Training:
    """A finished training, and what it left behind."""

    journal: Path
    run_id: str
    client: Any
    monitor: ScalingLawMonitor
    losses: list[float] = field(default_factory=list)

    @property
    def waiting(self) -> int:
        """Rows of the journal that the run does not have."""
        return sum(one.rows for one in pending_journals(self.journal.parent))


def until(condition: Callable[[], bool]) -> None:
    """Wait for something that another process or thread is about to do."""
    end = time.monotonic() + WAIT
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        threading.Event().wait(0.05)


@pytest.fixture
def train(server: Server, tmp_path: Path) -> Callable[..., Training]:
    """Train with ``MLFlowLogger`` and ``ScalingLawMonitor``; functions are called at steps, and after the monitor."""
    import torch
    from mlflow.tracking import MlflowClient

    pl = importlib.import_module("lightning.pytorch" if importlib.util.find_spec("lightning") else "pytorch_lightning")

    class Model(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.net = torch.nn.Sequential(torch.nn.Linear(4, 16), torch.nn.Tanh(), torch.nn.Linear(16, 1))
            self.losses: list[float] = []

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            loss = (self.net(batch) - batch.sum(1, keepdim=True)).square().mean()
            self.losses.append(float(loss.detach()))
            return loss

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=0.02)

    class At(pl.Callback):
        def __init__(self, at: dict[int, Callable[[str], None]], at_end: Callable[[], Any]) -> None:
            self.at, self.at_end = at, at_end

        def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
            self.at.get(trainer.global_step, lambda run_id: None)(trainer.logger.run_id)

        def teardown(self, *_: Any, **__: Any) -> None:
            self.at_end()

    def fit(at: dict[int, Callable[[str], None]] | None = None, at_end: Callable[[], Any] = lambda: None) -> Training:
        monitor = ScalingLawMonitor(
            count=4, max_overhead=1, journal=tmp_path / "journals", history=False, on_advice="ignore", name="tiny"
        )
        logger = pl.loggers.MLFlowLogger(f"{tmp_path.name}", tracking_uri=server.uri)
        model = Model()
        trainer = pl.Trainer(
            max_steps=STEPS,
            accelerator="cpu",
            callbacks=[monitor, At(at or {}, at_end)],
            logger=logger,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            default_root_dir=tmp_path,
        )
        data = torch.randn(256, 4, generator=torch.Generator().manual_seed(0))
        trainer.fit(model, torch.utils.data.DataLoader(data, batch_size=4))
        (journal,) = (tmp_path / "journals").glob("*.jsonl")
        return Training(journal, str(logger.run_id), MlflowClient(server.uri), monitor, model.losses)

    return fit


def assert_whole(training: Training) -> None:
    """The journal holds every point of the training and its end, undamaged."""
    contents = read_journal(training.journal)
    assert contents.damaged == 0
    assert contents.end is not None
    assert contents.end["status"] == "finished"
    assert list(contents.points.step) == list(range(1, STEPS + 1))
    assert contents.points.loss == pytest.approx(training.losses)


def test_everything_of_a_training_arrives(train, rows):
    training = train()
    assert_whole(training)
    assert training.waiting == 0
    stored = rows(training.run_id)
    assert stored == in_journal(training.journal)
    keys = {key for key, *_ in stored}
    assert {"scaling/loss", "scaling/samples", "scaling/flops", "scaling/forecast/final"} <= keys
    history = training.client.get_metric_history(training.run_id, "scaling/loss")
    assert len(history) == len(training.monitor.forecast_log)

    run = training.client.get_run(training.run_id)
    assert run.info.status == "FINISHED"
    assert run.data.params["scaling.plan.total_steps"] == str(STEPS)
    assert run.data.tags["scaling.status"] == "finished"
    assert run.data.tags["scaling.advice"] == "continue"
    assert ours(run.data.tags[NOTE_TAG])
    assert "counting" in run.data.tags[NOTE_TAG].lower()
    stored = {item.path.removeprefix("scaling/") for item in training.client.list_artifacts(training.run_id, "scaling")}
    assert {"curve.csv", "forecasts.json", "law.json", "fit.json", "forecast.png", "loss_vs_compute.png"} == stored


@pytest.mark.parametrize("returns", ["in the training", "after it"])
def test_a_killed_server_costs_neither_the_training_nor_a_row(train, rows, server, returns):
    before: list[Any] = []

    def kill(run_id: str) -> None:
        until(lambda: bool(rows(run_id)))
        server.signal(signal.SIGKILL)
        before.extend(rows(run_id))

    back = {RETURNS_AT: lambda run_id: server.start()} if returns == "in the training" else {}
    try:
        # MLFlowLogger itself raises at the end where its server is still gone; so it is back before that
        training = train({LEAVES_AT: kill, **back}, at_end=(lambda: None) if back else server.start)
    finally:
        if server.process.poll() is not None:  # also for the next test
            server.start()
    assert_whole(training)
    missing = training.waiting
    assert 0 < len(before) < len(in_journal(training.journal))
    assert missing == 0 if back else missing > 0

    send = ["sync", str(training.journal), "--tracking-uri", server.uri]
    for expected in (missing, 0):
        done = CliRunner().invoke(main, send)
        assert (done.exit_code, f": {expected} rows sent" in done.output) == (0, True), done.output
        assert rows(training.run_id) == in_journal(training.journal)
    assert training.waiting == 0

    # also where the record of what was sent is lost, the database keeps each row once
    training.journal.with_suffix(".sent.json").unlink()
    assert sync(training.journal, tracking_uri=server.uri).ok
    assert rows(training.run_id) == in_journal(training.journal)
    tags = training.client.get_run(training.run_id).data.tags
    assert (tags["scaling.status"], ours(tags[NOTE_TAG])) == ("finished", True)
    stored = {item.path for item in training.client.list_artifacts(training.run_id, "scaling")}
    assert {"scaling/curve.csv", "scaling/forecast.png"} <= stored


def test_an_experiment_that_is_deleted_and_restored_gets_every_row(train, rows, server):
    from mlflow.tracking import MlflowClient

    client = MlflowClient(server.uri)
    experiment: list[str] = []

    def delete(run_id: str) -> None:
        until(lambda: bool(rows(run_id)))
        experiment.append(client.get_run(run_id).info.experiment_id)
        client.delete_experiment(experiment[0])

    training = train({LEAVES_AT: delete}, at_end=lambda: client.restore_experiment(experiment[0]))
    assert_whole(training)
    missing = training.waiting
    assert missing > 0
    report = sync(training.journal, tracking_uri=server.uri)
    assert (report.ok, report.sent) == (True, missing)
    assert rows(training.run_id) == in_journal(training.journal)
    assert sync(training.journal, tracking_uri=server.uri).sent == 0
