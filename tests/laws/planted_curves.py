"""Truths planted for laws of single curves."""

import numpy as np

_STEPS = np.geomspace(1e2, 1e6, 60)

CASES = {
    "m1": ({"beta": 8.0, "c": -0.1}, {"steps": _STEPS}),
    "m2": ({"eps_inf": 2.4, "beta": 30.0, "c": -0.45}, {"steps": _STEPS}),
    "m3": ({"beta": 12.0, "gamma": 3e-5, "c": -0.3}, {"steps": _STEPS}),
    "m4": (
        {"eps_inf": 0.08, "eps_0": 0.99, "alpha": 0.7, "beta": 60.0, "c": -0.6},
        {"steps": np.geomspace(1e1, 1e7, 70)},
    ),
    "bnsl": (
        {"a": 0.5, "b": 9.0, "c0": 0.12, "c1": 0.35, "d1": 8e3, "f1": 0.4},
        {"steps": np.geomspace(1e1, 1e7, 80)},
    ),
    "zhai": ({"a": 3000.0, "d": 3e15, "b": 0.25, "c": 0.12}, {"flops": np.geomspace(1e14, 1e21, 60)}),
}
