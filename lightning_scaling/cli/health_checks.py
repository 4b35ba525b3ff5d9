"""Checks of `lightning-scaling doctor`: each gives findings and never raises."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from lightning_scaling import __version__

Status = Literal["ok", "note", "warning", "failure"]

PACKAGES = ("torch", "lightning", "pytorch-lightning", "mlflow", "numpy", "scipy", "matplotlib")
OPTIONAL = {"lightning"}
MALICIOUS = {(package, number) for package in ("lightning", "pytorch-lightning") for number in ("2.6.2", "2.6.3")}
ADVISORY = "GHSA-w37p-236h-pfx3"
SERVER_TIMEOUT = 3.0


@dataclass(frozen=True)
class Finding:
    """One line of the doctor's report.

    Attributes:
        check: What was looked at.
        status: ``"ok"``, ``"note"`` (nothing to do), ``"warning"`` (look at it) or ``"failure"`` (does not work).
        detail: What was found and, unless all is well, what to do.
    """

    check: str
    status: Status
    detail: str

    def to_dict(self) -> dict[str, Any]:
        """The finding as builtins."""
        return asdict(self)


def examine(journals: Path) -> Iterator[Finding]:
    """All checks, in the order in which a reader wants them.

    Args:
        journals: Folder below which journals are looked for.
    """
    checks: dict[str, Callable[[], Iterator[Finding]]] = {
        "versions": versions,
        "MLflow": mlflow_reachable,
        "FLOP counting": flop_counting,
        "journals": partial(journals_waiting, journals),
    }
    for name, check in checks.items():
        try:
            yield from check()
        except Exception as error:
            yield Finding(name, "failure", f"The check itself failed with {type(error).__name__}: {error}")


def versions() -> Iterator[Finding]:
    """Versions of Python and of what this package stands on, without importing any of it."""
    yield Finding("lightning-scaling", "ok", __version__)
    yield Finding("python", "ok", platform.python_version())
    for package in PACKAGES:
        try:
            found = version(package)
        except PackageNotFoundError:
            if package in OPTIONAL:
                yield Finding(package, "note", "not installed (optional)")
            else:
                yield Finding(package, "failure", f"not installed; `pip install {package}`")
            continue
        detail = (
            f"{found} is a malicious upload ({ADVISORY}); remove it, change every password and token that this "
            "environment could read, and install 2.6.6 or newer"
        )
        malicious = (package, found) in MALICIOUS
        yield Finding(package, "failure", detail) if malicious else Finding(package, "ok", found)


def mlflow_reachable() -> Iterator[Finding]:
    """Whether the tracking store named in the environment answers, within a timeout of our own."""
    uri = os.environ.get("MLFLOW_TRACKING_URI", "")
    scheme = urlsplit(uri).scheme
    if not uri:
        advice = "give MLFlowLogger a tracking_uri such as sqlite:///mlflow.db"
        yield Finding("MLflow", "note", f"MLFLOW_TRACKING_URI is not set; {advice}")
    elif scheme in {"http", "https"}:
        yield Finding("MLflow", *_server(uri))
        names = ("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "MLFLOW_HTTP_REQUEST_TIMEOUT")
        if not all(os.environ.get(name) for name in names):
            # MLflow's own calls retry a dead server unless two variables say otherwise
            bound = f"{names[0]}=1 {names[1]}=5 bound that to seconds"
            detail = f"a plain MLFlowLogger blocks for minutes when its server dies; {bound}"
            yield Finding("MLflow patience", "note", detail)
    elif scheme == "sqlite":
        yield Finding("MLflow", *_sqlite(uri))
    elif scheme in {"", "file"}:
        advice = "which recent MLflow refuses; use sqlite:///mlflow.db or a server"
        yield Finding("MLflow", "warning", f"{uri} is a plain-file store, {advice}")
    else:
        yield Finding("MLflow", "note", f"{scheme}:// stores are not tried")


def _server(uri: str) -> tuple[Status, str]:
    from urllib.error import HTTPError
    from urllib.request import urlopen

    from lightning_scaling.tracking.backends.base import without_secrets

    shown = without_secrets(uri)
    try:
        with urlopen(shown.rstrip("/") + "/health", timeout=SERVER_TIMEOUT) as answer:
            return "ok", f"{shown} answers ({answer.status})"
    except HTTPError as error:
        if error.code in {401, 403}:
            return "warning", f"{shown} answers, but refuses without credentials ({error.code})"
        return "warning", f"{shown} answers {error.code} to /health; is it an MLflow server?"
    except (OSError, ValueError) as error:
        reason = f"does not answer within {SERVER_TIMEOUT:g} s ({getattr(error, 'reason', error)})"
        return "failure", f"{shown} {reason}; start it, or correct MLFLOW_TRACKING_URI"


def _sqlite(uri: str) -> tuple[Status, str]:
    import sqlite3
    from contextlib import closing

    text = uri.removeprefix("sqlite:///")
    if not text:
        return "warning", f"{uri} keeps everything in memory; name a file: sqlite:///mlflow.db"
    file = Path(text).absolute()
    if not file.exists():
        if os.access(file.parent, os.W_OK):
            return "ok", f"{uri} does not exist yet and can be created"
        return "failure", f"{uri} cannot be created: there is no writable folder {file.parent}"
    try:
        with closing(sqlite3.connect(f"{file.as_uri()}?mode=ro", uri=True, timeout=SERVER_TIMEOUT)) as database:
            tables = {row[0] for row in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    except sqlite3.Error as error:
        return "failure", f"{uri} cannot be read as a database: {error}"
    if tables and "experiments" not in tables:
        return "failure", f"{uri} is a database, but not one of MLflow"
    return "ok", f"{uri} can be read"


def flop_counting() -> Iterator[Finding]:
    """Whether the counter finds the FLOPs of a small attention model that can be counted by hand."""
    from lightning_scaling.compute import selfcheck

    ok, detail = selfcheck()
    yield Finding("FLOP counting", "ok" if ok else "failure", detail)


def journals_waiting(folder: Path) -> Iterator[Finding]:
    """Journals whose rows have not all reached MLflow."""
    from lightning_scaling.tracking import pending_journals

    pending = pending_journals(folder)
    if not pending:
        yield Finding("journals", "ok", f"none below {folder} waits to be sent")
    for journal in pending:
        if journal.live:
            yield Finding("journals", "note", f"{journal.path}: being written now, {journal.rows} rows not sent yet")
        else:
            remedy = f"`lightning-scaling sync {journal.path}`"
            yield Finding("journals", "warning", f"{journal.path}: {journal.rows} rows not sent; {remedy}")
