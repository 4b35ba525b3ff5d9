import json
import shutil
from functools import partial

import pytest

from lightning_scaling.tracking import MLflowTarget, Tracker, pending_journals, read_journal
from lightning_scaling.tracking import sync as sync_to_configured_server
from lightning_scaling.tracking.backends.base import Point, RefusedError
from lightning_scaling.tracking.delivery_log import DeliveryLog, Ranges

WAIT = 30.0
sync = partial(sync_to_configured_server, to_recorded_server=True)


def break_target(monkeypatch):
    """MLflow targets fail until undone."""

    def refuse(self):
        raise ConnectionError("connection refused")

    monkeypatch.setattr(MLflowTarget, "open", refuse)


def spy_on(monkeypatch):
    sent = []
    real = MLflowTarget.write

    def write(self, *, metrics=None, params=None, tags=None):
        sent.extend(one.step for one in metrics or [])
        sent.extend(sorted(params or {}))
        sent.extend(sorted(tags or {}))
        real(self, metrics=metrics, params=params, tags=tags)

    monkeypatch.setattr(MLflowTarget, "write", write)
    return sent


def record(store, path, run, steps, **kwargs):
    tracker = Tracker([MLflowTarget(run, store.uri)], journal=path, interval=0.0, say=lambda sentence: None, **kwargs)
    for step in steps:
        tracker.metrics({"scaling/loss": 1.0 / step}, step=step)
    return tracker


def test_ranges():
    ranges = Ranges([[5, 6]])
    ranges.add([1, 2, 4, 9])
    ranges.add([3])
    assert ranges.pairs == [[1, 6], [9, 9]]
    assert [n for n in range(12) if n in ranges] == [1, 2, 3, 4, 5, 6, 9]
    assert len(ranges) == 7
    assert 0 not in Ranges()


def test_after_a_dead_server_exactly_the_missing_rows_are_sent(store, tmp_path, monkeypatch):
    path = tmp_path / "run.jsonl"
    run = store.run()
    tracker = record(store, path, run, range(1, 6))
    tracker.params({"alpha": 0.01})
    assert tracker.close(WAIT).waiting == 0

    with monkeypatch.context() as patch:
        break_target(patch)
        tracker = record(store, path, run, range(6, 11))
        tracker.params({"law": "s2"})
        tracker.tags({"scaling.verdict": "on track"})
        tracker.note("# Note")
        tracker.artifact("scaling/curve.csv", "a,b\n")
        tracker.artifact("scaling/curve.csv", "c,d\n")
        report = tracker.close(WAIT)
    assert (report.sent, report.waiting) == (0, 9)
    assert store.history(run, "scaling/loss") == [(step, 1.0 / step) for step in range(1, 6)]
    pending = pending_journals(tmp_path)
    assert [(one.path, one.rows, one.live) for one in pending] == [(str(path), 10, False)]
    assert run in pending[0].runs[0]

    sent = spy_on(monkeypatch)
    result = sync(path)
    assert result.ok, result
    assert sent == [6, 7, 8, 9, 10, "scaling.law", "scaling.verdict"]
    assert result.sent == 10
    assert store.history(run, "scaling/loss") == [(step, 1.0 / step) for step in range(1, 11)]
    data = store.data(run)
    assert data.params == {"scaling.alpha": "0.01", "scaling.law": "s2"}
    assert data.tags["mlflow.note.content"].startswith("# Note")
    assert (tmp_path / "artifacts" / run / "artifacts" / "scaling" / "curve.csv").read_text() == "c,d\n"
    assert pending_journals(tmp_path) == []

    sent.clear()
    again = sync(path)
    assert (again.ok, again.sent) == (True, 0)
    assert sent == []


def test_points_keep_their_time_and_are_stored_once_when_the_record_is_lost(store, tmp_path):
    path = tmp_path / "run.jsonl"
    run = store.run()
    record(store, path, run, range(1, 6)).close(WAIT)
    before = [(one.timestamp, one.step, one.value) for one in store.client.get_metric_history(run, "scaling/loss")]
    (tmp_path / "run.sent.json").unlink()
    assert sync(path).sent == 5
    after = [(one.timestamp, one.step, one.value) for one in store.client.get_metric_history(run, "scaling/loss")]
    assert sorted(after) == sorted(before)
    assert len(after) == 5


def test_a_killed_run_is_sent_from_what_it_had_written(store, tmp_path, monkeypatch):
    path = tmp_path / "run.jsonl"
    run = store.run()
    with monkeypatch.context() as patch:
        break_target(patch)
        record(store, path, run, range(1, 6)).close(WAIT)
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:4]) + lines[4][:20])
    assert read_journal(path).damaged == 1
    assert sync(path).ok
    assert [step for step, _ in store.history(run, "scaling/loss")] == [1, 2, 3]


def test_a_server_that_stays_dead(store, tmp_path, monkeypatch):
    path = tmp_path / "run.jsonl"
    run = store.run()
    break_target(monkeypatch)
    record(store, path, run, range(1, 4)).close(WAIT)
    result = sync(path)
    assert not result.ok
    assert (result.sent, result.waiting) == (0, 3)
    assert "connection refused" in result.journals[0].error
    assert json.dumps(result.to_dict())


def test_each_segment_goes_to_the_run_it_names(store, tmp_path, monkeypatch):
    path = tmp_path / "run.jsonl"
    first, second = store.run(), store.run()
    with monkeypatch.context() as patch:
        break_target(patch)
        record(store, path, first, range(1, 4)).close(WAIT)
        record(store, path, second, range(4, 6)).close(WAIT)
    result = sync(tmp_path)
    assert [one.sent for one in result.journals] == [3, 2]
    assert [step for step, _ in store.history(first, "scaling/loss")] == [1, 2, 3]
    assert [step for step, _ in store.history(second, "scaling/loss")] == [4, 5]


def test_to_another_run(store, tmp_path):
    path = tmp_path / "run.jsonl"
    run, other = store.run(), store.run()
    record(store, path, run, range(1, 4)).close(WAIT)
    assert sync(path, run_id=other).sent == 3
    assert sync(path, run_id=other).sent == 0
    assert store.history(other, "scaling/loss") == store.history(run, "scaling/loss")


def test_to_a_store_that_has_moved(store, tmp_path, monkeypatch):
    path = tmp_path / "run.jsonl"
    run = store.run()
    with monkeypatch.context() as patch:
        break_target(patch)
        record(store, path, run, range(1, 4)).close(WAIT)
    shutil.copy(tmp_path / "mlflow.db", tmp_path / "moved.db")
    assert sync(path, tracking_uri=f"sqlite:///{tmp_path / 'moved.db'}").ok
    assert store.history(run, "scaling/loss") == []


def test_a_run_made_without_mlflow_becomes_one(store, tmp_path):
    path = tmp_path / "run.jsonl"
    tracker = Tracker([], journal=path, header={"name": "offline"})
    tracker.metrics({"scaling/loss": 1.0}, step=1)
    tracker.close()
    assert pending_journals(tmp_path) == []
    nowhere = sync(path)
    assert not nowhere.ok
    assert nowhere.waiting == 1
    assert "names no MLflow run" in nowhere.journals[0].error
    assert sync(tmp_path).journals == ()

    assert sync(path, tracking_uri=store.uri, experiment="tests").ok
    assert sync(path).sent == 0
    runs = store.client.search_runs([store.experiment])
    assert [(one.info.run_name, one.info.status) for one in runs] == [("offline", "FINISHED")]
    assert store.history(runs[0].info.run_id, "scaling/loss") == [(1, 1.0)]


def test_older_rows_do_not_undo_newer_ones(store, tmp_path):
    path = tmp_path / "run.jsonl"
    run = store.run()
    target = MLflowTarget(run, store.uri)
    tracker = Tracker([target], journal=path, interval=0.0)
    tracker.tags({"scaling.verdict": "undecidable", "only": "here"})
    tracker.tags({"scaling.verdict": "on track"})
    tracker.note("old")
    tracker.note("new")
    tracker.close(WAIT)
    segment = read_journal(path).segments[0].id
    record_path = tmp_path / "run.sent.json"
    record_path.write_text(json.dumps({"targets": {target.key: {segment: [[2, 2], [4, 4]]}}}))
    result = sync(path)
    assert result.sent == 1
    tags = store.data(run).tags
    assert tags["scaling.verdict"] == "on track"
    assert tags["only"] == "here"
    assert tags["mlflow.note.content"].startswith("new")


def test_an_artifact_whose_file_is_gone_is_said(store, tmp_path, monkeypatch):
    path = tmp_path / "run.jsonl"
    run = store.run()
    with monkeypatch.context() as patch:
        break_target(patch)
        tracker = record(store, path, run, [1])
        tracker.artifact("scaling/x.txt", "x")
        tracker.close(WAIT)
    shutil.rmtree(tmp_path / "run.files")
    result = sync(path)
    assert (result.sent, result.dropped, result.waiting) == (1, 1, 0)
    assert "no longer in" in result.journals[0].error
    assert sync(path).ok


def test_a_deleted_run_that_is_restored_gets_every_row(store, tmp_path):
    path, run = tmp_path / "run.jsonl", store.run()
    record(store, path, run, [1]).close(WAIT)
    store.client.delete_run(run)
    for step in (2, 3):
        record(store, path, run, [step]).close(WAIT)
    assert sync(path).waiting == 2
    store.client.restore_run(run)
    assert pending_journals(tmp_path)[0].rows == 2
    assert sync(path).sent == 2
    assert [step for step, _ in store.history(run, "scaling/loss")] == [1, 2, 3]


def test_a_refused_row_is_offered_again(store, tmp_path, monkeypatch):
    path, run = tmp_path / "run.jsonl", store.run()

    def refuse(self, **rows):
        raise RefusedError("no")

    with monkeypatch.context() as patch:
        patch.setattr(MLflowTarget, "write", refuse)
        report = record(store, path, run, [1]).close(WAIT)
    assert (report.sent, report.dropped) == (0, 1)
    assert sync(path).sent == 1
    assert store.history(run, "scaling/loss") == [(1, 1.0)]


def test_rows_go_to_the_configured_server_only(store, tmp_path, monkeypatch):
    path, run = tmp_path / "run.jsonl", store.run()
    with monkeypatch.context() as patch:
        break_target(patch)
        record(store, path, run, [1, 2]).close(WAIT)
    monkeypatch.setattr(MLflowTarget, "configured_uri", lambda: "http://me:secret@mine:5000")
    opened = []
    with monkeypatch.context() as patch:
        patch.setattr(MLflowTarget, "open", opened.append)
        report = sync_to_configured_server(path)
    assert (opened, report.ok, report.sent, report.waiting) == ([], False, 0, 2)
    assert f"names the server {store.uri}, and MLflow is configured with http://mine:5000" in report.journals[0].error

    monkeypatch.setattr(MLflowTarget, "configured_uri", lambda: store.uri)
    assert sync_to_configured_server(path).sent == 2
    monkeypatch.undo()
    assert sync_to_configured_server(path).ok  # nothing is missing, so no server is asked


def test_the_configured_server_is_the_same_with_its_password(store, tmp_path, monkeypatch):
    path = tmp_path / "run.jsonl"
    tracker = Tracker([MLflowTarget("r", "http://me:secret@host:5000/")], journal=path, say=lambda sentence: None)
    tracker._sinks.clear()
    tracker.metrics({"a": 1.0}, step=1)
    tracker.close()
    monkeypatch.setattr(MLflowTarget, "configured_uri", lambda: "http://me:new@host:5000")
    used = []
    monkeypatch.setattr(MLflowTarget, "open", lambda self: used.append(self.tracking_uri))
    monkeypatch.setattr(MLflowTarget, "write", lambda self, **rows: None)
    assert sync_to_configured_server(path).sent == 1
    assert used == ["http://me:new@host:5000"]


def test_a_link_out_of_the_folder_of_the_journal_is_not_sent(store, tmp_path, monkeypatch):
    path, run = tmp_path / "run.jsonl", store.run()
    secret = tmp_path / "secret.txt"
    secret.write_text("secret")
    with monkeypatch.context() as patch:
        break_target(patch)
        tracker = record(store, path, run, [])
        for name in ("linked.txt", "folder/inside.txt"):
            tracker.artifact(name, "x")
        tracker.close(WAIT)
    (tmp_path / "run.files" / "linked.txt").unlink()
    (tmp_path / "run.files" / "linked.txt").symlink_to(secret)
    path.write_text(path.read_text() + json.dumps({"op": "artifact", "n": 90, "t": 0, "path": "../secret.txt"}) + "\n")
    result = sync(path)
    assert (result.sent, result.dropped) == (1, 2)
    kept = [file.name for file in (tmp_path / "artifacts").rglob("*.txt")]
    assert kept == ["inside.txt"]


def test_wrong_arguments(store, tmp_path):
    with pytest.raises(FileNotFoundError):
        sync(tmp_path / "missing.jsonl")
    for name in "ab":
        tracker = record(store, tmp_path / f"{name}.jsonl", store.run(), [1])
        tracker.close(WAIT)
    with pytest.raises(ValueError, match="holds 2 journals"):
        sync(tmp_path, run_id="x")


def test_files_that_are_no_journals_are_passed_over(tmp_path):
    (tmp_path / "data.jsonl").write_text('{"text": "hello"}\n')
    (tmp_path / "broken.jsonl").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "empty.jsonl").write_text("")
    assert pending_journals(tmp_path) == []
    assert sync(tmp_path).ok


def test_a_damaged_record_is_started_anew(tmp_path):
    for text in ("", "[]", '{"targets": 3}', '{"targets": {"a": {"b": [[1]]}}}'):
        (tmp_path / "run.sent.json").write_text(text)
        record = DeliveryLog(tmp_path / "run.jsonl")
        record.add("t", "s", [1, 2])
        assert DeliveryLog(tmp_path / "run.jsonl").sent("t", "s").pairs == [[1, 2]]


def test_a_journal_in_use_is_marked(store, tmp_path, monkeypatch):
    break_target(monkeypatch)
    tracker = record(store, tmp_path / "run.jsonl", store.run(), [1])
    assert [one.live for one in pending_journals(tmp_path)] == [True]
    tracker.close(WAIT)


def test_a_point_is_what_the_target_takes():
    assert Point("a", 1.0, 2, 3).step == 3
