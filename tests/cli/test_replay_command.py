import json
import math

import numpy as np
import pytest
from click.testing import CliRunner

from lightning_scaling.cli import main

TOTAL = 400


@pytest.fixture
def curve(tmp_path):
    step = np.arange(1, TOTAL + 1)
    loss = 2 + 3 * step**-0.5 + 0.01 * np.random.default_rng(0).normal(size=step.size)
    lr = 1e-3 * (0.1 + 0.45 * (1 + np.cos(np.pi * step / TOTAL)))
    file = tmp_path / "curve.csv"
    rows = [f"{s},{value},{rate}" for s, value, rate in zip(step, loss, lr, strict=True)]
    file.write_text("\n".join(["step,loss,lr", *rows]) + "\n")
    return file


def run(*args):
    return CliRunner().invoke(main, [str(arg) for arg in args])


def test_json_gives_one_line_per_update_and_nothing_else_on_stdout(curve):
    result = run("replay", curve, "--total-steps", TOTAL, "--json")
    assert result.exit_code == 0
    updates = [json.loads(line) for line in result.stdout.splitlines()]
    assert [update["step"] for update in updates] == sorted({update["step"] for update in updates})
    assert updates[-1]["step"] == TOTAL
    assert {"step", "fraction", "loss", "forecast", "deviation", "advice"} <= set(updates[-1])
    assert "400 losses up to step 400 of 400." in result.stderr


def test_at_asks_for_updates_at_those_fractions(curve):
    result = run("replay", curve, "--total-steps", TOTAL, "--at", "0.75,.25,0.5", "--json")
    assert result.exit_code == 0
    updates = [json.loads(line) for line in result.stdout.splitlines()]
    assert [update["step"] for update in updates] == [100, 200, 300]
    assert updates[-1]["forecast"]["final"] == pytest.approx(2.15, rel=0.02)


def test_the_table_shows_the_same_for_people(curve):
    result = run("replay", curve, "--at", "0.5")
    assert result.exit_code == 0
    for word in ("step", "final", "90% interval", "trust", "verdict", "advice", "200", "50%"):
        assert word in result.stdout


def test_the_total_comes_from_the_file_when_it_is_not_given(curve):
    assert "of 400." in run("replay", curve, "--json").stderr
    assert "of 800" in run("replay", curve, "--total-steps", 800, "--json").stderr


def test_losses_that_are_not_finite_are_counted_and_reported(curve):
    lines = curve.read_text().splitlines()
    for row in (50, 51):
        step, _, rate = lines[row].split(",")
        lines[row] = f"{step},nan,{rate}"
    curve.write_text("\n".join(lines))
    result = run("replay", curve, "--json")
    assert result.exit_code == 0
    assert "2 more were not finite" in result.stderr
    assert all(math.isfinite(json.loads(line)["forecast"]["final"] or 0) for line in result.stdout.splitlines())


def test_a_curve_without_rates_says_what_that_costs(tmp_path):
    file = tmp_path / "plain.csv"
    file.write_text("step,loss\n" + "\n".join(f"{s},{3 + s**-0.5}" for s in range(1, 101)))
    result = run("replay", file, "--json")
    assert result.exit_code == 0
    assert "no learning rate is recorded, so forecasts are less certain" in result.stderr


def test_a_curve_too_short_for_any_update_is_reported_and_is_no_failure(tmp_path):
    file = tmp_path / "short.csv"
    file.write_text("step,loss\n1,3.0\n2,2.9\n")
    result = run("replay", file, "--total-steps", 10000)
    assert result.exit_code == 0
    assert "Traceback" not in result.output


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "is empty"),
        ("step,loss\n", "no rows"),
        ("iteration,value\n1,2\n", "has no column `step`"),
        ("step,lr\n1,2\n", "has no column `loss`"),
        ("step,loss\n1,3.0\n2,high\n", "line 3: `loss` is 'high'"),
        ("step,loss\n5,3.0\n4,2.0\n", "step 5 is followed by 4"),
        ("step,loss\n1,3.0\n1,2.0\n", "step 1 is followed by 1"),
        ("step,loss\n1.5,3.0\n", "whole numbers"),
    ],
)
def test_a_file_that_is_no_curve_gives_one_sentence_and_exit_code_2(tmp_path, text, expected):
    file = tmp_path / "bad.csv"
    file.write_text(text)
    result = run("replay", file, "--total-steps", 100, "--json")
    assert result.exit_code == 2
    assert result.stdout == ""
    assert expected in result.stderr
    assert result.stderr.startswith("Error: ")
    assert len(result.stderr.strip().splitlines()) == 1


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--alpha", "-1"], "alpha"),
        (["--alpha", "2"], "alpha"),
        (["--target", "nan"], "target"),
        (["--total-steps", "0"], "total_steps"),
        (["--at", "half"], "--at"),
        (["--at", "0,0.5"], "--at"),
        (["--at", "1.5"], "--at"),
    ],
)
def test_an_option_out_of_range_gives_one_sentence_and_exit_code_2(curve, options, expected):
    result = run("replay", curve, *options)
    assert result.exit_code == 2
    assert expected in result.stderr
    assert "Traceback" not in result.output


def test_missing_files_folders_and_binary_files_are_named(tmp_path):
    missing = run("replay", tmp_path / "none.csv")
    assert missing.exit_code == 2
    assert "There is no file" in missing.stderr
    folder = run("replay", tmp_path)
    assert folder.exit_code == 2
    assert "holds no *.csv file and no journal" in folder.stderr
    binary = tmp_path / "image.csv"
    binary.write_bytes(b"\x89PNG\xff\xfe")
    picture = run("replay", binary)
    assert picture.exit_code == 2
    assert "not a text file" in picture.stderr


def test_without_a_file_the_usage_is_shown():
    result = run("replay")
    assert result.exit_code == 2
    assert "Usage" in result.stderr
