from __future__ import annotations

import math

import numpy as np
import pytest

from lightning_scaling import Run, RunHistory


def test_csv_round_trip_keeps_missing_and_nonfinite_losses(tmp_path):
    run = Run([0, 1, 2, 3], [math.nan, 4.0, math.inf, 3.5], [0.0, 1e-3, 1e-3, 5e-4], total_steps=10)
    again = Run.from_csv(run.to_csv(tmp_path / "run.csv"), total_steps=10)
    np.testing.assert_array_equal(again.step, run.step)
    np.testing.assert_array_equal(again.loss, run.loss)
    np.testing.assert_array_equal(again.lr, run.lr)
    assert again.name == "run"


def test_nan_text_in_a_csv_is_a_loss_that_was_not_finite(tmp_path):
    file = tmp_path / "run.csv"
    file.write_text("step,loss,lr\n1,nan,0.1\n2,,0.1\n3,2.5,0.1\n")
    loss = Run.from_csv(file).loss
    assert math.isinf(loss[0])
    assert math.isnan(loss[1])
    assert loss[2] == 2.5


def test_the_lr_column_including_later_rows_is_the_plan():
    run = Run([1, 2, 3, 4], [3.0, 2.0, math.nan, math.nan], [1.0, 1.0, 0.5, 0.0], total_steps=4)
    assert run.plan.at([1, 3, 4]).tolist() == [1.0, 0.5, 0.0]
    assert run.plan.known


def test_rates_that_end_early_are_a_plan_of_unknown_future():
    plan = Run([1, 2, 3], [3.0, 2.0, 1.0], [1.0, 0.9, 0.8], total_steps=100).plan
    assert not plan.known
    assert "step 3" in plan.why


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"step": [1, 1], "loss": [1, 2], "total_steps": 5}, "step 1 is followed by 1"),
        ({"step": [1, 2], "loss": [1], "total_steps": 5}, "`loss` has 1 values but `step` has 2"),
        ({"step": [], "loss": [], "total_steps": 5}, "at least one"),
        ({"step": [1.5], "loss": [1], "total_steps": 5}, "whole numbers"),
        ({"step": [1], "loss": [1], "total_steps": 0}, "`total_steps`"),
        ({"step": [1], "loss": ["x"], "total_steps": 5}, "`loss` must be a sequence of numbers"),
        ({"step": [1], "loss": [1], "total_steps": 5, "params": -1}, "`params` must be a positive number"),
    ],
)
def test_bad_runs_are_refused_in_one_sentence(arguments, message):
    with pytest.raises(ValueError, match=message) as caught:
        Run(**arguments)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ("step,loss\n", "no rows"),
        ("time,loss\n1,2\n", "no column `step`"),
        ("step,loss\n1,2\n2,abc\n", "line 3: `loss` is 'abc'"),
        ("step,loss\n2,1\n1,1\n", "must increase"),
    ],
)
def test_bad_files_are_refused_naming_the_place(tmp_path, text, message):
    file = tmp_path / "curve.csv"
    file.write_text(text)
    with pytest.raises(ValueError, match=message) as caught:
        Run.from_csv(file)
    assert "curve.csv" in str(caught.value)


def test_a_history_is_read_from_a_folder(tmp_path):
    for name in ("b", "a"):
        Run([1, 2], [3.0, 2.0], total_steps=2).to_csv(tmp_path / f"{name}.csv")
    history = RunHistory.from_csv(tmp_path)
    assert [run.name for run in history] == ["a", "b"]
    assert isinstance(history[:1], RunHistory)
    with pytest.raises(ValueError, match=r"no \*\.csv"):
        RunHistory.from_csv(tmp_path / "none")
    with pytest.raises(TypeError, match="holds Run objects"):
        RunHistory([1])
