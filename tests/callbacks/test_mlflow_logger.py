"""With an MLFlowLogger everything arrives in its run."""

from functools import partial

import mlflow
import pytest
import torch

from lightning_scaling.callbacks import ScalingLawMonitor
from lightning_scaling.tracking import detect

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


def test_metrics_params_tags_description_and_artifacts(pl, module, fit, tmp_path):
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    logger = pl.loggers.MLFlowLogger("runs", tracking_uri=uri, artifact_location=str(tmp_path / "artifacts"))
    monitor = ScalingLawMonitor(count=3, max_overhead=1, name="tiny")
    fit(pl, monitor, module(pl), logger=logger, max_epochs=8, log_every_n_steps=1)

    client = mlflow.MlflowClient(uri)
    run = client.get_run(logger.run_id)
    last = run.data.metrics
    assert last["scaling/tokens"] == 8 * 66
    assert last["scaling/samples"] == 8 * 22
    assert last["scaling/flops"] == monitor.counters["flops"]
    assert last["scaling/lr"] == 0.01
    assert last["scaling/forecast/lower"] < last["scaling/forecast/final"] < last["scaling/forecast/upper"]
    assert 0 < last["scaling/overhead"] < 1
    history = client.get_metric_history(logger.run_id, "scaling/loss")
    assert len(history) == len(monitor.forecast_log)
    assert max(point.step for point in history) == 47

    params = run.data.params
    assert params["scaling.unit"] == "tokens"
    assert params["scaling.flops.provenance"] == "counter"
    assert params["scaling.plan.total_steps"] == "48"
    assert params["scaling.params.total"] == str(4 * 8 + 8 + 8 * 2 + 2)
    assert "scaling.versions.torch" in params
    assert run.data.tags["scaling.advice"] == "continue"
    assert "counting tokens" in run.data.tags["mlflow.note.content"].lower()
    stored = {item.path for item in client.list_artifacts(logger.run_id, "scaling")}
    names = ("curve.csv", "forecasts.json", "law.json", "fit.json", "forecast.png", "loss_vs_compute.png")
    assert stored == {f"scaling/{name}" for name in names}


def test_a_run_that_never_leaves_its_warmup_has_no_law_but_all_else(pl, module, fit, tmp_path):
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    logger = pl.loggers.MLFlowLogger("runs", tracking_uri=uri, artifact_location=str(tmp_path / "artifacts"))
    rising = partial(torch.optim.lr_scheduler.LinearLR, start_factor=0.01, total_iters=48)
    fit(
        pl,
        ScalingLawMonitor(count=3, max_overhead=1),
        module(pl, schedule=rising),
        logger=logger,
        max_epochs=8,
        log_every_n_steps=1,
    )
    stored = {item.path for item in mlflow.MlflowClient(uri).list_artifacts(logger.run_id, "scaling")}
    assert "scaling/forecast.png" in stored
    assert "scaling/fit.json" not in stored


def test_the_logger_is_asked_for_its_run_once(pl, module, fit, tmp_path, monkeypatch):
    asked = []
    real = detect._run_of
    monkeypatch.setattr(detect, "_run_of", lambda logger: asked.append(logger) or real(logger))
    logger = pl.loggers.MLFlowLogger("runs", tracking_uri=f"sqlite:///{tmp_path / 'mlflow.db'}")
    fit(pl, ScalingLawMonitor(count=3), module(pl), logger=logger, max_epochs=1, log_every_n_steps=1)
    assert asked == [logger]  # each time it could block on a dead server
