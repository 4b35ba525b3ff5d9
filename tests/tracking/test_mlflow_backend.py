import os
import pickle
import random
import sys

import pytest

from lightning_scaling.tracking import MLflowTarget, Tracker
from lightning_scaling.tracking.backends.base import GoneError, Point, RefusedError, cause_of, without_secrets
from lightning_scaling.tracking.backends.mlflow import NOTE_TAG, ours, safe_key, signed

WAIT = 30.0


def opened(store, run_id, **kwargs):
    target = MLflowTarget(run_id, store.uri, **kwargs)
    target.open()
    return target


def test_a_whole_run_through_the_tracker(store, tmp_path, said):
    run = store.run()
    tracker = Tracker([MLflowTarget(run, store.uri)], journal=tmp_path / "run.jsonl", interval=0.0, say=said.append)
    tracker.params({"alpha": 0.01})
    for step in range(1, 21):
        tracker.metrics({"scaling/loss": 1.0 / step, "scaling/flops": 1e20 * step, "bad": float("inf")}, step=step)
    tracker.tags({"scaling.verdict": "on track", "number": 3})
    tracker.note("# A run")
    tracker.artifact("scaling/curve.csv", "step,loss\n1,1.0\n")
    tracker.artifact("scaling/forecast.png", b"\x89PNG\x00\xff")
    report = tracker.close(WAIT)

    assert said == []
    assert (report.sent, report.waiting, report.dropped, report.nonfinite) == (25, 0, 0, 20)
    assert store.history(run, "scaling/loss") == [(step, 1.0 / step) for step in range(1, 21)]
    assert store.history(run, "bad") == []
    data = store.data(run)
    assert data.params == {"scaling.alpha": "0.01"}
    assert data.tags["scaling.verdict"] == "on track"
    assert data.tags["number"] == "3"
    assert data.tags[NOTE_TAG].startswith("# A run\n")
    folder = tmp_path / "artifacts" / run / "artifacts" / "scaling"
    assert (folder / "curve.csv").read_text() == "step,loss\n1,1.0\n"
    assert (folder / "forecast.png").read_bytes() == b"\x89PNG\x00\xff"


def test_more_than_a_thousand_metrics_at_once(store):
    run = store.run()
    opened(store, run).write(metrics=[Point("scaling/loss", float(n), 1000 + n, n) for n in range(1203)])
    assert len(store.history(run, "scaling/loss")) == 1203


def test_sending_a_point_twice_stores_it_once(store):
    run = store.run()
    target = opened(store, run)
    for _ in range(2):
        target.write(metrics=[Point("a", 1.5, 1000, 3), Point("a", 1.0, 1001, 4)])
    assert store.history(run, "a") == [(3, 1.5), (4, 1.0)]


def test_a_param_that_the_run_has_is_left_as_it_is(store):
    run = store.run()
    store.client.log_param(run, "scaling.alpha", "0.05")
    target = opened(store, run)
    target.write(params={"scaling.alpha": "0.01", "scaling.law": "s2"})
    target.write(params={"scaling.law": "other"})
    assert store.data(run).params == {"scaling.alpha": "0.05", "scaling.law": "s2"}


def test_a_param_that_somebody_else_sets_meanwhile_is_refused_without_harm_to_the_rest(store, tmp_path, said):
    run = store.run()
    target = MLflowTarget(run, store.uri)
    target.open()
    store.client.log_param(run, "scaling.alpha", "0.05")
    with pytest.raises(RefusedError, match=r"refused a row .*[Cc]hanging param"):
        target.write(params={"scaling.alpha": "0.01"})


def test_odd_keys_and_long_values_are_made_to_fit(store):
    from mlflow.utils.validation import MAX_PARAM_VAL_LENGTH, MAX_TAG_VAL_LENGTH

    run = store.run()
    target = opened(store, run)
    target.write(
        metrics=[Point("k" * 300, 1.0, 0, 0), Point("a@b|c", 2.0, 0, 0), Point("/x//y/", 3.0, 0, 0)],
        params={"long": "v" * (MAX_PARAM_VAL_LENGTH + 1000), "p" * 260: "x"},
        tags={"t" * 300: "x", "long": "v" * (MAX_TAG_VAL_LENGTH + 1000), "number": 5},
    )
    data = store.data(run)
    assert data.metrics["a_b_c"] == 2.0
    assert data.metrics["x/y"] == 3.0
    assert sorted(len(key) for key in data.metrics) == [3, 5, 250]
    assert len(data.params["long"]) == MAX_PARAM_VAL_LENGTH
    assert len(data.tags["long"]) == MAX_TAG_VAL_LENGTH
    assert data.tags["number"] == "5"


def test_keys():
    assert safe_key("scaling/forecast/final") == "scaling/forecast/final"
    assert safe_key("a:b c-d_e.f") == "a_b c-d_e.f"
    assert safe_key("../../x") == "x"
    assert safe_key("") == "unnamed"
    assert safe_key("..") == "unnamed"
    long = safe_key("a" * 300)
    assert len(long) == 250
    assert long != safe_key("a" * 301)


def test_the_description_is_written_where_empty_and_replaced_where_ours(store):
    run = store.run()
    target = opened(store, run)
    target.note("first")
    target.note("second")
    opened(store, run).note("third")
    assert store.data(run).tags[NOTE_TAG].startswith("third\n\n<!-- lightning-scaling ")


@pytest.mark.parametrize("edit", ["replace", "add"])
def test_a_description_of_the_user_is_left_alone(store, edit):
    run = store.run()
    target = opened(store, run)
    target.note("ours")
    mine = "my own words" if edit == "replace" else store.data(run).tags[NOTE_TAG].replace("ours", "ours, and mine")
    store.client.set_tag(run, NOTE_TAG, mine)
    target.note("again")
    assert store.data(run).tags[NOTE_TAG] == mine


def test_a_long_description_keeps_its_mark(store):
    run = store.run()
    target = opened(store, run)
    target.note("x" * 10_000)
    assert ours(store.data(run).tags[NOTE_TAG])
    target.note("short")
    assert store.data(run).tags[NOTE_TAG] == signed("short")


def test_whose_description():
    assert ours(None)
    assert ours("  \n")
    assert ours(signed("text\nof several lines"))
    assert ours(signed(""))
    assert not ours("text")
    assert not ours(signed("text") + "\nmore")
    assert not ours(signed("text").replace("text", "test"))


def test_global_settings_of_mlflow_are_left_alone(store, tmp_path, monkeypatch):
    import mlflow

    before = (mlflow.get_tracking_uri(), dict(os.environ))
    monkeypatch.setenv("MLFLOW_ENABLE_ASYNC_LOGGING", "true")
    run = store.run()
    target = opened(store, run)
    target.write(metrics=[Point("a", 1.0, 0, 0)], tags={"a": "b"})
    target.note("x")
    target.artifact("x.txt", b"x")
    assert store.history(run, "a") == [(0, 1.0)]
    monkeypatch.undo()
    assert (mlflow.get_tracking_uri(), dict(os.environ)) == before
    assert mlflow.active_run() is None


def test_a_run_that_does_not_exist_or_was_deleted(store):
    with pytest.raises(GoneError, match="takes no more rows"):
        opened(store, "0" * 32)
    run = store.run()
    target = opened(store, run)
    store.client.delete_run(run)
    with pytest.raises(GoneError, match="active"):
        target.write(metrics=[Point("a", 1.0, 0, 0)])


def test_a_new_run_in_a_named_experiment(store):
    with pytest.raises(ValueError, match="`experiment`"):
        MLflowTarget(None, store.uri)
    target = opened(store, None, experiment="tests", run_name="late")
    assert target.created
    assert target.key == f"mlflow:{target.run_id}"
    target.finish()
    info = store.client.get_run(target.run_id).info
    assert (info.run_name, info.status) == ("late", "FINISHED")


def test_without_mlflow_the_rows_stay_in_the_journal(tmp_path, said, monkeypatch):
    monkeypatch.setitem(sys.modules, "mlflow.tracking", None)
    tracker = Tracker(
        [MLflowTarget("x", "sqlite:///x.db")], journal=tmp_path / "run.jsonl", interval=0.0, say=said.append
    )
    tracker.metrics({"a": 1.0}, step=1)
    report = tracker.close(WAIT)
    assert report.waiting == 1
    assert "mlflow cannot be imported" in said[0]


def test_it_can_be_pickled_while_connected(store):
    run = store.run()
    copy = pickle.loads(pickle.dumps(opened(store, run)))
    copy.open()
    copy.write(metrics=[Point("a", 1.0, 0, 0)])
    assert store.history(run, "a") == [(0, 1.0)]


def test_a_kept_uri_holds_no_secret_and_no_relative_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert without_secrets("https://me:secret@host:5000/x") == "https://host:5000/x"
    assert without_secrets("postgresql://me:secret@host/db") == "postgresql://host/db"
    assert without_secrets("sqlite:///mlflow.db") == f"sqlite:///{tmp_path}/mlflow.db"
    assert without_secrets("sqlite:////data/mlflow.db") == "sqlite:////data/mlflow.db"
    assert without_secrets("file:./mlruns") == f"file://{tmp_path}/mlruns"
    assert without_secrets("file:///data/mlruns") == "file:///data/mlruns"
    assert without_secrets("mlruns") == f"{tmp_path}/mlruns"
    assert without_secrets("databricks") == "databricks"
    assert "secret" not in str(MLflowTarget("r", "http://me:secret@host").describe())
    assert "secret" not in MLflowTarget("r", "http://me:secret@host").name


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("http://me:pa/ss@host:5000/x", "http://host:5000/x"),
        ("http://host:5000/?token=abc&a=1", "http://host:5000/?token=***&a=1"),
        ("postgresql://me@host/db?password=abc", "postgresql://host/db?password=***"),
    ],
)
def test_no_secret_of_a_tracking_uri_is_shown(uri, shown):
    assert without_secrets(uri) == shown


def test_no_secret_stands_in_the_text_of_an_exception():
    error = ConnectionError("API request to http://me:pa/ss@host:5000/x?token=abc failed\nmore")
    assert cause_of(error) == "ConnectionError: API request to http://host:5000/x?token=*** failed"


def test_a_dead_server_with_a_password_is_named_without_it(tmp_path, said, monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    target = MLflowTarget("r", "http://me:secret@127.0.0.1:9/?token=secret")
    tracker = Tracker([target], journal=tmp_path / "run.jsonl", interval=0.0, say=said.append)
    tracker.metrics({"a": 1.0}, step=1)
    report = tracker.close(WAIT)
    assert report.waiting == 1
    assert "127.0.0.1:9" in "".join(said)
    for shown in (*said, str(report.to_dict()), (tmp_path / "run.jsonl").read_text()):
        assert "secret" not in shown


def test_retried_requests_leave_the_global_random_generator_alone(monkeypatch):
    for name, value in (("MAX_RETRIES", "3"), ("BACKOFF_FACTOR", "0"), ("BACKOFF_JITTER", "0.001")):
        monkeypatch.setenv(f"MLFLOW_HTTP_REQUEST_{name}", value)
    before = random.getstate()
    with pytest.raises(Exception, match="refused"):
        MLflowTarget("r", "http://127.0.0.1:9").open()
    assert random.getstate() == before
