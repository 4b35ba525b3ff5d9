import sys
from types import SimpleNamespace

from lightning_scaling.tracking import LoggerTarget, MLflowTarget, Tracker, find_targets, pending_journals, sync
from lightning_scaling.tracking.backends import BACKENDS


class MLFlowLogger:
    def __init__(self, run_id="abc", uri="http://host:5000", error=None):
        self._run_id = None
        self._tracking_uri = uri
        self._made = run_id
        self.error = error
        self.asked = 0

    @property
    def run_id(self):
        self.asked += 1
        if self.error is not None:
            raise self.error
        return self._made

    def log_metrics(self, metrics, step=None):
        raise AssertionError("written through MLflow itself")


class Derived(MLFlowLogger):
    pass


class CSVLogger:
    def log_metrics(self, metrics, step=None):
        pass


def trainer(*loggers):
    return SimpleNamespace(loggers=list(loggers))


def active(monkeypatch, run_id="active"):
    run = None if run_id is None else SimpleNamespace(info=SimpleNamespace(run_id=run_id))
    fake = SimpleNamespace(active_run=lambda: run, get_tracking_uri=lambda: "sqlite:////x/mlflow.db")
    monkeypatch.setitem(sys.modules, "mlflow", fake)


def runs(targets):
    return [(one.run_id, one.tracking_uri) for one in targets if isinstance(one, MLflowTarget)]


def test_an_mlflow_logger(monkeypatch):
    active(monkeypatch)
    for logger in (MLFlowLogger(), Derived()):
        targets, sentence = find_targets(trainer(logger))
        assert runs(targets) == [("abc", "http://host:5000")]
        assert "MLflow run abc at http://host:5000" in sentence


def test_a_run_that_the_logger_has_made_is_not_asked_for_again():
    logger = MLFlowLogger()
    logger._run_id = "made"
    targets, _ = find_targets(trainer(logger))
    assert runs(targets) == [("made", "http://host:5000")]
    assert logger.asked == 0


def test_the_active_run_where_there_is_no_mlflow_logger(monkeypatch):
    active(monkeypatch)
    targets, sentence = find_targets(trainer(CSVLogger()))
    assert runs(targets) == [("active", "sqlite:////x/mlflow.db")]
    assert isinstance(targets[1], LoggerTarget)
    assert sentence == (
        "Writing to MLflow run active at sqlite:////x/mlflow.db (the active run), CSVLogger (metrics only)."
    )


def test_other_loggers_get_the_metrics(monkeypatch):
    active(monkeypatch, None)
    targets, _ = find_targets(trainer(CSVLogger(), MLFlowLogger(), CSVLogger()))
    assert [isinstance(one, LoggerTarget) for one in targets] == [False, True, True]


def test_nothing_to_write_to(monkeypatch):
    monkeypatch.delitem(sys.modules, "mlflow", raising=False)
    for nothing in (trainer(), SimpleNamespace(), SimpleNamespace(loggers=None), None):
        targets, sentence = find_targets(nothing)
        assert targets == []
        assert sentence == "No logger to write to: only the journal and the console."
    assert "mlflow" not in sys.modules


def test_loggers_that_fail_are_named_and_do_not_raise(monkeypatch):
    active(monkeypatch, None)
    broken = MLFlowLogger(error=ConnectionError("refused"))
    empty = MLFlowLogger(run_id=None)
    targets, sentence = find_targets(trainer(broken, empty, object(), CSVLogger()))
    assert [one.name for one in targets] == ["CSVLogger"]
    assert "MLFlowLogger has no run to write to (ConnectionError: refused)" in sentence
    assert "its `run_id` is empty" in sentence
    assert "got object" in sentence


def test_a_broken_mlflow_or_trainer_does_not_raise(monkeypatch):
    def broken():
        raise RuntimeError("no")

    monkeypatch.setitem(sys.modules, "mlflow", SimpleNamespace(active_run=broken))
    _, sentence = find_targets(trainer())
    assert "MLflow's active run cannot be read (RuntimeError: no)" in sentence

    class Trainer:
        @property
        def loggers(self):
            raise RuntimeError("detached")

    _, sentence = find_targets(Trainer())
    assert "cannot be listed (RuntimeError: detached)" in sentence


def test_a_real_active_run(store):
    import mlflow

    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(store.uri)
    try:
        with mlflow.start_run(experiment_id=store.experiment) as run:
            targets, _ = find_targets(trainer())
            assert runs(targets) == [(run.info.run_id, store.uri)]
        assert runs(find_targets(trainer())[0]) == []
    finally:
        mlflow.set_tracking_uri(before)


class ToyLogger:
    def __init__(self):
        self.kept = {}


class ToyTarget:
    """A backend for another tracker, whole: what it keeps is shared by all its runs."""

    kind, title = "toy", "Toy"
    key = name = "toy run"
    created = False
    server = ToyLogger()

    def __init__(self, logger, uri="toy://one"):
        self.logger, self.uri = logger, uri

    @classmethod
    def from_logger(cls, logger):
        return cls(logger) if isinstance(logger, ToyLogger) else None

    @classmethod
    def active(cls):
        return None

    @classmethod
    def from_spec(cls, spec):
        return cls(cls.server, spec["tracking_uri"])

    @classmethod
    def configured_uri(cls):
        return "toy://one"

    @property
    def reference(self):
        return {"run_id": "1", "tracking_uri": self.uri}

    def describe(self):
        return {"kind": self.kind, **self.reference}

    def open(self):
        pass

    def write(self, *, metrics=None, params=None, tags=None):
        self.logger.kept |= {one.key: one.value for one in metrics or []} | (params or {}) | (tags or {})

    def note(self, text):
        self.logger.kept["note"] = text

    def artifact(self, path, content):
        self.logger.kept[path] = content


def test_a_further_backend_is_one_class_and_one_entry(monkeypatch, tmp_path):
    monkeypatch.setitem(BACKENDS, "toy", ToyTarget)
    logger = ToyLogger()
    targets, sentence = find_targets(trainer(logger))
    assert sentence == "Writing to toy run (its ToyLogger)."
    tracker = Tracker(targets, journal=tmp_path / "run.jsonl", interval=0.0)
    tracker.metrics({"scaling/loss": 2.5}, step=1)
    tracker.artifact("scaling/curve.csv", "a,b\n")
    report = tracker.close(30.0)
    assert (report.waiting, report.targets[0].kind) == (0, "toy")
    kept = {"scaling/loss": 2.5, "scaling/curve.csv": b"a,b\n"}
    assert logger.kept == kept

    (tmp_path / "run.sent.json").unlink()
    (pending,) = pending_journals(tmp_path)
    assert (pending.rows, pending.runs) == (2, ("toy run",))
    assert sync(tmp_path).sent == 2
    assert ToyTarget.server.kept == kept


def test_a_target_without_a_kind_is_reported_by_its_class(tmp_path):
    class Plain:
        key = name = "plain"

        def describe(self):
            return {}

        def open(self):
            pass

        def write(self, **rows):
            pass

    tracker = Tracker([Plain()], journal=tmp_path / "run.jsonl", interval=0.0)
    tracker.metrics({"a": 1.0}, step=1)
    assert tracker.close(30.0).targets[0].kind == "Plain"
