import json
import warnings

import numpy as np
import pytest
from click.testing import CliRunner

from lightning_scaling.cli import main

TOTAL = 400
SEEN = 240


def write(file, seed=0, seen=SEEN, floor=2.0):
    step = np.arange(1, TOTAL + 1)
    loss = floor + 3 * step**-0.5 + 0.004 * np.random.default_rng(seed).normal(size=step.size)
    lr = 1e-3 * (0.1 + 0.45 * (1 + np.cos(np.pi * step / TOTAL)))
    rows = [f"{s},{value if s <= seen else ''},{rate}" for s, value, rate in zip(step, loss, lr, strict=True)]
    file.write_text("\n".join(["step,loss,lr", *rows]) + "\n")
    return file


@pytest.fixture
def curve(tmp_path):
    return write(tmp_path / "curve.csv")


def run(*args):
    return CliRunner().invoke(main, ["forecast", *(str(arg) for arg in args)])


def test_the_forecast_is_that_of_the_last_loss_with_the_usual_what_ifs(curve):
    result = run(curve, "--json", "--at", 300, "--level", 0.8)
    assert result.exit_code == 0, result.stderr
    document = json.loads(result.stdout)
    assert document["step"] == SEEN
    assert document["total_steps"] == TOTAL
    assert document["forecast"]["final"] == pytest.approx(2.15, rel=0.02)
    assert document["forecast"]["level"] == document["what_ifs"][0]["level"] == document["at"][0]["level"] == 0.8
    assert document["at"][0]["step"] == 300
    names = [answer["name"] for answer in document["what_ifs"]]
    assert names[:3] == ["carry on", "stop now", "decay now over 20%"]
    carried, stopped = document["what_ifs"][:2]
    assert carried["final"] == document["forecast"]["final"]
    assert carried["lower"] == document["forecast"]["lower"]
    assert stopped["extra_compute"] == pytest.approx(-0.4)
    assert stopped["difference"]["median"] == pytest.approx(stopped["final"] - carried["final"])


def test_what_ifs_are_those_asked_for(curve):
    result = run(curve, "--what-if", "longer:2", "--what-if", "decay:0.1:sqrt", "--json")
    what_ifs = json.loads(result.stdout)["what_ifs"]
    assert [answer["total_steps"] for answer in what_ifs] == [400, 800, 280]


def test_the_table_shows_the_same_for_people(curve):
    result = run(curve, "--what-if", "stop")
    assert result.exit_code == 0
    for word in ("step 240 of 400", "final loss", "90% interval", "trust", "carry on", "stop now", "-160", "-40%"):
        assert word in result.stdout


def test_past_runs_are_learned_from_without_the_run_itself(curve):
    for seed in (1, 2):
        write(curve.parent / f"past{seed}.csv", seed=seed, seen=TOTAL)
    result = run(curve, "--history", curve.parent, "--json")
    assert result.exit_code == 0, result.stderr
    assert "2 past runs" in result.stderr
    informed = json.loads(result.stdout)["forecast"]
    alone = json.loads(run(curve, "--json").stdout)["forecast"]
    assert informed["upper"] - informed["lower"] < alone["upper"] - alone["lower"]


def test_a_curve_without_rates_has_no_other_plans(tmp_path):
    file = tmp_path / "bare.csv"
    file.write_text("step,loss\n" + "".join(f"{s},{2 + s**-0.5}\n" for s in range(1, 201)))
    result = run(file, "--total-steps", 400)
    assert result.exit_code == 0
    assert "No other plans: no learning rate is recorded" in result.stderr
    asked = run(file, "--total-steps", 400, "--what-if", "stop")
    assert asked.exit_code == 2
    assert "no learning rate is recorded" in asked.stderr


@pytest.mark.parametrize(
    ("args", "sentence"),
    [
        (["--what-if", "jump"], "no change of a plan"),
        (["--what-if", "stop:100"], "can no longer stop at step 100"),
        (["--what-if", "decay:0.2:round"], "`shape` must be one of"),
        (["--at", "900"], "`--at` must be a step from 1 to 400"),
        (["--level", "1"], "`--level` must lie"),
        (["--history", "nowhere"], "no folder nowhere"),
        (["--total-steps", "10"], "losses up to step 240; give the steps of the whole plan"),
        (["--history", "mlflow:"], "must name an experiment"),
    ],
)
def test_bad_usage_is_one_sentence_and_exit_2(curve, args, sentence):
    result = run(curve, *args)
    assert result.exit_code == 2
    assert sentence in result.stderr
    assert result.stdout == ""


def test_a_run_of_mlflow_learns_from_its_experiment(tmp_path):
    mlflow = pytest.importorskip("mlflow")
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        client = mlflow.MlflowClient(uri)
        experiment = client.create_experiment("family", artifact_location=str(tmp_path))
        for seed in range(3):
            run_id = client.create_run(experiment).info.run_id
            client.log_param(run_id, "max_steps", 60)
            metrics = [
                mlflow.entities.Metric(name, value, 0, step)
                for step in range(1, 61 if seed < 2 else 41)
                for name, value in (("train_loss", 2 + seed / 50 + step**-0.5), ("lr-AdamW", 1e-3))
            ]
            client.log_batch(run_id, metrics)
            if seed < 2:
                client.set_terminated(run_id)
        result = run(f"mlflow:{run_id}", "--tracking-uri", uri, "--history", "mlflow:family", "--json")
    assert result.exit_code == 0, result.stderr
    assert "2 past runs" in result.stderr
    document = json.loads(result.stdout)
    assert (document["step"], document["total_steps"]) == (40, 60)
    assert document["forecast"]["final"] == pytest.approx(2.04 + 60**-0.5, rel=0.01)
    decayed = next(answer for answer in document["what_ifs"] if answer["name"].startswith("decay"))
    assert decayed["trust"] == "low"
    assert "2 finished" in decayed["why"]


def test_a_missing_run_is_reported(tmp_path):
    assert run(tmp_path / "none.csv").exit_code == 2
    assert run("mlflow:").exit_code == 2
    result = run("mlflow:abc", "--tracking-uri", f"sqlite:///{tmp_path / 'no.db'}")
    assert result.exit_code == 1
    assert result.stdout == ""
    assert run("mlflow:abc", "--total-steps", 5).exit_code == 2
