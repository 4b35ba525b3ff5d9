"""Writes to one MLflow run, with a client of its own and without touching MLflow's global settings."""

from __future__ import annotations

import hashlib
import posixpath
import re
import sys
import tempfile
from pathlib import Path
from typing import Any, ClassVar

from lightning_scaling.tracking.sink import GoneError, Point, RefusedError

NOTE_TAG = "mlflow.note.content"
_MARK = re.compile(r"\n*<!-- lightning-scaling ([0-9a-f]{16}) -->\s*\Z")
_OTHER = re.compile(r"[^\w./\- ]")
_SECRET = re.compile(r"([^=&;]*(?:pass|pwd|token|secret|key|sig|auth|cred)[^=&;]*)=[^&;#]*", re.IGNORECASE)
_LONGEST_KEY = 250
_REFUSING = {"INVALID_PARAMETER_VALUE", "BAD_REQUEST", "RESOURCE_ALREADY_EXISTS", "ALREADY_EXISTS", "DATA_LOSS"}
_CLOSING = {
    "RESOURCE_DOES_NOT_EXIST",
    "NOT_FOUND",
    "ENDPOINT_NOT_FOUND",
    "PERMISSION_DENIED",
    "UNAUTHENTICATED",
    "CUSTOMER_UNAUTHORIZED",
    "INVALID_STATE",
}


def safe_key(key: str) -> str:
    """The key as MLflow takes it: its characters, no odd path parts, at most 250 long (a longer one ends in a hash)."""
    cleaned = posixpath.normpath(_OTHER.sub("_", key.strip())).lstrip("/")
    cleaned = cleaned.replace("../", "").strip(".") or "unnamed"
    if len(cleaned) <= _LONGEST_KEY:
        return cleaned
    digest = hashlib.sha1(key.encode(), usedforsecurity=False).hexdigest()[:12]
    return f"{cleaned[: _LONGEST_KEY - 13]}-{digest}"


def signed(text: str) -> str:
    """A description with the mark that says it is ours and unchanged."""
    body = text.strip()
    return f"{body}\n\n<!-- lightning-scaling {_digest(body)} -->"


def ours(description: str | None) -> bool:
    """Whether a description may be replaced: it is empty, or one of ours that nobody has edited."""
    if description is None or not description.strip():
        return True
    mark = _MARK.search(description)
    return mark is not None and mark.group(1) == _digest(description[: mark.start()].strip())


def without_secrets(uri: str) -> str:
    """The tracking URI without user name and password, local paths made absolute, so that it can be kept in a file."""
    if uri.startswith("sqlite:///") and not re.match(r"sqlite:///(/|[A-Za-z]:|:memory:|$)", uri):
        return f"sqlite:///{Path(uri[len('sqlite:///') :]).absolute()}"
    if uri.startswith("file:") and not uri.startswith("file:/"):
        return f"file://{Path(uri[len('file:') :]).absolute()}"
    if "://" not in uri:
        return uri if re.match(r"databricks|uc|file:", uri) else str(Path(uri).absolute())
    scheme, _, rest = uri.partition("://")
    rest, question, query = rest.partition("?")
    # an unquoted slash in a password makes the path begin early: everything up to the last "@" may be secret
    rest = rest.rpartition("@")[2]
    hidden = _SECRET.sub(r"\1=***", query)
    return f"{scheme}://{rest}{question}{hidden}"


class MLflowTarget:
    """One MLflow run as the target of a sink.

    The client is made, and mlflow imported, in the thread of the sink. Parameters that the run already has are left as
    they are; the description is written only where it is empty or ours.

    Args:
        run_id: The run. ``None`` creates one, which ``experiment`` must then name.
        tracking_uri: Where it is kept, for example ``"sqlite:////data/mlflow.db"`` or ``"http://host:5000"``.
        experiment: Name of the experiment in which a new run is created.
        run_name: Name of a new run.

    Raises:
        ValueError: If neither a run nor an experiment is given.
    """

    inline: ClassVar[bool] = False
    kind: ClassVar[str] = "mlflow"
    title: ClassVar[str] = "MLflow"

    def __init__(
        self, run_id: str | None, tracking_uri: str, *, experiment: str | None = None, run_name: str | None = None
    ) -> None:
        if run_id is None and experiment is None:
            raise ValueError("`run_id` is None: give the run to write to, or the `experiment` in which to create one.")
        self.run_id = run_id
        self.tracking_uri = str(tracking_uri)
        self.experiment = experiment
        self.run_name = run_name
        self.created = False
        self._client: Any = None
        self._params: set[str] = set()

    @classmethod
    def from_logger(cls, logger: Any) -> MLflowTarget | None:
        """The run of an ``MLFlowLogger``; ``None`` for another logger.

        Raises:
            ValueError: If the logger has no run.
        """
        if not (
            any(one.__name__ == "MLFlowLogger" for one in type(logger).__mro__) and hasattr(logger, "_tracking_uri")
        ):
            return None
        # Lightning has made the run before on_fit_start; the property, which may go over the network, is the fallback.
        run_id = getattr(logger, "_run_id", None) or logger.run_id
        if not isinstance(run_id, str) or not run_id:
            raise ValueError("its `run_id` is empty")
        return cls(run_id, str(logger._tracking_uri))

    @classmethod
    def active(cls) -> MLflowTarget | None:
        """The run that is active in this thread; ``None`` if there is none, or MLflow is not imported."""
        mlflow = sys.modules.get("mlflow")
        run = mlflow.active_run() if mlflow is not None and hasattr(mlflow, "active_run") else None
        return None if mlflow is None or run is None else cls(str(run.info.run_id), str(mlflow.get_tracking_uri()))

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_client": None, "_params": set()}

    @property
    def key(self) -> str:
        """What identifies the run in the record of sent rows."""
        return f"mlflow:{self.run_id}"

    @property
    def name(self) -> str:
        """What to call the run in a sentence."""
        run = f"run {self.run_id}" if self.run_id else f"experiment {self.experiment!r}"
        return f"MLflow {run} at {without_secrets(self.tracking_uri)}"

    def describe(self) -> dict[str, Any]:
        """The run and where it is kept, without secrets."""
        return {"kind": self.kind, "run_id": self.run_id, "tracking_uri": without_secrets(self.tracking_uri)}

    def open(self) -> None:
        """Make the client, create the run when there is none, and see which parameters it has."""
        try:
            from mlflow.tracking import MlflowClient
        except ImportError as error:
            raise GoneError(f"mlflow cannot be imported ({error}): nothing is sent to {self.name}.") from error
        try:
            client = MlflowClient(tracking_uri=self.tracking_uri)
            if self.run_id is None:
                self.run_id = self._create(client)
                self.created = True
            run = client.get_run(self.run_id)
        except Exception as error:
            raise self._explained(error) from error
        self._params = set(run.data.params)
        self._client = client

    def write(
        self, *, metrics: list[Point] | None = None, params: dict[str, str] | None = None, tags: Any = None
    ) -> None:
        """Store metrics, params that the run does not have yet, and tags."""
        from mlflow.entities import Metric, Param, RunTag

        longest_param = self._limit("MAX_PARAM_VAL_LENGTH", 500)
        new = {safe_key(key): _shortened(value, longest_param) for key, value in (params or {}).items()}
        new = {key: value for key, value in new.items() if key not in self._params}
        self._log(
            metrics=[Metric(safe_key(one.key), one.value, one.time, one.step) for one in metrics or []],
            params=[Param(key, value) for key, value in new.items()],
            tags=[RunTag(safe_key(key), self._tag_value(value)) for key, value in dict(tags or {}).items()],
        )
        self._params.update(new)

    def note(self, text: str) -> None:
        """Set the description of the run, unless somebody else wrote there."""
        from mlflow.entities import RunTag

        try:
            current = self._client.get_run(self.run_id).data.tags.get(NOTE_TAG)
        except Exception as error:
            raise self._explained(error) from error
        if ours(current):
            room = self._limit("MAX_TAG_VAL_LENGTH", 5000) - len(signed(""))
            self._log(tags=[RunTag(NOTE_TAG, signed(_shortened(text.strip(), room)))])

    def artifact(self, path: str, content: bytes) -> None:
        """Store a file under the run."""
        folder, name = posixpath.split(posixpath.normpath(path))
        with tempfile.TemporaryDirectory(prefix="lightning-scaling-") as place:
            file = Path(place) / name
            file.write_bytes(content)
            try:
                self._client.log_artifact(self.run_id, str(file), folder or None)
            except Exception as error:
                raise self._explained(error) from error

    def finish(self) -> None:
        """Mark a run that this target created as finished."""
        if self.created and self._client is not None:
            self._client.set_terminated(self.run_id)

    def _create(self, client: Any) -> str:
        found = client.get_experiment_by_name(self.experiment)
        experiment = found.experiment_id if found is not None else client.create_experiment(self.experiment)
        run = client.create_run(experiment, run_name=self.run_name)
        return str(run.info.run_id)

    def _log(self, **entities: Any) -> None:
        if not any(entities.values()):
            return
        try:
            # without `synchronous`, an environment variable could send this to MLflow's own queue, which joins at exit
            self._client.log_batch(self.run_id, synchronous=True, **entities)
        except Exception as error:
            raise self._explained(error) from error

    def _tag_value(self, value: object) -> str:
        return _shortened(str(value), self._limit("MAX_TAG_VAL_LENGTH", 5000))

    @staticmethod
    def _limit(name: str, default: int) -> int:
        from mlflow.utils import validation

        return int(getattr(validation, name, default))

    def _explained(self, error: Exception) -> Exception:
        """The error as the sink understands it: refused, gone, or itself when trying again may help."""
        code = getattr(error, "error_code", None)
        message = str(error).strip().splitlines()[0][:300] if str(error).strip() else type(error).__name__
        if code in _REFUSING:
            return RefusedError(f"{self.name} refused a row ({message}).")
        if code in _CLOSING:
            return GoneError(f"{self.name} takes no more rows ({code}: {message}).")
        return error


def _digest(text: str) -> str:
    return hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()[:16]


def _shortened(text: str, room: int) -> str:
    return text if len(text) <= room else text[: room - 1] + "…"
