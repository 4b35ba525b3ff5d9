import math

import numpy as np

from lightning_scaling.tracking import schema

UPDATE = {
    "step": 10,
    "fraction": 0.1,
    "loss": 2.5,
    "forecast": {"final": 2.0, "lower": 1.9, "upper": 2.2, "trust": "low"},
    "deviation": {"e_value": 100.0, "verdict": "on track"},
    "advice": {"action": "continue", "reason": "On track."},
}


def test_metrics_of_an_update():
    counters = {"lr": 1e-3, "tokens": 2048, "flops": 10**20, "seconds": 3.0, "overhead": 0.002, "samples": None}
    assert schema.metrics_of(UPDATE, counters) == {
        "scaling/loss": 2.5,
        "scaling/lr": 1e-3,
        "scaling/tokens": 2048.0,
        "scaling/flops": 1e20,
        "scaling/log10_flops": 20.0,
        "scaling/seconds": 3.0,
        "scaling/overhead": 0.002,
        "scaling/forecast/final": 2.0,
        "scaling/forecast/lower": 1.9,
        "scaling/forecast/upper": 2.2,
        "scaling/deviation/e_value": 100.0,
        "scaling/deviation/log10_e": 2.0,
    }


def test_what_is_missing_or_not_finite_is_left_out():
    update = {"loss": float("nan"), "forecast": None, "deviation": {"e_value": float("inf")}}
    assert schema.metrics_of(update, {"flops": 0, "lr": None}) == {
        "scaling/flops": 0.0,
    }


def test_flops_beyond_int64():
    values = schema.metrics_of({}, {"flops": 3 * 10**25})
    assert values["scaling/log10_flops"] == math.log10(3e25)


def test_tags_of_an_update():
    assert schema.tags_of(UPDATE) == {
        "scaling.verdict": "on track",
        "scaling.advice": "continue",
        "scaling.reason": "On track.",
        "scaling.trust": "low",
    }
    assert schema.tags_of({"step": 3}) == {}


def test_params_are_named_once_and_text():
    assert schema.params_of({"params": 12, "scaling.law": "chinchilla", "target": None, "alpha": np.float64(0.01)}) == {
        "scaling.params": "12",
        "scaling.law": "chinchilla",
        "scaling.alpha": "0.01",
    }
