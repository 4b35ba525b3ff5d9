import json
import socket
import sqlite3
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from click.testing import CliRunner

from lightning_scaling.cli import health_checks as checks
from lightning_scaling.cli import main


@pytest.fixture(autouse=True)
def no_tracking_server(monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


def findings(check):
    return [(finding.status, finding.detail) for finding in check()]


def only(check):
    [finding] = findings(check)
    return finding


def test_a_healthy_machine_passes(tmp_path):
    result = CliRunner().invoke(main, ["doctor", "--json", "--journals", str(tmp_path)])
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert report["ok"] is True
    checked = {finding["check"] for finding in report["findings"]}
    assert {"python", "torch", "mlflow", "FLOP counting", "journals", "MLflow"} <= checked
    assert all(finding["status"] != "failure" for finding in report["findings"])


def test_people_get_a_table_and_a_failure_is_counted(monkeypatch, tmp_path):
    monkeypatch.setattr(checks, "flop_counting", lambda: iter([checks.Finding("FLOP counting", "failure", "off by 2")]))
    result = CliRunner().invoke(main, ["doctor", "--journals", str(tmp_path)])
    assert result.exit_code == 1
    assert "FAIL" in result.stdout
    assert "off by 2" in result.stdout
    assert "checks failed" in result.stderr


def test_a_check_that_breaks_is_a_finding_not_a_crash(monkeypatch, tmp_path):
    def broken():
        raise RuntimeError("no such thing")
        yield

    monkeypatch.setattr(checks, "flop_counting", broken)
    last = {finding.check: finding for finding in checks.examine(tmp_path)}
    assert last["FLOP counting"].status == "failure"
    assert "no such thing" in last["FLOP counting"].detail
    assert last["journals"].status == "ok"


@pytest.mark.parametrize("bad", ["2.6.2", "2.6.3"])
@pytest.mark.parametrize("package", ["lightning", "pytorch-lightning"])
def test_the_malicious_uploads_are_called_so(monkeypatch, package, bad):
    monkeypatch.setattr(checks, "version", lambda name: bad if name == package else "9.9")
    [finding] = [finding for finding in checks.versions() if finding.status == "failure"]
    assert finding.check == package
    assert "malicious" in finding.detail
    assert checks.ADVISORY in finding.detail


def test_what_is_missing_is_named(monkeypatch):
    def missing(name):
        raise checks.PackageNotFoundError(name)

    monkeypatch.setattr(checks, "version", missing)
    status = {finding.check: finding.status for finding in checks.versions()}
    assert status["torch"] == "failure"
    assert status["lightning"] == "note"


class _Answer(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200 if self.path == "/health" else 404)
        self.end_headers()

    def log_message(self, *args):
        pass


@pytest.fixture
def server():
    running = HTTPServer(("127.0.0.1", 0), _Answer)
    thread = threading.Thread(target=running.serve_forever, daemon=True)
    thread.start()
    yield f"http://user:secret@127.0.0.1:{running.server_port}"
    running.shutdown()
    thread.join()
    running.server_close()


def test_a_server_that_answers_is_ok_and_its_password_stays_private(monkeypatch, server):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server)
    answers, patience = findings(checks.mlflow_reachable)
    assert answers[0] == "ok"
    assert "secret" not in answers[1]
    assert "MLFLOW_HTTP_REQUEST_MAX_RETRIES=1" in patience[1]
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "5")
    assert len(findings(checks.mlflow_reachable)) == 1


def test_a_server_that_is_not_mlflow_is_doubted(monkeypatch, server):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server + "/other")
    status, detail = findings(checks.mlflow_reachable)[0]
    assert status == "warning"
    assert "404" in detail


def test_a_dead_server_fails_at_once(monkeypatch):
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        port = held.getsockname()[1]
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{port}")
        status, detail = findings(checks.mlflow_reachable)[0]
    assert status == "failure"
    assert "does not answer" in detail


def test_a_server_that_hangs_fails_within_our_own_timeout(monkeypatch):
    monkeypatch.setattr(checks, "SERVER_TIMEOUT", 0.2)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{silent.getsockname()[1]}")
        status, detail = findings(checks.mlflow_reachable)[0]
    assert status == "failure"
    assert "0.2 s" in detail


def test_without_a_server_it_says_how_to_name_a_database():
    status, detail = only(checks.mlflow_reachable)
    assert status == "note"
    assert "sqlite:///" in detail


def test_sqlite_stores_are_opened_read_only(monkeypatch, tmp_path):
    def check(name):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / name}")
        return only(checks.mlflow_reachable)

    assert check("new.db")[0] == "ok"
    assert not (tmp_path / "new.db").exists()
    assert check("missing/new.db")[0] == "failure"
    (tmp_path / "text.db").write_text("not a database, and longer than the header of one" * 50)
    assert check("text.db")[0] == "failure"
    for name, table in (("other.db", "songs"), ("mlflow.db", "experiments")):
        with sqlite3.connect(tmp_path / name) as connection:
            connection.execute(f"CREATE TABLE {table} (id)")
        connection.close()
    assert "not one of MLflow" in check("other.db")[1]
    assert check("mlflow.db")[0] == "ok"


@pytest.mark.parametrize("uri", ["file:./mlruns", "./mlruns"])
def test_a_file_store_is_warned_about(monkeypatch, uri):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    assert only(checks.mlflow_reachable)[0] == "warning"


def test_other_stores_are_left_alone(monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "databricks://profile")
    assert only(checks.mlflow_reachable)[0] == "note"


def test_journals_that_wait_are_listed_with_the_way_to_send_them(monkeypatch, tmp_path):
    from lightning_scaling.tracking import PendingJournal

    waiting = [
        PendingJournal(str(tmp_path / "a.jsonl"), 12, ("run a",), live=False),
        PendingJournal(str(tmp_path / "b.jsonl"), 3, ("run b",), live=True),
    ]
    monkeypatch.setattr("lightning_scaling.tracking.pending_journals", lambda folder: waiting)
    done, live = findings(lambda: checks.journals_waiting(Path(tmp_path)))
    assert done[0] == "warning"
    assert f"lightning-scaling sync {tmp_path / 'a.jsonl'}" in done[1]
    assert live[0] == "note"
