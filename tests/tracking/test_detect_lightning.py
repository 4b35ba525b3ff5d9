import importlib
import os

import pytest

from lightning_scaling.tracking import LoggerTarget, MLflowTarget, find_targets

pytestmark = pytest.mark.filterwarnings("ignore")  # Lightning and mlflow's autologging warn of many things


@pytest.fixture(params=["lightning.pytorch", "pytorch_lightning"])
def namespace(request):
    pytest.importorskip(request.param)
    return request.param


@pytest.fixture
def mlflow(store):
    """MLflow pointed at the store of the test; Lightning's logger sets the global address too."""
    import mlflow

    before, environment = mlflow.get_tracking_uri(), os.environ.get("MLFLOW_TRACKING_URI")
    mlflow.set_tracking_uri(store.uri)
    yield mlflow
    while mlflow.active_run() is not None:
        mlflow.end_run()
    mlflow.set_tracking_uri(before)
    os.environ.pop("MLFLOW_TRACKING_URI", None)
    if environment is not None:
        os.environ["MLFLOW_TRACKING_URI"] = environment


def fit(namespace, tmp_path, logger):
    lightning = importlib.import_module(namespace)
    model = importlib.import_module(f"{namespace}.demos.boring_classes").BoringModel()
    found = {}

    class Finder(lightning.Callback):
        def on_fit_start(self, trainer, pl_module):
            found["fit"] = find_targets(trainer)[0]

        def on_train_start(self, trainer, pl_module):
            found["train"] = find_targets(trainer)[0]

    trainer = lightning.Trainer(
        max_steps=1,
        limit_val_batches=0,
        logger=logger,
        callbacks=[Finder()],
        accelerator="cpu",
        default_root_dir=tmp_path,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
    )
    trainer.fit(model)
    return found


def test_lightnings_mlflow_logger(namespace, mlflow, store, tmp_path):
    logger = importlib.import_module(f"{namespace}.loggers").MLFlowLogger(
        experiment_name="tests", tracking_uri=store.uri
    )
    found = fit(namespace, tmp_path, logger)
    for targets in found.values():
        assert [(one.run_id, one.tracking_uri) for one in targets] == [(logger.run_id, store.uri)]


def test_the_active_run(namespace, mlflow, store, tmp_path):
    with mlflow.start_run(experiment_id=store.experiment) as run:
        found = fit(namespace, tmp_path, importlib.import_module(f"{namespace}.loggers").CSVLogger(tmp_path))
    for targets in found.values():
        assert [isinstance(one, LoggerTarget) for one in targets] == [False, True]
        assert targets[0].run_id == run.info.run_id


def test_the_run_that_autologging_starts_is_there_from_the_start_of_fit(namespace, mlflow, store, tmp_path):
    mlflow.set_experiment(experiment_id=store.experiment)
    mlflow.pytorch.autolog(log_models=False, checkpoint=False)
    try:
        found = fit(namespace, tmp_path, False)
    finally:
        mlflow.pytorch.autolog(disable=True)
    runs = [one.info.run_id for one in store.client.search_runs([store.experiment])]
    assert len(runs) == 1
    for targets in found.values():
        assert all(isinstance(one, MLflowTarget) for one in targets)
        assert [one.run_id for one in targets] == runs
