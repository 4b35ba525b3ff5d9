"""`replay` of journals, of folders and of MLflow, and its figures."""

import json
import math
import warnings

import numpy as np
import pytest
from click.testing import CliRunner

from lightning_scaling import Monitor, Run, RunHistory, replay
from lightning_scaling._utils.serialization import to_builtins
from lightning_scaling.cli import main
from lightning_scaling.tracking import Journal

PNG = b"\x89PNG"


def run(*arguments):
    return CliRunner().invoke(main, ["replay", *map(str, arguments)])


def lines(result):
    assert result.exit_code == 0, result.output
    return [json.loads(line) for line in result.stdout.splitlines()]


@pytest.fixture
def curves(tmp_path, make_run):
    folder = tmp_path / "curves"
    folder.mkdir()
    for i in range(4):
        make_run("cosine", total=1000 + 100 * i, seed=i).to_csv(folder / f"run-{i}.csv")
    return folder


@pytest.fixture
def journal(tmp_path, make_run):
    """The journal of a run that learned from two others halfway."""
    recorded = make_run("cosine", total=1000)
    monitor = Monitor(recorded.plan, alpha=0.05)
    path = tmp_path / "journals" / "live.jsonl"
    made = Journal(path, header=to_builtins({"plan": recorded.plan.to_dict(), "engine": {"alpha": 0.05}}))
    past = tmp_path / "past"
    past.mkdir()
    for seed in (7, 8):
        make_run("cosine", total=900, seed=seed).to_csv(past / f"past-{seed}.csv")
    for part in (slice(0, 50), slice(50, 100)):
        updates = monitor.observe(recorded.step[part], recorded.loss[part], lr=recorded.lr[part])
        made.points(recorded.step[part], recorded.loss[part], lr=recorded.lr[part])
        for update in updates:
            made.write("update", {"data": update.to_dict()})
        if part.start == 0:
            monitor.learn(RunHistory.from_csv(past))
            data = {"kind": "prior", "source": "the folder past", "runs": ["past-7", "past-8"]}
            made.write("mark", {"reason": "history", "step": 500, "data": data})
    made.close()
    return path, monitor, past


@pytest.fixture(scope="module")
def mlflow_uri(tmp_path_factory):
    """Three runs of one experiment one after the other, one that overlaps them, one without a loss."""
    warnings.simplefilter("ignore")
    import mlflow

    folder = tmp_path_factory.mktemp("mlflow")
    uri = f"sqlite:///{folder / 'mlflow.db'}"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        client = mlflow.MlflowClient(uri)
        experiment = client.create_experiment("family", artifact_location=str(folder))
        for i, (start, end) in enumerate([(0, 10), (20, 30), (40, 50), (25, 60)]):
            run_id = client.create_run(experiment, start_time=1000 + start, run_name=f"run {i}").info.run_id
            metrics = [
                mlflow.entities.Metric("train_loss", 2 + (i + 4) / 8 * s**-0.5 + math.sin(9 * s + i) / 300, 0, s)
                for s in range(1, 201)
            ]
            client.log_batch(run_id, metrics)
            client.set_terminated(run_id, end_time=1000 + end)
        client.set_terminated(client.create_run(experiment).info.run_id)
        ids = {one.info.run_name: one.info.run_id for one in client.search_runs([experiment])}
    return uri, ids


def test_a_journal_gives_the_numbers_of_the_live_run_where_it_has_what_that_learned(journal):
    path, monitor, past = journal
    result = run(path, "--history", past, "--json")
    updates = lines(result)
    live = [(row["step"], row["final"], row["lower"], row["upper"], row["e_value"]) for row in monitor.forecast_log]
    assert [
        (u["step"], *(u["forecast"][name] for name in ("final", "lower", "upper")), u["deviation"]["e_value"])
        for u in updates
    ] == live
    assert "2 past runs of the folder" in result.stderr
    assert "differ" not in result.stderr


def test_a_journal_without_them_says_from_where_on_it_differs(journal):
    path, monitor, _ = journal
    result = run(path, "--json")
    message = " ".join(result.stderr.split())
    assert "At step 500 the run learned from 2 runs of the folder past" in message
    assert "its numbers after that step differ from the live ones" in message
    finals = {u["step"]: u["forecast"]["final"] for u in lines(result)}
    live = {row["step"]: row["final"] for row in monitor.forecast_log}
    assert finals[500] == live[500]
    assert finals[600] != live[600]


def test_a_journal_knows_its_own_plan_and_alpha(journal):
    path, _, _ = journal
    assert "of 1,000" in run(path).stderr
    refused = run(path, "--total-steps", 2000)
    assert refused.exit_code == 2
    assert "a journal says itself" in refused.stderr
    assert Run.from_journal(path).settings["alpha"] == 0.05


def test_forecasts_stand_against_outcomes_and_stopping_is_weighed(curves):
    text = run(curves / "run-0.csv", "--at", "0.5", "--target", "2.0").stdout
    assert "Forecasts against the outcome: 2." in text
    for word in ("25%", "50%", "75%", "inside"):
        assert word in text
    message = " ".join(text.split())
    assert "Stopping was first advised at step" in message
    assert "of the planned compute" in message
    assert "What it gives up in fact: 0." in message
    assert "Stopping was never advised" in run(curves / "run-0.csv").stdout


def test_a_run_that_did_not_reach_its_end_is_said_to(curves):
    text = run(curves / "run-0.csv", "--total-steps", 5000).stdout
    assert "did not reach the end of its plan" in text


def test_a_single_run_learns_from_past_runs_and_never_from_itself(curves):
    alone, informed = (lines(run(curves / "run-3.csv", "--json", *more)) for more in ([], ["--history", curves]))
    assert [u["forecast"]["final"] for u in alone] != [u["forecast"]["final"] for u in informed]
    history = RunHistory([Run.from_csv(curves / f"run-{i}.csv") for i in range(3)])
    expected = replay(Run.from_csv(curves / "run-3.csv"), history=history)
    assert informed[50]["forecast"]["final"] == expected[50].forecast.final
    assert "3 past runs of the folder" in run(curves / "run-3.csv", "--history", curves).stderr


def test_a_folder_gives_a_row_per_run_and_totals(curves, journal):
    (curves / "notes.csv").write_text("a,b\n1,2\n")
    (curves / "other.jsonl").write_text("{}\n")
    (curves / "live.jsonl").write_bytes(journal[0].read_bytes())
    result = run(curves)
    assert result.exit_code == 0
    for name in ("run-0", "run-3", "live", "at 25%", "saved", "median error", "inside 90%"):
        assert name in result.stdout
    message = " ".join(result.stdout.split())
    assert "5 of 5 runs reached the end of their plan; alarms in 0; advice throughout to continue" in message
    assert "Left out: notes.csv: has no column `step`" in message
    assert "Left out: other.jsonl: no journal" in message
    assert "learned from the other runs of its family" in " ".join(result.stderr.split())


def test_a_folder_as_json_gives_a_line_per_run_and_a_summary(curves):
    *runs, last = lines(run(curves, "--json"))
    assert [one["name"] for one in runs] == [f"run-{i}" for i in range(4)]
    assert [len(one["forecasts"]) for one in runs] == [4] * 4
    assert all(one["past_runs"] == 3 for one in runs)
    assert last["summary"]["runs"] == 4
    half = sorted(abs(one["forecasts"][2]["error"]) for one in runs)
    assert last["summary"]["forecasts"][2]["median_error"] == pytest.approx((half[1] + half[2]) / 2)
    *runs, last = lines(run(curves, "--json", "--history", "none"))
    assert last["summary"]["history_source"] == "none"
    assert all(one["past_runs"] == 0 for one in runs)


def test_figures_of_one_run_and_of_many(curves, tmp_path):
    for source in (curves / "run-0.csv", curves):
        figure = tmp_path / "made" / f"{source.name}.png"
        result = run(source, "--figure", figure, "--json")
        assert result.exit_code == 0, result.output
        assert figure.read_bytes().startswith(PNG)
        assert f"Figure: {figure}" in result.stderr
        assert "Figure" not in result.stdout


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_runs_and_experiments_in_mlflow(mlflow_uri, tmp_path):
    uri, ids = mlflow_uri
    one = lines(run(f"mlflow:{ids['run 2']}", "--tracking-uri", uri, "--json"))
    assert [update["step"] for update in one][-1] == 200
    assert one[25]["forecast"]["final"] == replay(Run.from_mlflow(ids["run 2"], tracking_uri=uri))[25].forecast.final
    result = run("mlflow:family", "--tracking-uri", uri, "--json", "--figure", tmp_path / "all.png")
    *runs, last = lines(result)
    past_runs = {row["name"]: row["past_runs"] for row in runs}
    assert past_runs == {"run 0": 0, "run 1": 1, "run 3": 1, "run 2": 2}
    assert last["summary"]["history_source"] == "earlier_runs"
    assert last["summary"]["skipped"] == {"no loss": 1}
    assert "that had ended before it began: 1 of 4 had the two it takes" in " ".join(result.stderr.split())
    assert lines(run("mlflow-experiment:family", "--tracking-uri", uri, "--json"))[-1] == {"summary": last["summary"]}
    history = run(f"mlflow:{ids['run 2']}", "--tracking-uri", uri, "--json", "--history", "mlflow:family")
    assert "3 past runs of experiment 'family' to learn from" in history.stderr


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_what_mlflow_does_not_give_is_said_with_exit_code_1(mlflow_uri, tmp_path):
    uri, _ = mlflow_uri
    for source, expected in (
        ("mlflow:none", "There is no experiment 'none'"),
        (f"mlflow:{'0' * 32}", "There is no run"),
    ):
        result = run(source, "--tracking-uri", uri, "--json")
        assert result.exit_code == 1
        assert result.stdout == ""
        assert expected in result.stderr
    missing = run("mlflow:family", "--tracking-uri", f"sqlite:///{tmp_path / 'none.db'}")
    assert missing.exit_code == 1
    assert "There is no MLflow database" in missing.stderr


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["mlflow:"], "SOURCE must name a run or an experiment, as in mlflow:RUN_ID"),
        (["mlflow:family", "--total-steps", 5], "`--total-steps` is for CSV files"),
        (["{curves}", "--metric", "loss"], "`--metric` goes with MLflow"),
        (["{curves}/run-0.csv", "--tracking-uri", "x"], "`--tracking-uri` goes with MLflow"),
        (["{curves}/run-0.csv", "--total-steps", 10], "`--total-steps` is 10, but"),
        (["{curves}", "--at", "0.5"], "`--at` is for a single run"),
        (["{curves}", "--alpha", "3"], "alpha"),
        (
            ["{curves}/run-0.csv", "--history", "nowhere"],
            "There is no folder nowhere; `--history` takes one",
        ),
        (["{curves}/run-0.csv", "--figure", "picture.svg"], "must end in .png"),
    ],
)
def test_what_does_not_go_together_is_refused_in_one_sentence(curves, arguments, expected):
    result = run(*(str(one).format(curves=curves) for one in arguments))
    assert result.exit_code == 2
    assert result.stdout == ""
    assert expected in result.stderr
    assert len(result.stderr.strip().splitlines()) <= 2


def test_a_run_without_a_finite_loss_is_reported_and_is_no_failure(tmp_path):
    file = tmp_path / "lost.csv"
    file.write_text("step,loss\n" + "\n".join(f"{s},nan" for s in range(1, 101)))
    result = run(file, "--json")
    assert result.exit_code == 0
    assert "0 losses up to step 100" in result.stderr
    assert all(not np.isfinite(line["forecast"]["final"] or np.nan) for line in lines(result))
