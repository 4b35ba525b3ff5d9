"""Curves are read once, and a cache that is damaged, old or cannot be written costs nothing but time."""

import os
import threading
from pathlib import Path

import numpy as np
import pytest

from lightning_scaling import RunHistory
from lightning_scaling.history.backends.mlflow_sqlite import SqliteStore
from lightning_scaling.history.cache import CurveCache, cache_folder

STEPS = np.arange(10, 401, 10)
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


@pytest.fixture
def asked(monkeypatch):
    """The runs whose curves were asked of the store."""
    seen = []
    series = SqliteStore.series

    def spy(self, wanted):
        seen.extend(wanted)
        return series(self, wanted)

    monkeypatch.setattr(SqliteStore, "series", spy)
    return seen


def read(past, **settings):
    return RunHistory.from_mlflow("past", tracking_uri=past.uri, **settings)


def curves(history):
    return [(run.name, run.step.tolist(), run.loss.tolist(), run.lr.tolist()) for run in history]


def test_what_has_ended_is_read_once(past, asked):
    first = [past.ours(), past.foreign()]
    before = read(past)
    assert sorted(asked) == sorted(first)
    asked.clear()
    assert curves(read(past)) == curves(before)
    assert asked == []
    new = past.ours()
    assert len(read(past)) == 3
    assert asked == [new]


def test_a_running_run_is_read_each_time_and_once_more_at_its_end(past, asked):
    run_id = past.ours(total=800, status=None)
    read(past)
    read(past)
    past.client.set_terminated(run_id, "KILLED")
    read(past)
    read(past)
    assert asked == [run_id] * 3


def test_params_and_tags_are_always_those_of_now(past):
    run_id = past.ours()
    assert read(past)[0].family == "past"
    past.client.set_tag(run_id, "family", "renamed")
    assert read(past)[0].family == "renamed"


def test_another_metric_is_read_in_addition_to_those_there(past, asked):
    loss = (STEPS, 2 + 3 / STEPS)
    run_id = past.log({"loss": loss, "val_loss": loss})
    for metric in ("loss", "val_loss", "loss", "val_loss"):
        read(past, metric=metric)
    assert asked == [run_id] * 2


def test_without_cache_nothing_is_kept(past, asked, cache):
    past.ours()
    read(past, cache=False)
    read(past, cache=False)
    assert len(asked) == 2
    assert not cache.exists()


@pytest.mark.parametrize("damage", [b"", b"not a zip", None])
def test_a_damaged_file_is_read_anew(past, cache, damage):
    past.ours()
    before = read(past)
    (file,) = (cache / "history").iterdir()
    file.write_bytes(file.read_bytes()[:-200] if damage is None else damage)
    assert curves(read(past)) == curves(before)
    assert curves(read(past)) == curves(before)


def test_a_folder_that_cannot_be_written_does_no_harm(past, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("LIGHTNING_SCALING_CACHE", str(tmp_path / "file" / "below"))
    past.ours()
    assert len(read(past)) == 1


def test_nothing_in_the_file_is_a_pickle_or_a_secret(past, cache):
    past.ours(tags={"token": "hush"})
    read(past)
    (file,) = (cache / "history").iterdir()
    with np.load(file, allow_pickle=False) as stored:
        assert set(stored.files) == {"index", "step", "value"}
    assert b"hush" not in file.read_bytes()


def test_many_readers_and_writers_at_once(cache):
    series = {"loss": (np.arange(5.0), np.arange(5.0))}
    torn = []

    def work(number):
        for turn in range(20):
            kept = CurveCache("uri", "1")
            kept.put(f"run-{number}", str(turn), series)
            kept.save()
            if not CurveCache("uri", "1")._entries:
                torn.append(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert torn == []
    assert [file.suffix for file in (cache / "history").iterdir()] == [".npz"]


@pytest.mark.skipif(os.name != "posix", reason="folders of Linux")
def test_the_folder_follows_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("LIGHTNING_SCALING_CACHE", str(tmp_path))
    assert cache_folder() == tmp_path
    monkeypatch.delenv("LIGHTNING_SCALING_CACHE")
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setenv("XDG_CACHE_HOME", "/var/somewhere")
    assert cache_folder() == Path("/var/somewhere/lightning-scaling")
