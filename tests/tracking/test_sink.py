import multiprocessing
import queue
import threading

import pytest

from lightning_scaling.tracking.backends.base import GoneError, RefusedError
from lightning_scaling.tracking.sink import Breaker, Op, Sink

WAIT = 30.0


def dead(kind, content):
    raise ConnectionError("connection refused")


def metric(n, step=None, **values):
    return Op(n, "metrics", 1000 + n, values or {"scaling/loss": float(n)}, n if step is None else step)


class Spy(Breaker):
    """Tells when an attempt has failed, and lets the test decide the time."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.failed_at = queue.Queue()

    def failed(self, now):
        super().failed(now)
        self.failed_at.put(now)


class Outcome:
    def __init__(self):
        self.sent = queue.Queue()
        self.said = []

    def on_trouble(self, kind, sentence):
        self.said.append((kind, sentence))


def sink_of(target, outcome, **kwargs):
    settings = {"interval": 0.0, "on_sent": outcome.sent.put, "on_trouble": outcome.on_trouble, **kwargs}
    return Sink(target, **settings)


@pytest.fixture
def outcome():
    return Outcome()


def test_breaker_pauses_grow_to_a_limit_and_start_over():
    breaker = Breaker(first=5.0, factor=3.0, longest=60.0)
    now, pauses = 0.0, []
    for _ in range(5):
        breaker.failed(now)
        pauses.append(breaker.until - now)
        now = breaker.until
        assert breaker.open(now - 0.001)
        assert not breaker.open(now)
    assert pauses == [5.0, 15.0, 45.0, 60.0, 60.0]
    breaker.succeeded()
    assert not breaker.open(now)
    breaker.failed(now)
    assert breaker.until - now == 5.0


def test_breaker_survives_any_number_of_failures():
    breaker = Breaker()
    for _ in range(10_000):
        breaker.failed(0.0)
    assert breaker.until == 300.0


def test_no_thread_until_the_first_row(target, outcome):
    before = threading.active_count()
    sink = sink_of(target, outcome)
    assert threading.active_count() == before
    sink.close(0.0)
    assert target.opened == 0


def test_rows_arrive_in_order_and_in_few_calls(target, outcome):
    sink = sink_of(target, outcome)
    target.gate.clear()
    sink.put(metric(0))
    assert target.entered.wait(WAIT)
    for n in range(1, 150):
        sink.put(metric(n))
    target.gate.set()
    sink.close(WAIT)
    assert [point.step for point in target.metrics] == list(range(150))
    assert [point.time for point in target.metrics] == list(range(1000, 1150))
    assert target.calls == ["metrics", "metrics"]
    assert (sink.sent, sink.waiting) == (150, 0)


def test_a_long_backlog_is_sent_in_parts(target, outcome):
    sink = sink_of(target, outcome)
    target.gate.clear()
    sink.put(metric(0))
    assert target.entered.wait(WAIT)
    for n in range(1, 501):
        sink.put(metric(n))
    target.gate.set()
    sink.close(WAIT)
    assert len(target.calls) == 4
    assert len(target.metrics) == 501


def test_batches_keep_their_distance(target, outcome):
    time = [0.0]
    sink = sink_of(target, outcome, interval=5.0, clock=lambda: time[0])
    sink.put(metric(0))
    assert outcome.sent.get(timeout=WAIT) == [0]
    time[0] = 4.9
    sink.put(metric(1))
    time[0] = 9.0
    sink.put(metric(2))
    sent = outcome.sent.get(timeout=WAIT)
    while 2 not in sent:
        sent += outcome.sent.get(timeout=WAIT)
    assert sorted(sent) == [1, 2]
    sink.close(WAIT)


def test_tags_last_wins_params_first_wins(target, outcome):
    sink = sink_of(target, outcome)
    target.gate.clear()
    sink.put(metric(0))
    assert target.entered.wait(WAIT)
    sink.put(Op(1, "tags", 0, {"scaling.verdict": "on track", "a": "1"}))
    sink.put(Op(2, "tags", 0, {"scaling.verdict": "deviating"}))
    sink.put(Op(3, "params", 0, {"scaling.alpha": "0.01"}))
    sink.put(Op(4, "params", 0, {"scaling.alpha": "0.05", "scaling.law": "x"}))
    target.gate.set()
    sink.close(WAIT)
    assert target.tags == {"scaling.verdict": "deviating", "a": "1"}
    assert target.params == {"scaling.alpha": "0.01", "scaling.law": "x"}


def test_a_newer_note_or_artifact_replaces_one_that_waits(target, outcome):
    sink = sink_of(target, outcome)
    target.gate.clear()
    sink.put(metric(0))
    assert target.entered.wait(WAIT)
    for n in range(1, 4):
        sink.put(Op(2 * n, "note", 0, {"text": f"note {n}"}))
        sink.put(Op(2 * n + 1, "artifact", 0, {"path": "scaling/curve.csv", "content": bytes([n])}))
    assert sink.waiting == 3
    target.gate.set()
    sink.close(WAIT)
    assert target.notes == ["note 3"]
    assert target.artifacts == {"scaling/curve.csv": b"\x03"}
    done = []
    while not outcome.sent.empty():
        done += outcome.sent.get()
    assert sorted(done) == [0, 6, 7]  # what they replaced was not sent, and is not missing


def test_tags_that_are_overwritten_do_not_fill_the_queue(target, outcome):
    sink = sink_of(target, outcome, limit=12)
    target.gate.clear()
    sink.put(metric(0))
    assert target.entered.wait(WAIT)
    for n in range(1, 10):
        sink.put(Op(2 * n, "tags", 0, {"scaling.verdict": str(n)}))
        sink.put(metric(2 * n + 1))
    assert (sink.waiting, sink.overflowed) == (11, 0)
    target.gate.set()
    sink.close(WAIT)
    assert target.tags == {"scaling.verdict": "9"}
    assert len(target.metrics) == 10


def test_a_dead_target_is_tried_again_after_a_pause_and_nothing_is_lost(target, outcome):
    time = [0.0]
    breaker = Spy(first=10.0, factor=3.0)
    target.failure = dead
    sink = sink_of(target, outcome, breaker=breaker, clock=lambda: time[0])
    sink.put(metric(0))
    assert breaker.failed_at.get(timeout=WAIT) == 0.0
    time[0] = 9.0
    sink.put(metric(1))
    time[0] = 10.0
    sink.put(metric(2))
    assert breaker.failed_at.get(timeout=WAIT) == 10.0
    assert sink.waiting == 3
    assert breaker.until == 40.0
    target.failure = None
    time[0] = 40.0
    sink.put(metric(3))
    assert sorted(outcome.sent.get(timeout=WAIT)) == [0, 1, 2, 3]
    sink.close(WAIT)
    assert (sink.sent, sink.waiting) == (4, 0)
    assert [kind for kind, _ in outcome.said] == ["failure"]
    assert "connection refused" in outcome.said[0][1]
    assert len(target.calls) == 3


def test_closing_tries_once_more_though_the_pause_is_not_over(target, outcome):
    breaker = Spy(first=1000.0)
    target.failure = dead
    sink = sink_of(target, outcome, breaker=breaker)
    sink.put(metric(0))
    breaker.failed_at.get(timeout=WAIT)
    target.failure = None
    sink.close(WAIT)
    assert (sink.sent, sink.waiting) == (1, 0)


def test_closing_gives_up_at_the_first_failure(target, outcome):
    target.failure = dead
    sink = sink_of(target, outcome, breaker=Spy(first=1000.0))
    for n in range(3):
        sink.put(metric(n))
    sink.close(WAIT)
    assert (sink.sent, sink.waiting) == (0, 3)
    assert len(target.calls) <= 2


def test_a_blocked_target_is_left_behind_at_the_deadline(target, outcome):
    target.gate.clear()
    sink = sink_of(target, outcome)
    sink.put(metric(0))
    assert target.entered.wait(WAIT)
    sink.put(metric(1))
    sink.close(0.01)
    assert sink.waiting == 2
    sink.put(metric(2))
    assert sink.waiting == 2
    target.gate.set()
    assert outcome.sent.get(timeout=WAIT) == [0]


def test_one_refused_row_does_not_hold_up_the_others(target, outcome):
    def refuse(kind, content):
        if any(point.key == "bad" for point in content):
            raise RefusedError("fake run refused a row (bad key).")

    sink = sink_of(target, outcome)
    target.gate.clear()
    target.failure = refuse
    sink.put(metric(0))
    assert target.entered.wait(WAIT)
    for n in range(1, 5):
        sink.put(metric(n, **{"bad" if n == 3 else "good": 1.0}))
    target.gate.set()
    sink.close(WAIT)
    assert [point.step for point in target.metrics] == [0, 1, 2, 4]
    assert (sink.sent, sink.refused, sink.waiting) == (4, 1, 0)
    assert sorted(n for _ in range(outcome.sent.qsize()) for n in outcome.sent.get()) == [0, 1, 2, 4]
    assert outcome.said == [("refused", "fake run refused a row (bad key).")]


def test_a_target_that_refuses_everything_is_given_up_with_its_rows_waiting(target, outcome):
    def refuse(kind, content):
        raise RefusedError("run must be active.")

    sink = sink_of(target, outcome)
    target.gate.clear()
    target.failure = refuse
    sink.put(metric(0))
    assert target.entered.wait(WAIT)
    for n in range(1, 10):
        sink.put(metric(n))
    target.gate.set()
    sink.close(WAIT)
    assert sink.gone
    assert (sink.refused, sink.waiting) == (1, 9)
    assert [kind for kind, _ in outcome.said] == ["refused", "gone"]


def test_a_target_that_is_gone_is_asked_no_more(target, outcome):
    def gone(kind, content):
        raise GoneError("the run was deleted.")

    target.failure = gone
    sink = sink_of(target, outcome)
    sink.put(metric(0))
    sink.close(WAIT)
    assert sink.gone
    assert len(target.calls) == 1
    assert outcome.said == [("gone", "the run was deleted.")]
    assert sink.waiting == 1


def test_the_queue_is_bounded_and_drops_the_oldest_metrics_first(target, outcome):
    target.gate.clear()
    sink = sink_of(target, outcome, limit=5)
    sink.put(Op(0, "tags", 0, {"a": "b"}))
    assert target.entered.wait(WAIT)
    for n in range(1, 21):
        sink.put(metric(n))
    assert (sink.waiting, sink.overflowed) == (5, 16)
    target.gate.set()
    sink.close(WAIT)
    assert [point.step for point in target.metrics] == [17, 18, 19, 20]
    assert target.tags == {"a": "b"}


def test_a_failing_open_is_repeated(target, outcome):
    breaker = Spy(first=0.0)
    real, failures = target.open, [ConnectionError("no"), ConnectionError("no")]

    def opening():
        if failures:
            raise failures.pop()
        real()

    target.open = opening
    sink = sink_of(target, outcome, breaker=breaker)
    sink.put(metric(0))
    breaker.failed_at.get(timeout=WAIT)
    breaker.failed_at.get(timeout=WAIT)
    assert outcome.sent.get(timeout=WAIT) == [0]
    sink.close(WAIT)
    assert target.opened == 1


def test_where_no_thread_can_start_rows_wait_and_close_returns(target, outcome, monkeypatch):
    def refuse(self):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    sink = sink_of(target, outcome)
    sink.put(metric(0))
    sink.put(metric(1))
    sink.close(WAIT)
    assert sink.waiting == 2
    assert [kind for kind, _ in outcome.said] == ["thread"]


def _use_in_child(sink):
    sink.put(metric(1))
    sink.close(WAIT)
    assert sink.waiting == 1


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="needs fork")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_forked_child_neither_sends_nor_waits(target, outcome):
    target.gate.clear()
    sink = sink_of(target, outcome)
    sink.put(metric(0))
    assert target.entered.wait(WAIT)
    child = multiprocessing.get_context("fork").Process(target=_use_in_child, args=(sink,))
    child.start()
    child.join()
    assert child.exitcode == 0
    target.gate.set()
    sink.close(WAIT)
    assert sink.sent == 1
