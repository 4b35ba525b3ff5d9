"""A run learns from past ones while it trains, and never waits for them."""

import logging
import math
import socket
import threading
import warnings

import mlflow
import pytest

from lightning_scaling import Monitor, Run, RunHistory
from lightning_scaling.callbacks import ScalingLawMonitor
from lightning_scaling.history.reader_thread import THREAD, HistoryReader
from lightning_scaling.schedule import Plan
from lightning_scaling.tracking import read_journal

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
STEPS = range(1, 49)


@pytest.fixture(scope="module")
def past(tmp_path_factory):
    """An MLflow with three finished runs of one experiment and one of another."""
    folder = tmp_path_factory.mktemp("past")
    uri = f"sqlite:///{folder / 'mlflow.db'}"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        client = mlflow.MlflowClient(uri)
        for name, runs in (("family", 3), ("lonely", 1)):
            experiment = client.create_experiment(name, artifact_location=str(folder / name))
            for seed in range(runs):
                run_id = client.create_run(experiment).info.run_id
                for step in STEPS:
                    loss = 1 + seed / 10 + step**-0.7 + math.sin(7 * step + seed) / 200
                    client.log_metric(run_id, "train_loss", loss, step=step, synchronous=True)
                client.set_terminated(run_id)
    return uri


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LIGHTNING_SCALING_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def patient(monkeypatch):
    """A callback that lets the history arrive in the tenth step, or in the first."""
    gate = threading.Event()
    read = HistoryReader._read
    monkeypatch.setattr(HistoryReader, "_read", lambda self: gate.wait(30) and read(self))

    def make(pl, at=10):
        class Patient(pl.Callback):
            def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
                if trainer.global_step == at:
                    gate.set()
                    for thread in readers():
                        thread.join()

        return Patient()

    return make


def readers():
    return [thread for thread in threading.enumerate() if thread.name == THREAD]


@pytest.fixture
def logged(past, tmp_path):
    """Settings of a Trainer that writes into an experiment of the past; its runs are gone after the test."""
    made = []

    def make(pl, experiment):
        artifacts = str(tmp_path / "artifacts")
        made.append(pl.loggers.MLFlowLogger(experiment, tracking_uri=past, artifact_location=artifacts))
        return {"logger": made[-1], "log_every_n_steps": 1}

    yield make
    for one in made:
        mlflow.MlflowClient(past).delete_run(one.run_id)


def marks(tmp_path):
    (journal,) = (tmp_path / "scaling_journals").glob("*.jsonl")
    contents = read_journal(journal)
    return contents, [mark for mark in contents.marks if mark["reason"] == "history"]


@pytest.mark.parametrize("at", [0, 10])
def test_the_runs_of_its_own_experiment_are_the_default(at, both, module, fit, logged, past, patient, tmp_path, caplog):
    caplog.set_level(logging.INFO, "lightning_scaling")
    monitor = ScalingLawMonitor(max_overhead=1)
    mine = logged(both, "family")
    fit(both, [monitor, patient(both, at)], module(both), **mine, max_epochs=8)
    assert "Learned from 3 finished runs of the MLflow experiment 'family'" in caplog.text
    contents, (mark,) = marks(tmp_path)
    assert at - 4 <= mark["step"] <= at
    assert len(mark["data"]["runs"]) == 3
    assert mine["logger"].run_id not in mark["data"]["runs"]

    # the journal and the runs it names give the same forecasts again
    history = RunHistory(Run.from_mlflow(run_id, tracking_uri=past) for run_id in mark["data"]["runs"])
    header, points = contents.header, contents.points
    again = Monitor(Plan.from_dict(header["plan"]), params=header["params"]["total"])
    if at:
        again.observe(points.step[: mark["step"]], points.loss[: mark["step"]], lr=points.lr[: mark["step"]])
    assert [row["step"] for row in again.forecast_log] == [
        row["step"] for row in monitor.forecast_log if row["step"] <= mark["step"]
    ]
    again.learn(history)
    again.observe(points.step[mark["step"] :], points.loss[mark["step"] :], lr=points.lr[mark["step"] :])
    again.finish()
    finals = [(row["step"], row["final"], row["lower"], row["upper"]) for row in monitor.forecast_log]
    assert [(row["step"], row["final"], row["lower"], row["upper"]) for row in again.forecast_log] == finals


@pytest.mark.parametrize("given", [False, True])
def test_the_end_is_foretold_before_the_first_update(given, pl, module, fit, logged, past, patient, caplog):
    caplog.set_level(logging.INFO, "lightning_scaling")
    mine = logged(pl, "family")
    history = RunHistory.from_mlflow("family", tracking_uri=past) if given else None
    fit(pl, [ScalingLawMonitor(history=history, max_overhead=1), patient(pl, 0)], module(pl), **mine, max_epochs=8)
    assert caplog.text.count("before the first update the final loss is forecast at 1.") == 1
    assert "trust low: no losses yet; it rests on 3 finished runs of the family" in caplog.text
    client = mlflow.MlflowClient(past)
    first = min(client.get_metric_history(mine["logger"].run_id, "scaling/forecast/final"), key=lambda m: m.step)
    assert first.step == 0
    assert 1 < first.value < 1.5


def test_too_few_relatives_are_said_to_be(pl, module, fit, logged, patient, tmp_path, caplog):
    caplog.set_level(logging.INFO, "lightning_scaling")
    mine = logged(pl, "lonely")
    fit(pl, [ScalingLawMonitor(max_overhead=1), patient(pl)], module(pl), **mine, max_epochs=8)
    assert "No prior yet: the MLflow experiment 'lonely' has 1 finished run to learn from, 2 are needed" in caplog.text
    assert marks(tmp_path)[1] == []


def test_without_mlflow_there_is_no_prior_and_it_says_so(pl, module, fit, tmp_path, caplog):
    caplog.set_level(logging.INFO, "lightning_scaling")
    fit(pl, ScalingLawMonitor(max_overhead=1), module(pl))
    assert caplog.text.count("No prior yet") == 1
    assert marks(tmp_path)[1] == []


def test_an_experiment_by_name_and_an_mlflow_run_elsewhere(both, module, fit, past, patient, tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", past)
    monitor = ScalingLawMonitor(history="mlflow:family", max_overhead=1)
    fit(both, [monitor, patient(both)], module(both), max_epochs=8)
    assert len(marks(tmp_path)[1][0]["data"]["runs"]) == 3


def test_a_folder_of_curves(pl, module, fit, past, patient, tmp_path):
    folder = tmp_path / "curves"
    folder.mkdir()
    for run in RunHistory.from_mlflow("family", tracking_uri=past):
        run.to_csv(folder / f"{run.meta['run_id']}.csv")
    monitor = ScalingLawMonitor(history=folder, max_overhead=1)
    fit(pl, [monitor, patient(pl)], module(pl), max_epochs=8)
    assert len(marks(tmp_path)[1][0]["data"]["runs"]) == 3


@pytest.mark.parametrize("settings", [{"history": False}, {"history": RunHistory()}])
def test_nothing_is_read_where_nothing_was_asked_for(pl, module, fit, logged, tmp_path, settings, caplog):
    caplog.set_level(logging.INFO, "lightning_scaling")
    mine = logged(pl, "lonely")
    fit(pl, ScalingLawMonitor(**settings), module(pl), **mine)
    assert "prior yet" not in caplog.text
    assert marks(tmp_path)[1] == []


def test_a_fast_dev_run_reads_nothing(both, module, fit, monkeypatch):
    started = []
    monkeypatch.setattr("lightning_scaling.callbacks.past_runs.HistoryReader.start", started.append)
    fit(both, ScalingLawMonitor(), module(both), fast_dev_run=True)
    assert started == []


def test_an_mlflow_that_is_gone_neither_delays_nor_stops_training(both, module, fit, patient, monkeypatch):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{taken.getsockname()[1]}")
        monkeypatch.setattr(mlflow, "get_tracking_uri", lambda: f"http://127.0.0.1:{taken.getsockname()[1]}")
        monitor = ScalingLawMonitor(history="mlflow:family", max_overhead=1)
        with pytest.warns(UserWarning, match="No history: MLflow at .* cannot be reached") as warned:
            trainer = fit(both, [monitor, patient(both)], module(both), max_epochs=8)
    assert sum("No history" in str(one.message) for one in warned) == 1
    assert trainer.global_step == 48
    assert monitor.forecast is not None


def test_a_history_that_comes_too_late_is_not_waited_for(pl, module, fit, logged, tmp_path, monkeypatch, caplog):
    caplog.set_level(logging.INFO, "lightning_scaling")
    gate = threading.Event()
    monkeypatch.setattr("lightning_scaling.history.reader_thread.find_run", lambda *args: gate.wait(30) and 1 / 0)
    mine = logged(pl, "lonely")
    try:
        trainer = fit(pl, ScalingLawMonitor(max_overhead=1), module(pl), **mine)
    finally:
        gate.set()
    assert trainer.global_step == 12
    assert "had not been read when the training ended" in caplog.text


@pytest.mark.parametrize(
    ("history", "error", "said"),
    [
        ("mlflow:", ValueError, "must name an experiment"),
        ("no/such/folder", ValueError, "which is no folder"),
        (True, TypeError, "`history` must be a RunHistory, a folder"),
        (3, TypeError, "`history` must be a RunHistory, a folder"),
    ],
)
def test_what_cannot_be_a_history_is_refused(history, error, said):
    with pytest.raises(error, match=said):
        ScalingLawMonitor(history=history)
