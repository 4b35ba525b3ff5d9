import json
import shutil
import warnings

import numpy as np
import pytest
from click.testing import CliRunner

from lightning_scaling import Run, RunHistory
from lightning_scaling._utils.serialization import to_builtins
from lightning_scaling.cli import main
from lightning_scaling.engine.monitor import Monitor
from lightning_scaling.forecast.calibration import Calibration
from lightning_scaling.tracking import Tracker

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
STEPS = np.arange(10, 801, 10)


def run(*args):
    return CliRunner().invoke(main, ["calibrate", *(str(arg) for arg in args)])


@pytest.fixture
def folder(tmp_path, make_run):
    place = tmp_path / "curves"
    place.mkdir()
    for seed, total in enumerate((800, 1000, 1300, 1700, 2200, 2900)):
        make_run(total=total, seed=seed).to_csv(place / f"run{seed}.csv")
    return place


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """An MLflow with an experiment of six runs in one family and two in another."""
    place = tmp_path_factory.mktemp("stored")
    uri = f"sqlite:///{place / 'mlflow.db'}"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # mlflow and sqlalchemy warn of each other while they are imported
        from mlflow.entities import Metric
        from mlflow.tracking import MlflowClient

        client = MlflowClient(tracking_uri=uri)
        experiment = client.create_experiment("past", artifact_location=str(place / "artifacts"))
        for seed in range(8):
            steps = np.arange(10, 801 + 100 * seed, 10)
            loss = 2 + 3 * steps**-0.4 + np.random.default_rng(seed).normal(0, 0.002, steps.size)
            tags = {} if seed < 6 else {"family": "small"}
            run_id = client.create_run(experiment, tags=tags).info.run_id
            columns = {"train_loss": loss, "lr": 1e-3 * (1 - 0.9 * steps / steps[-1])}
            points = [
                Metric(name, float(value), 0, int(step))
                for name, values in columns.items()
                for step, value in zip(steps, values, strict=True)
            ]
            client.log_batch(run_id, metrics=points)
            client.set_terminated(run_id)
    return place


@pytest.fixture
def experiment(stored, tmp_path):
    shutil.copy(stored / "mlflow.db", tmp_path / "mlflow.db")
    return f"sqlite:///{tmp_path / 'mlflow.db'}"


def test_a_folder_prints_its_table_and_keeps_the_correction(folder):
    result = run(folder)
    assert result.exit_code == 0, result.output
    assert "all runs: 6 finished runs" in result.stdout
    lines = [line.split() for line in result.stdout.splitlines()]
    assert [line[1] for line in lines if line and line[0] == "family"][-4:] == ["25%", "50%", "75%", "90%"]
    assert "With past runs: the intervals" in result.stdout
    assert f"Stored in {folder / 'calibration.json'}" in result.stdout
    assert "6 runs of the folder" in result.stderr
    assert RunHistory.from_csv(folder).calibration.spreads["family"].runs == 6


def test_a_dry_run_keeps_nothing_and_output_keeps_it_elsewhere(folder, tmp_path):
    result = run(folder, "--dry-run")
    assert result.exit_code == 0
    assert "Nothing is stored (--dry-run)" in result.stdout
    assert not (folder / "calibration.json").exists()
    assert run(folder, "--output", tmp_path / "mine.json").exit_code == 0
    assert not (folder / "calibration.json").exists()
    assert Calibration.from_dict(json.loads((tmp_path / "mine.json").read_text()))


def test_json_is_one_line_per_family(folder):
    result = run(folder, "--dry-run", "--json")
    document = json.loads(result.stdout)
    assert set(document) == {"family", "runs", "table", "judgement", "stored", "calibration"}
    assert document["runs"] == 6
    assert document["stored"] is None
    assert {line["mode"] for line in document["table"]} == {"family", "alone"}
    assert Calibration.from_dict(document["calibration"])


def test_an_experiment_keeps_it_in_a_tag_and_small_families_are_named(experiment):
    result = run("mlflow:past", "--tracking-uri", experiment)
    assert result.exit_code == 0, result.output
    assert "Stored as the tag scaling.calibration of the experiment 'past'" in result.stdout
    assert "2 runs could be forecast, 5 are needed" in result.stdout or "0 runs could be forecast" in result.stdout
    history = RunHistory.from_mlflow("past", tracking_uri=experiment, family=None)
    assert history.calibration is None  # of two families
    result = run("mlflow:past", "--tracking-uri", experiment, "--family", "past", "--json", "--dry-run")
    assert json.loads(result.stdout)["family"] == "past"


def test_journals_in_a_folder_count_too(folder, make_run):
    (folder / "run5.csv").unlink()
    whole = make_run(total=2900, seed=5)
    monitor = Monitor(whole.plan)
    header = {"plan": whole.plan.to_dict(), "settings": {}, "engine": {"next_update": monitor.next_update}}
    tracker = Tracker([], journal=folder / "run.jsonl", header=to_builtins(header))
    tracker.points(whole.step, whole.loss, lr=whole.lr)
    tracker.close()
    document = json.loads(run(folder, "--dry-run", "--json").stdout)
    assert document["runs"] == 6


def test_too_few_runs_are_work_that_failed(folder):
    for seed in range(3):
        (folder / f"run{seed}.csv").unlink()
    result = run(folder)
    assert result.exit_code == 1
    assert "no family of" in result.stderr
    assert not (folder / "calibration.json").exists()


def test_what_cannot_be_stored_is_work_that_failed(folder, tmp_path):
    result = run(folder, "--output", tmp_path / "none" / "here.json")
    assert result.exit_code == 1
    assert "cannot be written" in result.stderr


@pytest.mark.parametrize(
    ("args", "sentence"),
    [
        (["mlflow:"], "must name an experiment"),
        (["no/such/folder"], "There is no folder no/such/folder"),
        (["{empty}"], "holds no *.csv file and no journal"),
        (["{curves}", "--metric", "loss"], "`--metric` goes with MLflow"),
        (["{curves}", "--family", "x"], "has no family 'x'"),
        (["{damaged}"], "expected a number"),
        ([], "Missing argument"),
    ],
)
def test_bad_input_is_one_sentence(args, sentence, folder, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "a.csv").write_text("step,loss\n1,x\n")
    places = {"empty": tmp_path / "empty", "curves": folder, "damaged": tmp_path / "damaged"}
    result = run(*(arg.format(**places) for arg in args))
    assert result.exit_code == 2
    assert sentence in result.stderr


def test_output_takes_one_family(experiment, tmp_path):
    result = run("mlflow:past", "--tracking-uri", experiment, "--output", tmp_path / "one.json")
    assert result.exit_code == 2
    assert "`--output` takes one family" in result.stderr


@pytest.mark.parametrize("source", ["mlflow:past", "mlflow:nothing"])
def test_a_store_that_is_not_there_is_work_that_failed(source, tmp_path):
    result = run(source, "--tracking-uri", f"sqlite:///{tmp_path / 'none.db'}")
    assert result.exit_code == 1
    assert "There is no MLflow database" in result.stderr


def test_a_flat_run_is_no_reason_to_fail(folder):
    Run(STEPS, np.full(STEPS.size, 2.0), total_steps=800).to_csv(folder / "flat.csv")
    assert run(folder, "--dry-run").exit_code == 0
