import logging
import pickle
import queue
import subprocess
import sys
import textwrap

import numpy as np
import pytest

from lightning_scaling.tracking import LoggerTarget, Tracker, read_journal
from lightning_scaling.tracking import tracker as module

WAIT = 30.0


def dead(kind, content):
    raise ConnectionError("connection refused")


class Logger:
    def __init__(self):
        self.logged = []
        self.failure = None

    def log_metrics(self, metrics, step=None):
        if self.failure is not None:
            raise self.failure
        self.logged.append((step, metrics))


def tracker_of(targets, tmp_path, said, **kwargs):
    return Tracker(targets, **{"journal": tmp_path / "run.jsonl", "interval": 0.0, "say": said.append, **kwargs})


def test_everything_reaches_the_journal_and_the_target(target, tmp_path, said):
    tracker = tracker_of([target], tmp_path, said, header={"alpha": 0.01})
    tracker.params({"alpha": 0.01, "target": None})
    for step in range(1, 4):
        tracker.points([step], [1.0 / step], lr=[0.1])
        tracker.metrics({"scaling/loss": 1.0 / step}, step=step)
    tracker.update({"step": 3, "forecast": {"final": 0.2}})
    tracker.mark("resume", 3, {"from": "x.ckpt"})
    tracker.tags({"scaling.verdict": "on track", 3: 4, "none": None})
    tracker.note("# Hello")
    tracker.artifact("scaling/curve.csv", "step,loss\n")
    tracker.artifact("scaling/forecast.png", b"\x89PNG")
    report = tracker.close(WAIT, reason="max_steps")

    assert (report.sent, report.waiting, report.dropped, report.message) == (8, 0, 0, "")
    assert [(point.step, point.key, point.value) for point in target.metrics] == [
        (1, "scaling/loss", 1.0),
        (2, "scaling/loss", 0.5),
        (3, "scaling/loss", 1 / 3),
    ]
    assert target.params == {"scaling.alpha": "0.01"}
    assert target.tags == {"scaling.verdict": "on track", "3": "4"}
    assert target.notes == ["# Hello"]
    assert target.artifacts == {"scaling/curve.csv": b"step,loss\n", "scaling/forecast.png": b"\x89PNG"}

    contents = read_journal(tmp_path / "run.jsonl")
    assert contents.header == {"alpha": 0.01}
    assert contents.segments[0].targets == [target.describe()]
    assert contents.points.loss.tolist() == [1.0, 0.5, 1 / 3]
    assert contents.updates == [{"step": 3, "forecast": {"final": 0.2}}]
    assert contents.marks[0]["data"] == {"from": "x.ckpt"}
    assert [op["op"] for op in contents.ops] == [
        "params",
        *["metrics"] * 3,
        "tags",
        "note",
        "artifact",
        "artifact",
    ]
    assert contents.end is not None
    assert contents.end["reason"] == "max_steps"
    assert [contents.artifact(op) for op in contents.ops[-2:]] == [b"step,loss\n", b"\x89PNG"]
    assert said == []


def test_the_journal_is_on_disk_before_the_run_ends(tmp_path, said):
    tracker = tracker_of([], tmp_path, said)
    tracker.metrics({"scaling/loss": 1.0}, step=1)
    assert len(read_journal(tmp_path / "run.jsonl").ops) == 1
    tracker.close()


def test_values_that_are_not_finite_are_counted_and_left_out(target, tmp_path, said):
    tracker = tracker_of([target], tmp_path, said)
    tracker.metrics({"a": float("nan"), "b": float("inf"), "c": np.float32(2.0), "d": None, "e": "text"}, step=1)
    tracker.metrics({"a": float("nan")}, step=2)
    report = tracker.close(WAIT)
    assert [(point.key, point.value) for point in target.metrics] == [("c", 2.0)]
    assert (report.nonfinite, report.left_out, report.waiting) == (3, 2, 0)
    values = [op["values"] for op in read_journal(tmp_path / "run.jsonl").ops]
    assert values == [{"a": None, "b": None, "c": 2.0, "d": None, "e": None}, {"a": None}]


@pytest.mark.parametrize("step", [1.5, None, "x", 2**63, float("nan")])
def test_a_step_that_is_not_whole_is_left_out(target, tmp_path, said, step):
    tracker = tracker_of([target], tmp_path, said)
    tracker.metrics({"a": 1.0}, step=step)
    tracker.metrics({"a": 2.0}, step=np.int64(3))
    report = tracker.close(WAIT)
    assert [(point.step, point.value) for point in target.metrics] == [(3, 2.0)]
    assert report.left_out == 1


def test_nothing_raises_into_the_run(target, tmp_path, said):
    tracker = tracker_of([target], tmp_path, said)
    tracker.metrics(None, step=1)
    tracker.params(["a"])
    tracker.tags(3)
    tracker.note(None)
    tracker.artifact("../outside.txt", "x")
    tracker.artifact("/etc/x", "x")
    tracker.artifact("ok.txt", 3.5)
    tracker.points([1, 2], [1.0])
    tracker.update(None)
    tracker.mark("x", object())
    report = tracker.close(WAIT)
    assert report.left_out >= 5
    assert "stays within the run" in "".join(said)
    assert len(said) == len(set(said))
    assert not (tmp_path / "outside.txt").exists()


def test_a_say_that_raises_does_not_matter(target, tmp_path):
    def broken(sentence):
        raise ValueError("no")

    tracker = Tracker([target], journal=tmp_path / "run.jsonl", say=broken)
    tracker.metrics(None, step=1)
    tracker.metrics({"a": 1.0}, step=2)
    assert tracker.close(WAIT).sent == 1


def test_a_dead_target_leaves_rows_waiting_and_says_how_to_send_them(target, tmp_path, said):
    target.failure = dead
    tracker = tracker_of([target], tmp_path, said)
    for step in range(1, 6):
        tracker.metrics({"a": 1.0}, step=step)
    report = tracker.close(WAIT)
    assert (report.sent, report.waiting) == (0, 5)
    assert report.message.endswith(f"`lightning-scaling sync {tmp_path / 'run.jsonl'}`.")
    assert "connection refused" in report.error
    assert len(said) == 2
    assert "Training goes on" in said[0]
    assert said[1] == report.message
    assert len(read_journal(tmp_path / "run.jsonl").ops) == 5
    assert tracker.close(WAIT) is report


def test_a_blocked_target_does_not_hold_up_the_end(target, tmp_path, said):
    target.gate.clear()
    tracker = tracker_of([target], tmp_path, said)
    for step in range(1, 6):
        tracker.metrics({"a": 1.0}, step=step)
    assert target.entered.wait(WAIT)
    report = tracker.close(0.2)
    assert (report.sent, report.waiting) == (0, 5)
    assert "fake run has not answered for" in report.message
    assert read_journal(tmp_path / "run.jsonl").end is not None


def test_a_target_that_does_not_answer_is_mentioned_once(target, tmp_path, said, monkeypatch):
    monkeypatch.setattr(module, "_SLOW_AFTER", -1.0)
    target.gate.clear()
    tracker = tracker_of([target], tmp_path, said)
    for step in range(1, 6):
        tracker.metrics({"a": 1.0}, step=step)
    assert len(said) == 1
    assert "has not answered" in said[0]
    target.gate.set()
    tracker.close(WAIT)


def test_one_target_does_not_hold_up_another(target, tmp_path, said):
    healthy = type(target)("other")
    target.gate.clear()
    tracker = tracker_of([target, healthy], tmp_path, said)
    done = queue.Queue()
    tracker._sinks[1]._on_sent = done.put
    tracker.metrics({"a": 1.0}, step=1)
    assert done.get(timeout=WAIT)
    report = tracker.close(0.01)
    assert [one.sent for one in report.targets] == [0, 1]


def test_after_the_end_nothing_is_taken(target, tmp_path, said):
    tracker = tracker_of([target], tmp_path, said)
    tracker.metrics({"a": 1.0}, step=1)
    tracker.close(WAIT)
    size = (tmp_path / "run.jsonl").stat().st_size
    tracker.metrics({"a": 1.0}, step=2)
    tracker.note("x")
    assert (tmp_path / "run.jsonl").stat().st_size == size
    assert len(target.metrics) == 1


def test_without_a_journal_the_target_is_still_written(target, said):
    tracker = Tracker([target], interval=0.0, say=said.append)
    tracker.points([1], [1.0])
    tracker.metrics({"a": 1.0}, step=1)
    report = tracker.close(WAIT)
    assert len(target.metrics) == 1
    assert report.journal is None
    assert tracker.journal_path is None

    target.failure = dead
    tracker = Tracker([target], interval=0.0, say=said.append)
    tracker.metrics({"a": 1.0}, step=1)
    assert "no journal" in tracker.close(WAIT).message


def test_a_disk_that_fails_does_not_keep_rows_from_the_target(target, tmp_path, said):
    blocker = tmp_path / "folder"
    blocker.write_text("")
    tracker = tracker_of([target], tmp_path, said, journal=blocker / "run.jsonl")
    for step in range(1, 4):
        tracker.metrics({"a": 1.0}, step=step)
        tracker.artifact("scaling/x.txt", "x")
    report = tracker.close(WAIT)
    assert len(target.metrics) == 3
    assert target.artifacts == {"scaling/x.txt": b"x"}
    assert len(said) == 1
    assert "cannot be written" in said[0]
    assert report.message == ""
    assert report.unwritten > 0
    assert report.error.startswith(f"The journal {blocker / 'run.jsonl'} cannot be written (")


def test_rows_that_left_the_queue_wait_in_the_journal(target, tmp_path, said):
    target.gate.clear()
    tracker = tracker_of([target], tmp_path, said, limit=3)
    for step in range(10):
        tracker.metrics({"a": 1.0}, step=step)
    report = tracker.status()
    assert (report.waiting, report.dropped) == (10, 0)
    target.gate.set()
    tracker.close(WAIT)

    other = type(target)("other")
    other.gate.clear()
    tracker = Tracker([other], limit=3, say=said.append)
    for step in range(10):
        tracker.metrics({"a": 1.0}, step=step)
    assert (tracker.status().waiting, tracker.status().dropped) == (3, 7)
    other.gate.set()
    tracker.close(WAIT)


def test_a_lightning_logger_gets_metrics_at_once_in_the_calling_thread(tmp_path, said):
    logger = Logger()
    tracker = tracker_of([LoggerTarget(logger)], tmp_path, said)
    tracker.metrics({"a": 1.0, "b": float("nan")}, step=3)
    assert logger.logged == [(3, {"a": 1.0})]
    tracker.tags({"x": "y"})
    tracker.metrics({"b": float("nan")}, step=4)
    report = tracker.close()
    assert len(logger.logged) == 1
    assert report.targets[0].kind == "logger"
    assert (report.sent, report.waiting) == (1, 0)


def test_a_lightning_logger_that_fails_is_left_alone(target, tmp_path, said):
    logger = Logger()
    logger.failure = OSError("disk full")
    tracker = tracker_of([LoggerTarget(logger), target], tmp_path, said)
    for step in range(3):
        tracker.metrics({"a": 1.0}, step=step)
        logger.failure = None
    report = tracker.close(WAIT)
    assert logger.logged == []
    assert (report.targets[1].sent, report.targets[1].dropped) == (0, 3)
    assert len(target.metrics) == 3
    assert len(said) == 1
    assert "Logger failed (OSError: disk full)" in said[0]


def test_what_is_not_a_logger_is_refused():
    with pytest.raises(TypeError, match="log_metrics"):
        LoggerTarget(object())


def test_a_tracker_can_be_pickled_before_and_during_a_run(tmp_path):
    logger = Logger()
    tracker = Tracker(
        [LoggerTarget(logger)], journal=tmp_path / "run.jsonl", header={"a": 1}, say=lambda sentence: None
    )
    for step in (1, 2):
        copy = pickle.loads(pickle.dumps(tracker))
        copy.metrics({"a": 1.0}, step=10 * step)
        copy.close()
        tracker.metrics({"a": 1.0}, step=step)
    tracker.close()
    kept = [op["step"] for path in sorted(tmp_path.glob("*.jsonl")) for op in read_journal(path).ops]
    assert sorted(kept) == [1, 2, 10, 20]


def test_the_report_is_builtins(target, tmp_path, said):
    tracker = tracker_of([target], tmp_path, said)
    tracker.metrics({"a": 1.0}, step=1)
    data = tracker.close(WAIT).to_dict()
    assert data["sent"] == 1
    assert data["targets"][0]["name"] == "fake run"
    assert data["journal"] == str(tmp_path / "run.jsonl")


def test_by_default_it_speaks_through_the_log(target, tmp_path, caplog):
    target.failure = dead
    tracker = Tracker([target], journal=tmp_path / "run.jsonl")
    tracker.metrics({"a": 1.0}, step=1)
    with caplog.at_level(logging.WARNING):
        tracker.close(WAIT)
    assert "lightning-scaling sync" in caplog.text


def test_a_process_that_forgot_to_close_ends_though_its_target_blocks(tmp_path):
    code = f"""
    import threading
    from lightning_scaling.tracking import Tracker, tracker
    tracker._AT_EXIT = 0.05

    class Blocked:
        key = name = "blocked"
        def describe(self): return {{"kind": "mlflow"}}
        def open(self): threading.Event().wait()

    run = Tracker([Blocked()], journal={str(tmp_path / "run.jsonl")!r})
    for step in range(5):
        run.metrics({{"a": 1.0}}, step=step)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0
    assert "5 rows have not been sent" in done.stderr
    contents = read_journal(tmp_path / "run.jsonl")
    assert len(contents.ops) == 5
    assert contents.end is not None


def test_importing_it_loads_neither_mlflow_nor_lightning_nor_torch():
    code = (
        "import sys, lightning_scaling.tracking; "
        "print([m for m in ('mlflow', 'lightning', 'pytorch_lightning', 'torch', 'matplotlib') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[]"
