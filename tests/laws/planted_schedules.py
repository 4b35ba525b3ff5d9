"""Truths planted for laws that know the learning-rate schedule."""

import numpy as np
from planted_chinchilla import grid

_WARMUP, _STEPS, _PEAK = 300, 6000, 3e-4


def warmed(rest):
    """A linear warm-up to the peak, then the given fractions of it."""
    return _PEAK * np.concatenate([np.arange(1, _WARMUP + 1) / _WARMUP, rest])


_LEFT = np.arange(1, _STEPS - _WARMUP + 1) / (_STEPS - _WARMUP)
RATES = {
    "cosine": warmed(0.1 + 0.45 * (1 + np.cos(np.pi * _LEFT))),
    "constant": warmed(np.ones_like(_LEFT)),
    "two-stage": warmed(np.where(_LEFT < 0.5, 1.0, 0.3)),
}
_SPLIT = _WARMUP + (_STEPS - _WARMUP) // 2
_POINTS = grid(
    schedule=np.arange(3.0),
    steps=np.concatenate([np.linspace(_WARMUP + 100, _STEPS, 16), _SPLIT + np.geomspace(2, 400, 10).round()]),
)

_PLAN = {
    "steps": [1.0, 300.0, 3000.0, 4500.0, 6000.0],
    "lr": [1e-6, 3e-4, 3e-4, 1e-4, 1e-5],
    "total_steps": 6000,
    "known": True,
    "why": "",
    "source": "recorded",
}

CASES = {
    "collapse": ({"kappa": 150.0, "gamma": 1.03}, {"params": np.geomspace(1e6, 1e10, 40)}),
    "relative_multi_power": (
        {"L0": 1.5, "A": 1.2, "alpha": 0.4, "kappa": 1.3},
        {"steps": np.linspace(320, 6000, 60)},
        {"plan": _PLAN},
    ),
    "tissue": (
        {"L0": 2.8, "A": 0.5, "alpha": 0.5, "C": 20.0, "lambda_": 0.93},
        _POINTS,
        {"rates": RATES},
    ),
    "multi_power": (
        {"L0": 3.0, "A": 0.5, "alpha": 0.5, "B": 400.0, "C": 2.0, "beta": 0.6, "gamma": 0.64},
        _POINTS,
        {"rates": RATES},
    ),
    "annealed_ladder": (
        {"E": 1.7, "A": 450.0, "alpha": 0.35, "B": 1800.0, "beta": 0.36, "F": 0.3, "r": -0.06},
        grid(
            params=np.geomspace(5e7, 1e10, 5),
            tokens=np.geomspace(1e9, 1e12, 5),
            rate_fraction=np.array([0.0, 0.4, 1.0]),
        ),
    ),
}
