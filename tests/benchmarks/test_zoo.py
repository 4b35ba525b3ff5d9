"""The zoo of small trainings: repeatable, cached, and with everything that forecasts are judged by."""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import zoo
from _zoo_catalogue import trainings
from _zoo_training import scheduler, train


def shortened(source: str):
    first = next(one for one in trainings() if one.source == source)
    return replace(first, steps=40)


@pytest.mark.parametrize("source", sorted({one.source for one in trainings()}))
def test_every_source_trains(source):
    curves = train(shortened(source))
    assert len(curves["train_loss"]) == 40
    for table in curves.values():
        assert table.loss.notna().all()
        assert (table.lr >= 0).all()


def test_the_same_training_gives_the_same_numbers():
    one, other = (train(shortened("digits_dropout")) for _ in range(2))
    for metric, table in one.items():
        pd.testing.assert_frame_equal(table, other[metric])


def test_names_are_unique_and_kinds_and_schedules_many():
    every = trainings()
    assert len({one.name for one in every}) == len(every) >= 60
    assert len({one.source for one in every}) >= 40
    assert len({one.schedule for one in every}) >= 10
    assert len({one.optimizer for one in every}) >= 5


def test_the_quick_zoo_is_written_and_kept(tmp_path):
    arguments = argparse.Namespace(quick=True, only="", out=str(tmp_path))
    report = zoo.measure(arguments)
    runs, curves = pd.read_csv(tmp_path / "runs.csv"), pd.read_csv(tmp_path / "curves.csv.gz")
    assert set(runs.run_id) == set(curves.run_id)
    assert {"training", "held_out", "bounded"} <= set(runs.kind)
    assert report.document["seconds"] > 0
    assert zoo.measure(arguments).document["seconds"] == 0


def test_a_part_of_the_zoo_leaves_the_rest_in_the_tables(tmp_path):
    for only in ("graph-constant", "wine-linear"):
        zoo.measure(argparse.Namespace(quick=False, only=only, out=str(tmp_path)))
    assert set(pd.read_csv(tmp_path / "runs.csv").source) == {"graph", "wine"}


def test_what_other_code_has_trained_is_not_taken(tmp_path):
    arguments = argparse.Namespace(quick=False, only="graph-constant", out=str(tmp_path))
    first = next(one for one in trainings() if one.name.startswith("graph-constant"))
    old = tmp_path / "trainings" / "0123456789ab" / f"{first.name}.csv.gz"
    old.parent.mkdir(parents=True)
    old.write_bytes(b"of another version")
    assert zoo.measure(arguments).document["seconds"] > 0


@pytest.mark.parametrize("schedule", sorted({one.schedule for one in trainings()} - {"plateau", "constant"}))
def test_schedules_fall_from_the_peak(schedule):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.5)
    made, rates = scheduler(schedule, optimizer, 100), []
    for _ in range(100):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        made.step()
    assert max(rates) == pytest.approx(0.5, abs=0.01)
    assert 0 <= min(rates) < 0.1 * 0.5 if schedule != "inverse_root" else rates[-1] < 0.1
