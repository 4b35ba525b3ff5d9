import json
import multiprocessing
import os
import pickle
from pathlib import Path

import numpy as np
import pytest

from lightning_scaling.tracking import Journal, new_journal_path, read_journal
from lightning_scaling.tracking.journal import being_written


def rows_of(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def write_run(path, *, steps=range(1, 7), close=True, **kwargs):
    journal = Journal(path, **kwargs)
    for step in steps:
        journal.write("metrics", {"step": step, "values": {"scaling/loss": 1.0 / step}})
        journal.flush()
    if close:
        journal.close()
    return journal


def test_the_curve_comes_back_exactly(tmp_path):
    rng = np.random.default_rng(0)
    path = tmp_path / "run.jsonl"
    journal = Journal(path, header={"plan": {"total_steps": 300}})
    step = np.arange(1, 301)
    loss = rng.normal(3.0, 0.3, 300)
    loss[[5, 6, 290]] = [np.nan, np.inf, -np.inf]
    lr = rng.random(300) * 1e-3
    flops = np.array([10**17 * s for s in range(1, 301)], dtype=object)
    seconds = np.cumsum(rng.random(300))
    for start in (0, 100, 250):
        part = slice(start, {0: 100, 100: 250, 250: 300}[start])
        journal.points(
            step[part], loss[part], lr=lr[part], tokens=step[part] * 2048, flops=flops[part], seconds=seconds[part]
        )
    journal.close()

    contents = read_journal(path)
    assert contents.header == {"plan": {"total_steps": 300}}
    np.testing.assert_array_equal(contents.points.step, step)
    np.testing.assert_array_equal(contents.points.loss, np.where(np.isfinite(loss), loss, np.nan))
    np.testing.assert_array_equal(contents.points.lr, lr)
    np.testing.assert_array_equal(contents.points.tokens, step * 2048)
    assert [int(value) for value in contents.points.flops] == list(flops)
    np.testing.assert_array_equal(contents.points.seconds, seconds)
    assert contents.damaged == 0
    assert journal.nonfinite == 3
    assert contents.end is not None


def test_counts_beyond_int64_come_back_as_floats(tmp_path):
    journal = Journal(tmp_path / "run.jsonl")
    journal.points([1, 2], [3.0, 2.0], flops=np.array([2**70, 2**71], dtype=object))
    journal.close()
    flops = read_journal(tmp_path / "run.jsonl").points.flops
    assert flops.tolist() == [2.0**70, 2.0**71]


def test_a_column_recorded_in_part_is_nan_elsewhere(tmp_path):
    journal = Journal(tmp_path / "run.jsonl")
    journal.points([1], [3.0])
    journal.points([2], [2.0], lr=[0.1])
    journal.points([], [])
    journal.close()
    points = read_journal(tmp_path / "run.jsonl").points
    np.testing.assert_array_equal(points.lr, [np.nan, 0.1])
    assert points.tokens is None


def test_even_counts_and_constant_rates_take_little_room(tmp_path):
    journal = Journal(tmp_path / "run.jsonl")
    step = np.arange(1, 1001)
    journal.points(step, np.full(1000, 2.0), lr=np.full(1000, 3e-4), tokens=step * 4096, flops=step * 10**15)
    journal.close()
    assert (tmp_path / "run.jsonl").stat().st_size < 1000


def test_each_line_is_valid_json_and_numbered(tmp_path):
    path = tmp_path / "run.jsonl"
    journal = Journal(path, header={"alpha": np.float64(0.01), "bad": float("inf"), "path": Path("/x")})
    journal.write("update", {"data": {"loss": float("nan"), "e": np.float32(2.0), "values": np.array([1.0, np.nan])}})
    journal.write("update", {"data": {"when": object}})
    journal.close()
    rows = rows_of(path)
    assert [row["n"] for row in rows] == [0, 1, 2, 3]
    assert rows[0]["data"] == {"alpha": 0.01, "bad": None, "path": "/x"}
    assert rows[1]["data"] == {"loss": None, "e": 2.0, "values": [1.0, None]}
    assert journal.nonfinite == 2


def test_nothing_is_written_before_the_first_row(tmp_path):
    journal = Journal(tmp_path / "deep" / "run.jsonl")
    journal.close()
    assert list(tmp_path.iterdir()) == []


def test_a_line_cut_by_a_crash_is_passed_over_and_the_next_segment_is_whole(tmp_path):
    path = tmp_path / "run.jsonl"
    write_run(path)
    whole = path.read_bytes()
    path.write_bytes(whole[:-30])
    assert read_journal(path).damaged == 1
    assert read_journal(path).end is None

    write_run(path, steps=[7])
    contents = read_journal(path)
    assert contents.damaged == 1
    assert [op["step"] for op in contents.ops] == [1, 2, 3, 4, 5, 6, 7]
    assert len(contents.segments) == 2
    assert len({op["segment"] for op in contents.ops}) == 2


def test_a_resumed_run_replaces_the_points_it_makes_again(tmp_path):
    path = tmp_path / "run.jsonl"
    first = Journal(path)
    first.points([1, 2, 3], [9.0, 8.0, 7.0])
    first.points([4], [6.0])
    checkpoint = {"segment": first.segment, "rows": first.rows}
    first.points([5, 6], [5.0, 4.0])
    first.write("mark", {"reason": "data", "step": 6})
    first.close()
    second = Journal(path, header={"resumed": checkpoint})
    second.write("mark", {"reason": "resume", "step": 4})
    second.points([5, 6, 7], [5.5, 4.5, 3.5])
    second.close()
    contents = read_journal(path)
    assert contents.points.step.tolist() == [1, 2, 3, 4, 5, 6, 7]
    assert contents.points.loss.tolist() == [9.0, 8.0, 7.0, 6.0, 5.5, 4.5, 3.5]
    assert contents.superseded == 2
    assert [mark["reason"] for mark in contents.marks] == ["data", "resume"]


def test_updates_and_marks_keep_their_place(tmp_path):
    path = tmp_path / "run.jsonl"
    journal = Journal(path)
    journal.points([1, 2], [3.0, 2.5])
    journal.write("update", {"data": {"step": 2}})
    journal.write("mark", {"reason": "new plan", "step": 2, "data": {"lr": [0.1]}})
    journal.points([3], [2.0])
    journal.close(reason="done")
    contents = read_journal(path)
    assert contents.updates == [{"step": 2}]
    assert contents.marks == [{"reason": "new plan", "step": 2, "data": {"lr": [0.1]}}]
    assert contents.end is not None
    assert contents.end["reason"] == "done"


def test_a_full_disk_is_said_once_and_loses_the_run_nothing_else(said):
    if not os.path.exists("/dev/full"):
        pytest.skip("needs /dev/full")
    journal = Journal("/dev/full", say=said.append)
    for step in range(3):
        journal.write("metrics", {"step": step, "values": {}})
        assert not journal.flush()
    assert len(said) == 1
    assert "No space left on device" in said[0]
    assert journal.waiting == 4


def test_rows_are_kept_until_the_disk_takes_them_again(tmp_path, said):
    blocker = tmp_path / "folder"
    blocker.write_text("a file where the folder should be")
    journal = Journal(blocker / "run.jsonl", say=said.append)
    journal.write("metrics", {"step": 1, "values": {}})
    assert not journal.flush()
    blocker.unlink()
    journal.write("metrics", {"step": 2, "values": {}})
    assert journal.flush()
    assert journal.waiting == 0
    assert [op["step"] for op in read_journal(journal.path).ops] == [1, 2]
    assert len(said) == 1


def test_a_line_that_fitted_only_in_part_is_written_again(tmp_path, monkeypatch, said):
    path = tmp_path / "run.jsonl"
    journal = Journal(path, say=said.append)
    journal.write("metrics", {"step": 1, "values": {}})
    journal.flush()
    real = os.write
    left = [80]

    def nearly_full(fd, data):
        if left[0] == 0:
            raise OSError(28, "No space left on device")
        count = real(fd, data[: left[0]])
        left[0] -= count
        return count

    monkeypatch.setattr(os, "write", nearly_full)
    for step in (2, 3):
        journal.write("metrics", {"step": step, "values": {"scaling/loss": 1.0}})
    assert not journal.flush()
    monkeypatch.undo()
    journal.write("metrics", {"step": 4, "values": {}})
    assert journal.flush()
    contents = read_journal(path)
    assert [op["step"] for op in contents.ops] == [1, 2, 3, 4]
    assert contents.damaged <= 1


def test_a_long_failure_of_the_disk_is_bounded_in_memory_and_recorded(tmp_path, monkeypatch):
    monkeypatch.setattr("lightning_scaling.tracking.journal._HELD_BACK", 500)
    blocker = tmp_path / "folder"
    blocker.write_text("")
    journal = Journal(blocker / "run.jsonl", say=lambda sentence: None)
    for step in range(100):
        journal.write("metrics", {"step": step, "values": {}})
        journal.flush()
    assert journal.waiting == 101
    blocker.unlink()
    assert journal.flush()
    contents = read_journal(journal.path)
    lost = [mark["data"]["rows"] for mark in contents.marks if mark["reason"] == "rows_lost"]
    assert lost == [100 - len(contents.ops)]
    assert contents.ops[0]["step"] == 0


def test_points_stop_at_the_cap_and_all_else_goes_on(tmp_path, said):
    journal = Journal(tmp_path / "run.jsonl", max_bytes=2000, say=said.append)
    rng = np.random.default_rng(0)
    for start in range(0, 1000, 50):
        journal.points(np.arange(start, start + 50), rng.random(50))
        journal.flush()
        journal.write("update", {"data": {"step": start}})
    journal.close()
    contents = read_journal(journal.path)
    assert len(said) == 1
    assert "2000 bytes" in said[0]
    assert len(contents.updates) == 20
    assert [mark["reason"] for mark in contents.marks] == ["points_stopped"]
    assert len(contents.points) + journal.points_left_out == 1000


def test_two_writers_of_one_path_get_two_files(tmp_path):
    path = tmp_path / "run.jsonl"
    first = write_run(path, close=False)
    second = write_run(path, steps=[1, 2])
    assert first.path == path
    assert second.path != path
    assert second.path.parent == path.parent
    assert being_written(path)
    first.close()
    assert not being_written(path)
    assert len(read_journal(path).ops) == 6
    assert len(read_journal(second.path).ops) == 2


def test_new_paths_differ(tmp_path):
    assert len({new_journal_path(tmp_path) for _ in range(50)}) == 50


@pytest.mark.parametrize("name", ["a/b", "../x", "my run: 1", "", "x" * 300, "///"])
def test_any_name_makes_a_file_in_the_folder(tmp_path, name):
    path = new_journal_path(tmp_path, name)
    assert path.parent == tmp_path
    write_run(path)
    assert len(read_journal(path).ops) == 6


def _write_in_child(journal):
    journal.write("metrics", {"step": 99, "values": {}})
    journal.flush()
    journal.close()


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="needs fork")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_forked_child_writes_nothing(tmp_path):
    path = tmp_path / "run.jsonl"
    journal = write_run(path, close=False)
    journal.write("metrics", {"step": 7, "values": {}})
    child = multiprocessing.get_context("fork").Process(target=_write_in_child, args=(journal,))
    child.start()
    child.join()
    assert child.exitcode == 0
    journal.close()
    assert [op["step"] for op in read_journal(path).ops] == [1, 2, 3, 4, 5, 6, 7]


def test_a_pickled_journal_begins_a_segment_of_its_own(tmp_path):
    journal = write_run(tmp_path / "run.jsonl", header={"name": "x"}, close=False)
    copy = pickle.loads(pickle.dumps(journal))
    journal.close()
    copy.write("metrics", {"step": 7, "values": {}})
    copy.close()
    contents = read_journal(tmp_path / "run.jsonl")
    assert [segment.data for segment in contents.segments] == [{"name": "x"}, {"name": "x"}]
    assert len(contents.ops) == 7


def test_reading_what_is_not_a_journal(tmp_path):
    with pytest.raises(FileNotFoundError, match="no journal at"):
        read_journal(tmp_path / "missing.jsonl")
    other = tmp_path / "other.jsonl"
    other.write_text('{"a": 1}\n[1, 2]\n')
    with pytest.raises(ValueError, match="is not a journal"):
        read_journal(other)
    path = tmp_path / "run.jsonl"
    write_run(path)
    path.write_text(path.read_text().replace('"version":1', '"version":99'))
    with pytest.raises(ValueError, match="upgrade lightning-scaling"):
        read_journal(path)
