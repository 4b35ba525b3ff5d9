"""Truths planted for learning curves of a rising metric."""

import numpy as np

_STEPS = {"steps": np.geomspace(1, 3000, 60)}

CASES = {
    "vap": ({"a": -0.6, "b": -0.5, "c": 0.04}, _STEPS),
    "ilog2": ({"c": 0.8, "a": 0.4}, _STEPS),
    "pow3": ({"c": 0.84, "a": 0.5, "alpha": 0.4}, _STEPS),
    "pow4": ({"c": 0.9, "a": 0.5, "b": 2.0, "alpha": 0.5}, _STEPS),
    "loglog_linear": ({"a": 0.15, "b": 1.3}, _STEPS),
    "mmf": ({"alpha": 0.8, "beta": 0.1, "kappa": 0.03, "delta": 0.9}, _STEPS),
    "hill3": ({"y_max": 0.8, "kappa": 40.0, "eta": 0.8}, _STEPS),
    "log_power": ({"a": 0.8, "b": 3.5, "c": -0.7}, _STEPS),
    "weibull": ({"alpha": 0.8, "beta": 0.1, "kappa": 0.02, "delta": 0.6}, _STEPS),
    "janoschek": ({"alpha": 0.8, "beta": 0.1, "kappa": 0.1, "delta": 0.6}, _STEPS),
    "exp4": ({"c": 0.8, "a": 0.15, "b": -0.4, "alpha": 0.5}, _STEPS),
}
