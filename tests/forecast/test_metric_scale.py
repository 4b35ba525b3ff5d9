import math
import pickle

import numpy as np
import pytest

from lightning_scaling.forecast import Forecast, Prediction
from lightning_scaling.forecast.metric_scale import (
    PLAIN,
    MetricScale,
    check_bounds,
    scale_of,
    scales_for,
)
from lightning_scaling.forecast.result import MetricPrediction

ACCURACY = MetricScale("max", 0.0, 1.0)


@pytest.mark.parametrize(
    ("name", "mode", "bounds"),
    [
        (None, "min", None),
        ("loss", "min", None),
        ("val_loss", "min", None),
        ("acc_loss", "min", None),
        ("perplexity", "min", None),
        ("val_macro", "min", None),
        ("fid_score", "min", None),
        ("val_acc", "max", (0, 1)),
        ("valAcc", "max", (0, 1)),
        ("MulticlassAccuracy", "max", (0, 1)),
        ("val/mAP50", "max", (0, 1)),
        ("top5_acc", "max", (0, 1)),
        ("F1", "max", (0, 1)),
        ("f1_score", "max", (0, 1)),
        ("mean_iou", "max", (0, 1)),
        ("bleu-4", "max", (0, 1)),
        ("R2Score", "max", (-math.inf, 1)),
        ("episode_reward", "max", None),
        ("val_err", "min", (0, 1)),
        ("test_WER", "min", (0, 1)),
    ],
)
def test_the_name_tells_what_is_better(name, mode, bounds):
    scale = scales_for(name)[0]
    assert (scale.mode, scale.bounds) == (mode, bounds)


def test_what_is_said_counts_more_than_the_name():
    assert scales_for("val_acc", "min") == (PLAIN,)
    assert scales_for("val_loss", bounds=(0, None)) == (MetricScale("min", 0.0),)
    assert scales_for("quality", "max", (0, 10)) == (MetricScale("max", 0.0, 10.0),)
    assert scales_for("quality", "max")[0] == ACCURACY


@pytest.mark.parametrize(
    ("low", "high", "bounds"),
    [(0.1, 0.9, (0, 1)), (0.1, 1.5, (0, 100)), (0.1, 101, None), (-0.1, 0.5, None)],
)
def test_the_values_tell_the_bounds(low, high, bounds):
    assert scale_of(scales_for("val_acc"), low, high).bounds == bounds


@pytest.mark.parametrize(
    "scale",
    [
        PLAIN,
        ACCURACY,
        MetricScale("min", 0.0, 1.0),
        MetricScale("min", 0.0),
        MetricScale("max"),
        MetricScale("max", -math.inf, 1.0),
    ],
)
def test_there_and_back(scale):
    values = np.array([0.0, 0.2, 0.7, 1.0])
    np.testing.assert_allclose(scale.from_law(scale.to_law(values)), values, atol=1e-15)
    better = np.diff(scale.to_law(values))
    assert (better < 0).all() if scale.mode == "max" else (better > 0).all()


def test_nothing_leaves_the_bounds_and_what_is_not_finite_stays_so():
    np.testing.assert_array_equal(ACCURACY.from_law([-3.0, 0.0, 5.0]), [1.0, 1.0, 0.0])
    np.testing.assert_array_equal(ACCURACY.to_law([np.nan, np.inf, -np.inf, 1.2]), [np.inf, np.inf, np.inf, 0.0])


def test_the_spread_of_a_share_is_the_same_everywhere_on_the_scale():
    spread = ACCURACY.spread_to_law([0.5, 0.8, 0.95], np.sqrt(np.array([0.5, 0.2, 0.05]) / 10_000))
    np.testing.assert_allclose(spread, 0.005, rtol=1e-3)
    assert math.isnan(float(ACCURACY.spread_to_law(0.5, math.nan)))


@pytest.mark.parametrize("bounds", [(1, 0), (0, 0), (0,), "01", (0, "1"), (math.nan, 1), (True, 2)])
def test_bounds_that_are_none(bounds):
    with pytest.raises(ValueError, match="`bounds` must be"):
        check_bounds(bounds)


def test_a_mode_that_is_none():
    with pytest.raises(ValueError, match="`mode` must be one of"):
        scales_for("val_acc", "up")


def forecast(scale, **changes):
    def path(steps):
        return np.full(steps.shape, 0.3), np.full(steps.shape, 0.04)

    return Forecast(10, 100, "law", "ok", "", path=path, scale=scale, **changes)


def test_a_forecast_speaks_in_the_units_of_the_metric():
    made = forecast(ACCURACY)
    assert made.final == pytest.approx(0.91)
    lower, upper = made.interval(0.9)
    assert lower == pytest.approx(made.quantile(0.05))
    assert upper == pytest.approx(made.quantile(0.95))
    assert lower < 0.91 < upper < 1
    assert made.final_distribution.below(lower) == pytest.approx(0.05)
    assert made.final_distribution.reaches(upper) == pytest.approx(0.05)
    assert made.curve([20, 30])[0] == pytest.approx([0.91, 0.91])
    assert made.to_dict()["upper"] == upper
    assert made.on_law.final == 0.3
    assert made.on_law.on_law == made.on_law


def test_the_interval_holds_the_noise_of_one_value_and_no_more_than_can_be():
    assert forecast(ACCURACY, params={"noise": 0.03}).interval()[0] < forecast(ACCURACY).interval()[0]
    assert forecast(ACCURACY).interval(0.999999) == (0.0, 1.0)
    assert forecast(PLAIN, params={"noise": 0.03}).interval() == forecast(PLAIN).interval()


def test_what_lies_at_or_beyond_a_bound_is_certain():
    final = forecast(ACCURACY).final_distribution
    assert (final.below(1.0), final.below(-0.1)) == (1.0, 0.0)
    assert final.reaches(1.0) > 0


def test_a_prediction_can_be_kept():
    kept = pickle.loads(pickle.dumps(MetricPrediction(Prediction(0.3, 0.04, 4.0), ACCURACY)))
    assert float(kept) == pytest.approx(0.91)
    assert kept.interval() == forecast(ACCURACY).interval()
