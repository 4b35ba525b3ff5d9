"""A run leaves its forecasts for those after it, and takes what those before it have left."""

import json
import logging
import shutil
import threading
import warnings

import mlflow
import pytest

from lightning_scaling import Run, RunHistory, replay
from lightning_scaling.callbacks import ScalingLawMonitor
from lightning_scaling.forecast import Forecaster
from lightning_scaling.forecast.calibration import Calibration, ErrorSpread
from lightning_scaling.history.calibration_store import keep_in_mlflow
from lightning_scaling.history.mlflow_parse import Experiment
from lightning_scaling.history.reader_thread import THREAD
from lightning_scaling.tracking import read_journal

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


@pytest.fixture(scope="module")
def empty_store(tmp_path_factory):
    """A sqlite MLflow with its schema: making it takes seconds, copying it does not."""
    database = tmp_path_factory.mktemp("calibrated") / "empty.db"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # mlflow and sqlalchemy warn of each other while they are imported
        mlflow.MlflowClient(f"sqlite:///{database}").search_experiments()
    return database


@pytest.fixture
def logged(empty_store, tmp_path):
    """Settings of a Trainer that writes into the experiment `family`."""
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"

    def make(pl):
        logger = pl.loggers.MLFlowLogger("family", tracking_uri=uri, artifact_location=str(tmp_path / "artifacts"))
        return {"logger": logger, "log_every_n_steps": 1, "max_epochs": 8}

    return uri, make


def readers_done(pl):
    class Patient(pl.Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            for thread in threading.enumerate():
                if thread.name == THREAD and trainer.global_step == 1:
                    thread.join()

    return Patient()


def test_a_finished_run_leaves_its_forecasts_in_a_tag(both, module, fit, logged):
    uri, make = logged
    settings = make(both)
    monitor = ScalingLawMonitor(max_overhead=1, history=False)
    fit(both, monitor, module(both), **settings)
    text = mlflow.MlflowClient(uri).get_run(settings["logger"].run_id).data.tags["scaling.forecasts"]
    reported = json.loads(text)
    assert len(text) < 1000
    assert reported["law"] == Forecaster.law
    assert reported["steps"] == 48
    assert set(reported["at"]) >= {0.25, 0.5, 0.75}
    assert set(reported["mode"]) == {"alone"}
    assert len(reported["at"]) == len(reported["error"]) == len(reported["scale"])
    assert Run.from_mlflow(settings["logger"].run_id, tracking_uri=uri).meta["forecasts"] == reported


def test_a_run_broken_off_leaves_none(pl, module, fit, logged):
    uri, make = logged
    settings = make(pl)

    class Stop(pl.Callback):
        def on_train_batch_end(self, trainer, *args):
            trainer.should_stop = trainer.global_step >= 24

    fit(pl, [ScalingLawMonitor(max_overhead=1, history=False), Stop()], module(pl), **settings)
    assert "scaling.forecasts" not in mlflow.MlflowClient(uri).get_run(settings["logger"].run_id).data.tags


def test_the_next_run_uses_what_is_kept_and_its_journal_says_the_same_again(pl, module, fit, logged, tmp_path, caplog):
    caplog.set_level(logging.INFO, "lightning_scaling")
    uri, make = logged
    for _ in range(2):
        fit(pl, ScalingLawMonitor(max_overhead=1, history=False, journal=False), module(pl), **make(pl))
    client = mlflow.MlflowClient(uri)
    found = client.get_experiment_by_name("family")
    kept = Calibration({"family": ErrorSpread(50, (50,) * 6, (3.0,) * 6)}, Forecaster.law)
    keep_in_mlflow(Experiment(found.experiment_id, found.name), kept, uri)

    monitor = ScalingLawMonitor(max_overhead=1, name="third")
    fit(pl, [monitor, readers_done(pl)], module(pl), **make(pl))
    assert "Intervals are scaled by" in caplog.text
    late = [row for row in monitor.forecast_log if row["mode"] == "family" and row["step"] < row["horizon"]]
    assert late
    assert all(2 < row["factor"] < 3 for row in late)

    (journal,) = (tmp_path / "scaling_journals").glob("third*.jsonl")
    (mark,) = [mark for mark in read_journal(journal).marks if mark["reason"] == "history"]
    assert Calibration.from_dict(mark["data"]["calibration"]).spreads["family"] == kept.spreads["family"]
    history = RunHistory.from_mlflow("family", tracking_uri=uri)
    history.calibration = None  # what is kept may have changed since: the journal says what was used
    again = replay(Run.from_journal(journal), history=history)
    said = [(row["step"], row["final"], row["lower"], row["upper"]) for row in monitor.forecast_log]
    assert [(u.step, u.forecast.final, *u.forecast.interval()) for u in again] == said
