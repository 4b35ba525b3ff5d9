import io
import math
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from lightning_scaling.report import description, forecast_figure, loss_compute_figure
from lightning_scaling.runs.run import Run

TOTAL = 400


def make_run(upto=TOTAL, **known):
    step = np.arange(1, upto + 1)
    loss = 2 + 3 * step**-0.5 + 0.02 * np.random.default_rng(0).normal(size=step.size)
    plan = (np.array([1.0, 20, TOTAL]), np.array([1e-4, 1e-3, 1e-4]))
    return Run(step, loss, total_steps=TOTAL, planned_lr=plan, name="bytes", **known)


def make_ledger(upto=TOTAL, outcome=None, **last):
    rows = []
    for step in range(40, upto + 1, 20):
        width = 0.2 * (1 - step / TOTAL) + 0.01
        rows.append(
            {
                "step": step,
                "fraction": step / TOTAL,
                "horizon": TOTAL,
                "final": 2.16,
                "lower": 2.16 - width,
                "upper": 2.16 + width,
                "level": 0.9,
                "trust": "ok",
                "why": "",
                "law": "power",
                "loss": 2.5,
                "verdict": "on track",
                "e_value": 1.0,
                "action": "continue",
                "outcome": outcome,
                "error": None if outcome is None else 2.16 / outcome - 1,
            }
        )
    rows[-1].update(last)
    return rows


def size_of(png):
    with Image.open(io.BytesIO(png)) as image:
        image.verify()
        assert image.format == "PNG"
        return image.size


@pytest.mark.parametrize(
    ("run", "ledger"),
    [
        (make_run(), make_ledger(outcome=2.15)),
        (make_run(200), make_ledger(200)),
        (make_run(200), make_ledger(200, verdict="deviating")),
        (make_run(200), make_ledger(200, final=math.nan, lower=-math.inf, upper=math.inf, trust="none")),
        (make_run(200), make_ledger(200, final=None, lower=None, upper=None, trust="none")),
        (make_run(3), []),
        (make_run(1), []),
        (Run([5, 6, 7], [0.5, -0.5, -1.0], total_steps=9), []),
    ],
)
def test_both_figures_are_readable_pngs_at_every_stage_of_a_run(run, ledger):
    for figure in (forecast_figure, loss_compute_figure):
        width, height = size_of(figure(run, ledger))
        assert 1200 <= width <= 1500
        assert 600 <= height <= 1000


def test_a_run_with_losses_that_are_not_finite_can_be_drawn():
    run = Run([1, 2, 3, 4], [3.0, math.inf, math.nan, 2.0], total_steps=10, flops_per_step=1e20)
    figures = [forecast_figure(run, []), loss_compute_figure(run, [])]
    for flops in ([1e20, 2e20, 3e20, 5e20], [np.nan, 2e20, 3e20, 5e20], [np.nan] * 4):
        figures.append(loss_compute_figure(run, [], flops=flops))
    assert all(min(size_of(figure)) >= 600 for figure in figures)


def test_a_figure_is_the_same_for_the_same_run():
    assert forecast_figure(make_run(), make_ledger()) == forecast_figure(make_run(), make_ledger())


def test_without_a_finite_loss_it_says_so():
    run = Run([1, 2], [math.inf, math.inf], total_steps=10)
    with pytest.raises(ValueError, match="no finite loss"):
        forecast_figure(run, [])


def test_without_a_positive_loss_there_is_no_logarithm():
    with pytest.raises(ValueError, match="no positive loss"):
        loss_compute_figure(Run([1, 2], [-1.0, -2.0], total_steps=10))


def test_drawing_touches_no_global_state_of_matplotlib():
    code = (
        "import numpy as np, sys\n"
        "import lightning_scaling.report as report\n"
        "assert 'matplotlib' not in sys.modules\n"
        "from lightning_scaling.runs.run import Run\n"
        "report.forecast_figure(Run([1, 2], [2.0, 1.0], total_steps=3), [])\n"
        "assert 'matplotlib.pyplot' not in sys.modules\n"
        "import matplotlib\n"
        "assert matplotlib.rcParams['font.size'] == matplotlib.rcParamsDefault['font.size']\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_live_description_says_what_is_expected_and_where_the_run_stands():
    text = description(make_ledger(200), counting=["tokens, from `input_ids`"])
    assert "2.160 expected" in text
    assert "2.050 to 2.270" in text
    assert "step 200 (50% of the plan)" in text
    assert "on track" in text
    assert "- Tokens, from `input_ids`." in text


def test_low_trust_is_given_with_its_reason():
    text = description(make_ledger(200, trust="low", why="the rate has not decayed yet"))
    assert "**low**: the rate has not decayed yet." in text


@pytest.mark.parametrize("missing", [None, math.nan])
def test_a_forecast_that_is_not_one_is_not_shown_as_a_number(missing):
    text = description(make_ledger(200, final=missing, lower=missing, upper=missing, why="too few points"))
    assert "No forecast yet" in text
    assert "too few points" in text
    assert "nan" not in text


def test_a_finished_description_shows_forecasts_against_what_came():
    text = description(make_ledger(outcome=2.0), status="finished")
    assert "Final loss 2.000" in text
    assert "- After 25% the forecast was 2.160 (2.000 to 2.320): off by +8.0%." in text


def test_advice_says_what_to_do_what_it_saves_and_what_it_costs():
    advice = {"action": "stop", "reason": "It will miss the target.", "saving": 0.4, "cost": 0.012}
    text = description(make_ledger(200), advice=advice)
    assert (
        "**Advice: Stop.** It will miss the target. Saves 40% of the planned compute, gives up 0.012 of loss." in text
    )


def test_a_run_that_ended_well_needs_no_advice():
    advice = {"action": "continue", "reason": "On track."}
    assert "Advice" not in description(make_ledger(outcome=2.0), advice=advice, status="finished")
    assert "Advice" in description(make_ledger(200), advice=advice)


def test_before_the_first_forecast_it_says_so():
    assert "No forecast" in description([])
    assert "ended before" in description([], status="finished")


def test_a_description_stays_within_what_mlflow_keeps():
    advice = {"action": "investigate", "reason": "x" * 5000}
    assert (
        len(description(make_ledger(outcome=2.0), advice=advice, counting=["y" * 4000] * 3, status="finished")) <= 8000
    )


def test_a_metric_that_rises_is_drawn_and_described_by_its_name():
    run = make_run(meta={"metric": "val_acc", "mode": "max", "bounds": None})
    assert forecast_figure(run, make_ledger()) != forecast_figure(make_run(), make_ledger())
    assert loss_compute_figure(run, make_ledger()) != loss_compute_figure(make_run(), make_ledger())
    assert "### Final val_acc: 2.160 expected" in description(make_ledger(200), metric="val_acc")
