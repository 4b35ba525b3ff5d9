from __future__ import annotations

import json
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


def test_an_empty_loss_without_a_rate_is_no_value(tmp_path):
    file = tmp_path / "run.csv"
    file.write_text("step,loss\n1,3.0\n2,\n3,nan\n4,2.0\n5,\n")
    run = Run.from_csv(file)
    assert run.step.tolist() == [1, 3, 4]
    assert run.loss.tolist() == [3.0, math.inf, 2.0]
    assert run.total_steps == 5


def test_rates_below_zero_by_round_off_are_zero():
    run = Run([1, 2], [3.0, 2.0], [1e-3, -1e-12], total_steps=2, planned_lr=([1, 2], [1e-3, -1e-12]))
    assert run.lr.tolist() == [1e-3, 0.0]
    assert run.plan.at(2) == 0.0
    with pytest.raises(ValueError, match="not negative"):
        Run([1, 2], [3.0, 2.0], [1e-3, -1e-6], total_steps=2).plan  # noqa: B018


def test_a_slice_of_a_history_keeps_what_is_known_of_it():
    runs = [Run([1, 2], [3.0, 2.0], total_steps=2, params=10**size) for size in (6, 7, 8)]
    history = RunHistory(runs, skipped={"no loss": 2}, lacking={"no end": 1}, source="a folder", calibration="factors")
    part = history[:2]
    assert [run.params for run in part] == [10**6, 10**7]
    assert (part.calibration, part.source, part.skipped, part.lacking) == (
        "factors",
        "a folder",
        {"no loss": 2},
        {"no end": 1},
    )
    assert history[-1] is runs[-1]


def test_a_run_and_a_history_print_in_a_line():
    run = Run([1, 2000], [10.8, 3.2], total_steps=2000, params=120_000_000, name="r1")
    assert repr(run) == "Run('r1', 2,000 steps, loss 10.8 -> 3.20, 120M params)"
    assert repr(Run([1], [math.nan], total_steps=5)) == "Run(5 steps, 0 made)"
    history = RunHistory([run, Run([1], [2.0], total_steps=1, params=3 * 10**9, name="<b>")], source="a folder")
    assert repr(history) == "RunHistory(2 runs, 120M-3B params)"
    assert repr(RunHistory()) == "RunHistory(0 runs)"
    page = history._repr_html_()
    assert "&lt;b&gt;" in page
    assert "<td>120M</td>" in page


def test_a_run_as_builtins_comes_back_unchanged():
    run = Run(
        [1, 2, 3],
        [3.0, math.nan, math.inf],
        [0.1, 0.1, math.nan],
        total_steps=9,
        planned_lr=([1, 9], [0.1, 0.0]),
        params=7,
        tokens_per_step=2.5,
        family="f",
        name="r",
        meta={"seed": 1},
    )
    data = json.loads(json.dumps(run.to_dict(), allow_nan=False))
    again = Run.from_dict(data)
    for name in ("step", "loss", "lr"):
        np.testing.assert_array_equal(getattr(again, name), getattr(run, name))
    assert again.plan.to_dict() == run.plan.to_dict()
    assert again.to_dict() == data
    with pytest.raises(TypeError, match="color"):
        Run.from_dict(data | {"color": 1})
