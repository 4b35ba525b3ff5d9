"""A journal read as a run: also one cut short, and one that lacks something."""

import json
import os

import numpy as np
import pytest

from lightning_scaling import Monitor, Run, RunHistory, replay
from lightning_scaling._utils.serialization import to_builtins
from lightning_scaling.backtest.drivers import differing
from lightning_scaling.schedule import Plan
from lightning_scaling.tracking import EventKind, Journal

TOTAL = 600


def die(journal):
    """Let go of the file as a process that is killed does, without a last row."""
    os.close(journal._fd)
    journal._fd, journal._closed = None, True


@pytest.fixture
def plan():
    steps = np.arange(1, TOTAL + 1)
    return Plan(
        steps, 1e-3 * np.minimum(steps / 20, 1) * (0.55 + 0.45 * np.cos(np.pi * steps / TOTAL)), total_steps=TOTAL
    )


@pytest.fixture
def loss():
    steps = np.arange(1, TOTAL + 1)
    return 2 + steps**-0.5 + 0.01 * np.random.default_rng(0).normal(size=TOTAL)


@pytest.fixture
def follow(tmp_path, plan, loss):
    """Follow a part of a run as the callback does, and write what it writes: returns the monitor."""

    def run(begin=0, end=TOTAL, *, state=None, header=None, path=tmp_path / "run.jsonl", size=37, **limits):
        monitor = Monitor(plan, params=1000)
        if state is not None:
            monitor.load_state_dict(state)
        known = {"plan": monitor.plan.to_dict(), "engine": monitor.config.to_dict(), **(header or {})}
        journal = Journal(path, header=to_builtins(known), **limits)
        if state is not None:
            monitor.mark(f"resumed at step {begin}", resumed=True)
            journal.write(
                "mark", {"reason": f"resumed at step {begin}", "step": begin, "data": {"kind": EventKind.RESUME}}
            )
        for start in range(begin, end, size):
            part = slice(start, min(start + size, end))
            steps = np.arange(1, TOTAL + 1)[part]
            updates = monitor.observe(steps, loss[part], lr=plan.at(steps), tokens=steps * 10)
            journal.points(steps, loss[part], lr=plan.at(steps), tokens=steps * 10)
            for update in updates:
                journal.write("update", {"data": update.to_dict()})
            journal.flush()
        run.journal = journal
        return monitor

    return run


def same(updates, monitor):
    live = [(row["step"], row["final"], row["e_value"]) for row in monitor.forecast_log]
    assert [
        (u.step, None if np.isnan(u.forecast.final) else u.forecast.final, u.deviation.e_value) for u in updates
    ] == live


def test_a_run_that_is_still_training(follow, tmp_path, plan, loss):
    monitor = follow(end=300)
    run = Run.from_journal(tmp_path / "run.jsonl")
    same(replay(run), monitor)
    np.testing.assert_array_equal(run.loss, loss[:300])
    assert run.total_steps == TOTAL
    assert (run.params, run.tokens_per_step, run.name) == (1000, 10.0, "run")
    assert run.plan.to_dict() == plan.to_dict()
    assert run.meta["status"] == "RUNNING"
    die(follow.journal)
    assert Run.from_journal(tmp_path / "run.jsonl").meta["status"] == "FAILED"
    assert run.meta["end_time"] is None


def test_a_run_that_ended(follow, tmp_path):
    monitor = follow(size=50)
    follow.journal.close()
    run = Run.from_journal(tmp_path / "run.jsonl")
    same(replay(run), monitor)
    assert run.meta["status"] == "FINISHED"
    assert run.meta["start_time"] <= run.meta["end_time"]


def test_a_fraction_amid_a_block_leaves_no_trace(follow, tmp_path):
    monitor = follow(size=250)
    run = Run.from_journal(tmp_path / "run.jsonl")
    whole = {update.step: update for update in replay(run)}
    at = [0.25, 0.31, 0.5, 1.0]
    for fraction, update in zip(at, replay(run, at=at), strict=True):
        step = round(fraction * TOTAL)
        assert update.step == step
        if step in whole:
            assert update.forecast.final == whole[step].forecast.final
            assert update.deviation.e_value == whole[step].deviation.e_value
    same(list(whole.values()), monitor)


def test_a_run_that_goes_on_from_the_end_of_a_segment(follow, tmp_path):
    first = follow(end=300, size=30)
    state, journal = first.state_dict(), follow.journal
    die(journal)
    again = follow(300, state=state, header={"resumed": {"segment": journal.segment, "rows": journal.rows}})
    run = Run.from_journal(tmp_path / "run.jsonl")
    same(replay(run), again)
    assert run.gaps == ()
    assert run.step.tolist() == list(range(1, TOTAL + 1))


def test_a_run_that_goes_on_from_what_the_journal_lacks_says_so(follow, tmp_path):
    state = follow(end=300, path=tmp_path / "other.jsonl").state_dict()
    follow(300, state=state, header={"resumed": {"segment": "unknown", "rows": 9}})
    run = Run.from_journal(tmp_path / "run.jsonl")
    assert run.gaps == ("the run went on from a checkpoint that the journal does not hold",)
    assert run.step[0] == 301


def test_a_run_that_went_back_further_than_its_last_checkpoint(follow, tmp_path):
    states = {}
    for end in (150, 240):
        first = follow(end=end, size=30, path=tmp_path / f"until-{end}.jsonl")
        states[end] = first.state_dict()
    path = tmp_path / "run.jsonl"
    follow(end=300, size=30, path=path)
    journal = follow.journal
    die(journal)
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    before = next(row["n"] for row in rows if row["op"] == "points" and row["step"]["from"] > 150)
    header = {"resumed": {"segment": journal.segment, "rows": before}}
    again = follow(150, state=states[150], header=header, path=path)
    run = Run.from_journal(path)
    same(replay(run), again)
    assert run.step.tolist() == list(range(1, TOTAL + 1))


def test_marks_are_read_by_their_kind(follow, tmp_path, make_run):
    follow(end=300)
    journal = follow.journal
    journal.write(
        "mark",
        {
            "reason": "history",
            "step": 300,
            "data": {"kind": EventKind.PRIOR, "source": "somewhere", "runs": ["a", "b"]},
        },
    )
    journal.write("mark", {"reason": "history", "step": 300, "data": {"kind": EventKind.CHANGE, "follow_rates": True}})
    journal.write("mark", {"reason": "history", "step": 300, "data": {"kind": EventKind.PRIOR, "runs": ["c"]}})
    journal.flush()
    run = Run.from_journal(tmp_path / "run.jsonl")
    assert [(one.source, one.runs) for one in run.priors_learned] == [("somewhere", ("a", "b")), ("past runs", ("c",))]
    assert run.meta["learned"][0] == {"step": 300, "source": "somewhere", "run_ids": ["a", "b"], "runs": 2}
    said = list(differing(run, RunHistory([make_run(name="a"), make_run(name="b")])))
    assert said == ["At step 300 the run learned from 1 run of past runs, not all of which are in the history given: "
                    "all of it is used in their place."]  # fmt: skip


def test_what_a_journal_lacks_is_said(follow, tmp_path):
    follow(end=300, max_bytes=4000)
    follow.journal.write("mark", {"reason": "rows_lost", "data": {"kind": EventKind.ROWS_LOST, "rows": 3}})
    follow.journal.flush()
    path = tmp_path / "run.jsonl"
    path.write_bytes(path.read_bytes() + b'{"op":"points","n":9')
    run = Run.from_journal(path)
    assert len(run) < 300
    assert run.gaps[0] == "1 line of the journal cannot be read"
    assert "the journal was full" in run.gaps[1]
    assert "disk" in run.gaps[2]
    assert all(sentence.endswith("may differ from the live ones.") for sentence in differing(run, None))
    replay(run)


def test_losses_that_are_not_finite_come_back_as_infinite(follow, tmp_path, loss):
    loss[50:53] = [np.nan, np.inf, -np.inf]
    monitor = follow()
    run = Run.from_journal(tmp_path / "run.jsonl")
    assert run.loss[49:54].tolist() == [loss[49], np.inf, np.inf, np.inf, loss[53]]
    same(replay(run), monitor)


def test_files_that_are_no_journal_or_hold_no_loss_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="There is no journal"):
        Run.from_journal(tmp_path / "none.jsonl")
    other = tmp_path / "other.jsonl"
    other.write_text("{}\n")
    with pytest.raises(ValueError, match="is not a journal"):
        Run.from_journal(other)
    journal = Journal(tmp_path / "empty.jsonl", header={})
    journal.points(np.array([1]), np.array([np.nan]))
    journal.flush()
    with pytest.raises(ValueError, match="holds no finite loss"):
        Run.from_journal(tmp_path / "empty.jsonl")


def test_a_journal_whose_rows_make_no_sense_is_refused_in_one_sentence(follow, tmp_path):
    follow(end=100)
    follow.journal.write("update", {"data": {"no": "step"}})
    follow.journal.flush()
    with pytest.raises(ValueError, match=r"run.jsonl is damaged: a row of it lacks 'step'\.$"):
        Run.from_journal(tmp_path / "run.jsonl")


def test_an_older_version_reads_a_new_journal_and_ours_the_next_one_only_if_it_may(follow, tmp_path):
    follow(end=100)
    path = tmp_path / "run.jsonl"
    lines = path.read_text().splitlines()
    header = json.loads(lines[0])
    assert header["version"] == 1
    lines[0] = json.dumps({**header, "version": 2}, separators=(",", ":"))
    path.write_text("\n".join(lines))
    with pytest.raises(ValueError, match="upgrade lightning-scaling"):
        Run.from_journal(path)
