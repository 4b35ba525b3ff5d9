"""MLflow servers that refuse, fail, wait or do not answer."""

from __future__ import annotations

import json
import random
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from unittest.mock import patch

from _soak_ends import ENDED_WITHIN, SLACK, MLFlowLogger, silent_server
from _soak_process import Result, forked
from _soak_training import STEPS, callbacks, difference, outcome, train

from lightning_scaling.tracking import read_journal


@contextmanager
def _server(answer: Callable[[BaseHTTPRequestHandler], None]) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def _answer(self) -> None:
            answer(self)

        do_GET = do_POST = do_PATCH = do_PUT = _answer  # noqa: N815

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://user:s3cr3t-pass@127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()


def _says(status: int, body: bytes, seconds: float = 0.0) -> Callable[[BaseHTTPRequestHandler], None]:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        time.sleep(seconds)
        handler.send_response(status)
        handler.send_header("Content-Type", "application/json")
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body)

    return answer


def _breaks(handler: BaseHTTPRequestHandler) -> None:
    handler.connection.close()


@contextmanager
def _without_mlflow() -> Iterator[str]:
    with patch.dict("sys.modules", {"mlflow": None, "mlflow.tracking": None}):
        yield "http://127.0.0.1:9"


@contextmanager
def _refused() -> Iterator[str]:
    yield "http://user:s3cr3t-pass@127.0.0.1:9"


ERROR = b'{"error_code": "INTERNAL_ERROR", "message": "broken"}'
DENIED = b'{"error_code": "PERMISSION_DENIED", "message": "no"}'
GONE = b'{"error_code": "RESOURCE_DOES_NOT_EXIST", "message": "Run not found"}'
CASES: dict[str, Callable[[], Any]] = {
    "refuses connections": _refused,
    "does not answer": silent_server,
    "500 to everything": lambda: _server(_says(500, ERROR)),
    "401 to everything": lambda: _server(_says(401, DENIED)),
    "404, run deleted": lambda: _server(_says(404, GONE)),
    "5 s a call, then nonsense": lambda: _server(_says(200, b"<html>", 5.0)),
    "breaks connections off": lambda: _server(_breaks),
    "MLflow is not installed": _without_mlflow,
}


def _bare(folder: Path) -> dict[str, Any]:
    return outcome(train(folder, logger=False), folder) | {"random": random.random()}


def _work(folder: Path, case: str) -> dict[str, Any]:
    with CASES[case]() as uri:
        begun = time.monotonic()
        trainer = train(folder, callbacks(journal=folder / "journals"), logger=MLFlowLogger(uri))
        seconds = time.monotonic() - begun
    (journal,) = (folder / "journals").glob("*.jsonl")
    contents = read_journal(journal)
    text = journal.read_text()
    return outcome(trainer, folder) | {
        "seconds": seconds,
        "journal whole": len(contents.points.step) == STEPS and not contents.damaged and bool(contents.end),
        "secret": "s3cr3t" in text,
        "random": random.random(),
    }


def servers(names: list[str] | None = None) -> tuple[Result, dict[str, float]]:
    """Servers in trouble: the training is the same, ends within the deadline, and its journal is whole."""
    lost, seconds = [], {}
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        begun = time.monotonic()
        forked(lambda: _bare(root / "bare"), root / "bare.json")
        bare = time.monotonic() - begun
        expected = json.loads((root / "bare.json").read_text())
        for case in names or list(CASES):
            result = root / "result.json"
            if said := forked(lambda at=case: _work(root / at.replace(" ", "-"), at), result):
                lost.append(f"{case}: {said}")
                continue
            found = json.loads(result.read_text())
            seconds[case] = found["seconds"]
            if wrong := difference(expected, found):
                lost.append(f"{case}: {wrong} differ")
            elif not found["journal whole"] or found["secret"]:
                lost.append(f"{case}: the journal lacks rows or holds the password")
            elif found["seconds"] > bare + ENDED_WITHIN + SLACK + 2.0:  # two seconds: start, fits and figures
                lost.append(f"{case}: {found['seconds']:.1f} s")
    return (len(names or CASES), lost), seconds
