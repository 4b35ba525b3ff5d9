"""Writes to one MLflow run, with a client of its own and without touching MLflow's global settings."""

from __future__ import annotations

import hashlib
import os
import posixpath
import random
import re
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

from lightning_scaling.tracking.backends.base import GoneError, Point, RefusedError, redacted, without_secrets

NOTE_TAG = "mlflow.note.content"
_MARK = re.compile(r"\n*<!-- lightning-scaling ([0-9a-f]{16}) -->\s*\Z")
_OTHER = re.compile(r"[^\w./\- ]")
_LONGEST_KEY = 250
_DELETED = "must be in the 'active' state"
_REFUSING = {"INVALID_PARAMETER_VALUE", "BAD_REQUEST", "RESOURCE_ALREADY_EXISTS", "ALREADY_EXISTS", "DATA_LOSS"}
_MISSING = {"RESOURCE_DOES_NOT_EXIST", "NOT_FOUND", "ENDPOINT_NOT_FOUND", "INVALID_STATE"}
_FORBIDDEN = {"PERMISSION_DENIED", "UNAUTHENTICATED", "CUSTOMER_UNAUTHORIZED"}


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

    kind: ClassVar[str] = "mlflow"
    title: ClassVar[str] = "MLflow"

    def __init__(
        self, run_id: str | None, tracking_uri: str, *, experiment: str | None = None, run_name: str | None = None
    ) -> None:
        if run_id is None and experiment is None:
            raise ValueError("`run_id` is None: give the run to write to, or the `experiment` in which to create one.")
        self.run_id, self.tracking_uri = run_id, str(tracking_uri)
        self.experiment, self.run_name = experiment, run_name
        self.created = False
        self._client: Any = None
        self._params: set[str] = set()

    @classmethod
    def from_logger(cls, logger: Any) -> MLflowTarget | None:
        """The run of an ``MLFlowLogger``; ``None`` for another logger.

        Raises:
            ValueError: If the logger has no run.
        """
        named = any(one.__name__ == "MLFlowLogger" for one in type(logger).__mro__)
        if not (named and hasattr(logger, "_tracking_uri")):
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

    @classmethod
    def from_spec(cls, spec: Mapping[str, Any]) -> MLflowTarget:
        """The run that a journal names, or one to be created in an experiment."""
        known = {name: spec.get(name) for name in ("experiment", "run_name")}
        return cls(spec.get("run_id"), spec["tracking_uri"], **known)

    @classmethod
    def configured_uri(cls) -> str:
        """What ``MLFLOW_TRACKING_URI`` or ``mlflow.set_tracking_uri`` names, else MLflow's default."""
        if "mlflow" not in sys.modules and os.environ.get("MLFLOW_TRACKING_URI"):
            return os.environ["MLFLOW_TRACKING_URI"]
        try:
            import mlflow
        except ImportError:
            return ""
        return str(mlflow.get_tracking_uri())

    @property
    def key(self) -> str:
        """What identifies the run in the record of sent rows."""
        return f"mlflow:{self.run_id}"

    @property
    def name(self) -> str:
        """What to call the run in a sentence."""
        run = f"run {self.run_id}" if self.run_id else f"experiment {self.experiment!r}"
        return f"MLflow {run} at {without_secrets(self.tracking_uri)}"

    @property
    def reference(self) -> dict[str, str | None]:
        """``run_id`` and ``tracking_uri``, with any password that the URI holds: not to be written or printed."""
        return {"run_id": self.run_id, "tracking_uri": self.tracking_uri}

    def describe(self) -> dict[str, Any]:
        """The run and where it is kept, without secrets."""
        return {"kind": self.kind, "run_id": self.run_id, "tracking_uri": without_secrets(self.tracking_uri)}

    def open(self) -> None:
        """Make the client, create the run when there is none, and see which parameters it has."""
        try:
            from mlflow.tracking import MlflowClient
        except ImportError as error:
            raise GoneError(f"mlflow cannot be imported ({error}): nothing is sent to {self.name}.") from error
        _draw_jitter_elsewhere()
        with self._explained():
            client = MlflowClient(tracking_uri=self.tracking_uri)
            if self.run_id is None:
                found = client.get_experiment_by_name(self.experiment)
                experiment = found.experiment_id if found is not None else client.create_experiment(self.experiment)
                self.run_id = str(client.create_run(experiment, run_name=self.run_name).info.run_id)
                self.created = True
            self._params = set(client.get_run(self.run_id).data.params)
        self._client = client

    def write(
        self, *, metrics: list[Point] | None = None, params: dict[str, str] | None = None, tags: Any = None
    ) -> None:
        """Store metrics, params that the run does not have yet, and tags."""
        from mlflow.entities import Metric, Param, RunTag

        named = {safe_key(key): value for key, value in (params or {}).items()}
        new = {key: _shortened(value, _limit("PARAM", 500)) for key, value in named.items() if key not in self._params}
        self._log(
            metrics=[Metric(safe_key(one.key), one.value, one.time, one.step) for one in metrics or []],
            params=[Param(key, value) for key, value in new.items()],
            tags=[RunTag(safe_key(key), _shortened(str(tags[key]), _limit("TAG", 5000))) for key in tags or ()],
        )
        self._params.update(new)

    def note(self, text: str) -> None:
        """Set the description of the run, unless somebody else wrote there."""
        from mlflow.entities import RunTag

        with self._explained():
            current = self._client.get_run(self.run_id).data.tags.get(NOTE_TAG)
        if ours(current):
            room = _limit("TAG", 5000) - len(signed(""))
            self._log(tags=[RunTag(NOTE_TAG, signed(_shortened(text.strip(), room)))])

    def artifact(self, path: str, content: bytes) -> None:
        """Store a file under the run."""
        folder, name = posixpath.split(posixpath.normpath(path))
        with tempfile.TemporaryDirectory(prefix="lightning-scaling-") as place, self._explained():
            file = Path(place) / name
            file.write_bytes(content)
            self._client.log_artifact(self.run_id, str(file), folder or None)

    def finish(self) -> None:
        """Mark a run that this target created as finished."""
        if self.created and self._client is not None:
            self._client.set_terminated(self.run_id)

    def _log(self, **entities: Any) -> None:
        if any(entities.values()):
            with self._explained():
                # without `synchronous`, an environment variable could send this to MLflow's own queue, which joins at
                # exit
                self._client.log_batch(self.run_id, synchronous=True, **entities)

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Raise an error as the sink understands it: refused, gone, or itself when trying again may help."""
        try:
            yield
        except Exception as error:
            code = getattr(error, "error_code", None)
            message = next(iter(redacted(str(error)).strip().splitlines()), type(error).__name__)[:300]
            # a deleted run refuses each row as invalid; restored, it takes them
            if code in _MISSING | _FORBIDDEN or _DELETED in message:
                raise GoneError(f"{self.name} takes no more rows ({code}: {message}).") from error
            if code in _REFUSING:
                raise RefusedError(f"{self.name} refused a row ({message}).") from error
            raise


def _draw_jitter_elsewhere() -> None:
    """Give the pauses between retried requests a random generator of their own.

    They draw from Python's global one, which belongs to the user's run: a seeded run would otherwise depend on whether
    its server answers. Restoring the state of the global one is no way out, as the run draws from it meanwhile.
    """
    for name in ("urllib3.util.retry", "mlflow.utils.request_utils", "mlflow.utils.rest_utils"):
        module: Any = sys.modules.get(name)
        if getattr(module, "random", None) is random:
            module.random = random.Random()


def _limit(name: str, default: int) -> int:
    """Longest value of a param or tag that this version of MLflow takes, in characters."""
    from mlflow.utils import validation

    return int(getattr(validation, f"MAX_{name}_VAL_LENGTH", default))


def _digest(text: str) -> str:
    return hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()[:16]


def _shortened(text: str, room: int) -> str:
    return text if len(text) <= room else text[: room - 1] + "…"
