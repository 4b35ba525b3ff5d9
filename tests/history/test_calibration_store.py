"""A calibration in an MLflow experiment or a folder, and how a history finds it again."""

from __future__ import annotations

import json
import logging
import socket
import sqlite3

import pytest

from lightning_scaling import RunHistory
from lightning_scaling.forecast import Forecaster
from lightning_scaling.forecast.calibration import FRACTIONS, Calibration, ErrorSpread
from lightning_scaling.history import HistoryError, HistoryReader
from lightning_scaling.history.calibration_store import FILE, keep_in_folder, keep_in_mlflow, tag_of
from lightning_scaling.history.mlflow_parse import Experiment as Place

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


def factors(factor, *, family=None, law=Forecaster.law, seen=()):
    spread = ErrorSpread(1000, (1000,) * 6, (factor,) * 6)
    return Calibration({"family": spread}, law, made="2025-01-01", version="0.1", family=family, seen=seen)


def forecast_log(error, *, law=Forecaster.law):
    log = {"version": 1, "law": law, "revision": 1, "steps": 400, "at": list(FRACTIONS)}
    return json.dumps({**log, "mode": ["family"] * 6, "error": [error] * 6, "scale": [0.01] * 6})


@pytest.fixture
def place(past):
    return Place(past.id, past.name)


def background(past, **known):
    reader = HistoryReader(f"mlflow:{past.name}", tracking_uri=past.uri, **known).start()
    reader._thread.join()
    return reader.poll()


@pytest.mark.parametrize("direct", [True, False])
def test_what_is_stored_is_found_by_everybody(past, place, direct, monkeypatch):
    if not direct:
        monkeypatch.setattr("lightning_scaling.history.backends.database_of", lambda uri: None)
    for seed in range(3):
        past.ours(seed)
    assert keep_in_mlflow(place, factors(1.5, family="past"), past.uri) == "scaling.calibration"
    history = RunHistory.from_mlflow("past", tracking_uri=past.uri)
    assert history.calibration == factors(1.5, family="past")
    assert RunHistory.from_mlflow(past.id, tracking_uri=past.uri, filter="attributes.status = 'FINISHED'").calibration
    read = background(past)
    assert "Intervals are scaled by 1.50, as past forecasts of 1000 runs ask for." in read.sentence
    assert Calibration.from_dict(read.data["calibration"]) == read.history.calibration == history.calibration


def test_a_tag_is_short_even_with_many_runs(past, place):
    names = tuple(f"{number:06x}" for number in range(1000))
    keep_in_mlflow(place, factors(1.5, family="past", seen=names), past.uri)
    (text,) = past.client.get_experiment(past.id).tags.values()
    assert len(text) < 5000
    assert Calibration.from_dict(json.loads(text)).seen[-1] == names[-1]


def test_each_family_has_its_own(past, place):
    for seed in range(4):
        past.ours(seed, tags={"family": "ab"[seed % 2]})
    tags = {keep_in_mlflow(place, factors(f, family=name), past.uri) for name, f in (("a", 1.5), ("b", 0.8))}
    assert len(tags) == 2
    assert RunHistory.from_mlflow("past", tracking_uri=past.uri).calibration is None
    of_b = past.ours(7, tags={"family": "b"})
    read = background(past, run_id=of_b)
    assert read.history.calibration.factor("family", 0.5) == pytest.approx(0.8, abs=0.01)


def test_a_metric_asked_for_has_its_own():
    place = Place("1", "past")
    assert tag_of(place, "past") == tag_of(place, None) == "scaling.calibration"
    assert len({tag_of(place, "past"), tag_of(place, "past", "val_loss"), tag_of(place, "other", "val_loss")}) == 3


def test_forecast_logs_of_five_runs_are_enough(past):
    for seed in range(4):
        past.ours(seed, tags={"scaling.forecasts": forecast_log(0.08)})
    past.ours(5)
    assert RunHistory.from_mlflow("past", tracking_uri=past.uri).calibration is None
    past.ours(4, tags={"scaling.forecasts": forecast_log(-0.08)})
    found = RunHistory.from_mlflow("past", tracking_uri=past.uri).calibration
    assert found.spreads["family"].runs == 5
    assert found.factor("family", 0.5) > 1.05
    assert "as past forecasts of 5 runs ask for" in background(past).sentence


def test_forecast_logs_join_what_is_stored_and_are_counted_once(past, place):
    for seed in range(6):
        past.ours(seed, tags={"scaling.forecasts": forecast_log(0.08)})
    found = RunHistory.from_mlflow("past", tracking_uri=past.uri).calibration
    keep_in_mlflow(place, found, past.uri)
    assert RunHistory.from_mlflow("past", tracking_uri=past.uri).calibration == found
    past.ours(9, tags={"scaling.forecasts": forecast_log(0.08)})
    assert RunHistory.from_mlflow("past", tracking_uri=past.uri).calibration.spreads["family"].runs == 7


@pytest.mark.parametrize("tag", ["no json", "[]", forecast_log(0.01, law="another_law")])
def test_forecast_logs_that_say_nothing_are_ignored(past, tag):
    for seed in range(6):
        past.ours(seed, tags={"scaling.forecasts": tag})
    history = RunHistory.from_mlflow("past", tracking_uri=past.uri)
    assert len(history) == 6
    assert history.calibration is None


def test_a_stale_or_damaged_one_is_ignored_with_a_reason(past, place, caplog):
    for seed in range(3):
        past.ours(seed)
    keep_in_mlflow(place, factors(1.5, family="past", law="another_law"), past.uri)
    read = background(past)
    sentence = (
        "The calibration of the experiment 'past' is ignored: it was made by version 0.1, which forecasts differently"
    )
    assert sentence in read.sentence
    assert read.data["calibration"] is None
    past.client.set_experiment_tag(past.id, "scaling.calibration", "{}")
    assert RunHistory.from_mlflow("past", tracking_uri=past.uri).calibration is None
    assert "is ignored: it is no calibration" in caplog.text


def test_a_dead_server_is_one_sentence(place):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        uri = f"http://127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(HistoryError, match="cannot be reached") as raised:
            keep_in_mlflow(place, factors(1.5), uri)
    assert "\n" not in str(raised.value)


def test_a_store_that_refuses_is_one_sentence(past, place):
    with sqlite3.connect(past.uri.removeprefix("sqlite:///")) as database:
        database.execute(
            "CREATE TRIGGER locked BEFORE INSERT ON experiment_tags BEGIN SELECT RAISE(ABORT, 'read-only'); END"
        )
    with pytest.raises(HistoryError, match=r"did not take the tag `scaling\.calibration` \(.*read-only") as raised:
        keep_in_mlflow(place, factors(1.5), past.uri)
    assert "\n" not in str(raised.value)


# ------------------------------------------------------------------ folders


@pytest.fixture
def folder(tmp_path, make_run):
    place = tmp_path / "curves"
    place.mkdir()
    for seed in range(3):
        make_run(total=800, seed=seed).to_csv(place / f"{seed}.csv")
    return place


def test_a_folder_keeps_it_in_a_file(folder):
    assert RunHistory.from_csv(folder).calibration is None
    assert keep_in_folder(folder, factors(1.5)) == folder / FILE
    assert RunHistory.from_csv(folder).calibration == factors(1.5)
    reader = HistoryReader(folder).start()
    reader._thread.join()
    assert "Intervals are scaled by 1.50" in reader.poll().sentence
    assert keep_in_folder(folder / "other.json", factors(1.2)) == folder / "other.json"


@pytest.mark.parametrize("text", ["no json", "{}", json.dumps(factors(1.5, law="another_law").to_dict())])
def test_a_file_of_no_use_is_ignored_with_a_warning(folder, text, caplog):
    caplog.set_level(logging.WARNING, "lightning_scaling")
    (folder / FILE).write_text(text)
    assert RunHistory.from_csv(folder).calibration is None
    assert f"The calibration {folder / FILE} is ignored: it " in caplog.text


def test_a_folder_that_cannot_be_written_is_one_sentence(tmp_path):
    with pytest.raises(HistoryError, match=r"calibration\.json cannot be written"):
        keep_in_folder(tmp_path / "none" / FILE, factors(1.5))
