from __future__ import annotations

import math

import pytest

from lightning_scaling.advice import RunState
from lightning_scaling.advice.causes import likely_cause
from lightning_scaling.detection import Deviation, Divergence
from lightning_scaling.forecast import Forecast

ABOVE = Deviation(True, 250.0, "above", 400, "deviating", 0.06, 3.1, "slow_divergence")
BELOW = Deviation(True, 250.0, "below", 400, "deviating", -0.06, 3.1, "better_than_forecast")
PLATEAU = Deviation(True, 250.0, "above", 400, "deviating", 0.06, 3.1, "plateau")
FORECAST = Forecast(500, 1000, "relative_multi_power", "ok", "")


def cause(deviation=ABOVE, **changes):
    values = {"step": 500, "fraction": 0.5, "loss": 3.1, "forecast": FORECAST, "divergence": None, "target": None}
    values |= {"nonfinite_tail": 0, "nonfinite": 0, "rate_ratio": math.nan, "deviation": deviation}
    return likely_cause(RunState(**{**values, **changes}))


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, "learning_rate"),
        ({"abrupt": True}, "data"),
        ({"abrupt": False}, "learning_rate"),
        ({"facts": {"idle": 3}, "abrupt": True}, "frozen_layers"),
        ({"facts": {"state_lost": 450}, "abrupt": True}, "optimizer_state"),
        ({"facts": {"state_lost": 350}, "abrupt": True}, "data"),
        ({"last_nonfinite": 480, "nonfinite_total": 1}, "precision"),
        ({"last_nonfinite": 80, "nonfinite_total": 1}, "learning_rate"),
        ({"marked": (390, "resumed at step 390")}, "optimizer_state"),
        ({"marked": (390, "new data")}, "marked_change"),
        ({"marked": (200, "new data")}, "learning_rate"),
        ({"divergence": Divergence(499, 3.0, 3.0, False)}, "data"),
        ({"divergence": Divergence(450, 0.3, 3.0, False)}, "learning_rate"),
        ({"deviation": PLATEAU}, "frozen_layers"),
        ({"deviation": PLATEAU, "facts": {"tensors": 24}}, "learning_rate"),
        ({"deviation": BELOW, "facts": {"idle": 3}}, "repeated_data"),
        ({"deviation": BELOW, "held_out": True}, "leak"),
    ],
)
def test_what_was_seen_goes_before_the_shape_of_the_losses(changes, expected):
    assert cause(**changes) == expected


@pytest.mark.parametrize(
    ("kind", "expected"),
    [("level_shift", "data"), ("slow_divergence", "learning_rate"), ("plateau", "frozen_layers")],
)
def test_the_kind_of_departure_speaks_where_nothing_else_does(kind, expected):
    assert cause(Deviation(True, 250.0, "above", 400, "deviating", 0.06, 3.1, kind)) == expected


def test_noise_suggests_the_batch():
    assert cause(Deviation(True, 250.0, None, 400, "deviating", 0.0, 3.1, "variance_increase", 3.0)) == "batch"


def test_a_fall_of_what_is_to_rise_is_no_gain():
    assert cause(BELOW, mode="max", abrupt=True) == "data"
