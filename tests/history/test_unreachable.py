"""A server that is gone or hangs: one sentence, soon."""

import socket

import pytest

from lightning_scaling import Run, RunHistory
from lightning_scaling.history import HistoryError, HistoryReader

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


@pytest.fixture
def dead():
    """An address at which nothing listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{taken.getsockname()[1]}"


@pytest.fixture
def hanging(monkeypatch):
    """A server that takes connections and never answers."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen(50)
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


def test_a_dead_server(dead):
    with pytest.raises(HistoryError, match=r"MLflow at http://127.0.0.1:\d+ cannot be reached") as raised:
        RunHistory.from_mlflow("past", tracking_uri=dead)
    assert "\n" not in str(raised.value)
    with pytest.raises(HistoryError, match="cannot be reached"):
        Run.from_mlflow("0" * 32, tracking_uri=dead)


def test_a_server_that_does_not_answer(hanging):
    with pytest.raises(HistoryError, match=r"no answer within 0\.2 s"):
        RunHistory.from_mlflow("past", tracking_uri=hanging, timeout=0.2)


def test_passwords_are_not_repeated(dead):
    with pytest.raises(HistoryError) as raised:
        RunHistory.from_mlflow("past", tracking_uri=dead.replace("//", "//me:hush@"))
    assert "hush" not in str(raised.value)


def test_in_the_background_it_becomes_a_sentence(dead, tmp_path):
    reader = HistoryReader("mlflow:past", tracking_uri=dead).start()
    reader._thread.join()
    learned = reader.poll()
    assert learned.failed
    assert learned.history is None
    assert learned.sentence.startswith("No history: MLflow at http://127.0.0.1:")
    assert learned.sentence.endswith("Training goes on without it.")
