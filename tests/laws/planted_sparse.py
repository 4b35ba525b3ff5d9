"""Truths planted for the laws of sparse networks."""

import numpy as np


def grid(**axes):
    """All combinations of the values of each axis, as flat arrays."""
    mesh = np.meshgrid(*axes.values(), indexing="ij")
    return {name: values.ravel() for name, values in zip(axes, mesh, strict=True)}


def pruned():
    """Four dense models, pruned by four shares and trained further on five amounts of text."""
    inputs = grid(
        params=np.geomspace(5e7, 3e10, 4), rho=np.array([0.1, 0.2, 0.4, 0.7]), tokens=np.geomspace(1e7, 3e10, 5)
    )
    return inputs | {"dense_loss": 1.6 + 60 * inputs["params"] ** -0.25}


CASES = {
    "clark": (
        {"a": -0.082, "b": -0.115, "c": 0.0095, "d": 1.104, "E_start": 3.0, "E_max": 250.0},
        grid(
            active_params=np.geomspace(1e7, 3e9, 5),
            experts=np.array([1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 4096]),
        ),
    ),
    "krajewski": (
        {"c": 1.2, "g": 60.0, "gamma": 0.8, "a": 90.0, "alpha": 0.28, "b": 400.0, "beta": 0.3},
        grid(
            params=np.geomspace(1e7, 1e11, 4),
            tokens=np.geomspace(1e8, 1e12, 4),
            granularity=np.array([1.0, 3.0, 10.0, 40.0]),
        ),
    ),
    "frantar": (
        {"a_S": 60.0, "b_S": 0.8, "c_S": 45.0, "b_N": 0.27, "a_D": 6.9e8, "b_D": 0.3, "c": 0.8},
        grid(
            params=np.geomspace(1e6, 1e10, 4),
            sparsity=np.array([0.0, 0.5, 0.8, 0.97]),
            tokens=np.geomspace(1e8, 1e13, 4),
        ),
    ),
    "wang_moe": (
        {"A": 400.0, "alpha": 0.33, "gamma": 0.15, "B": 900.0, "beta": 0.32, "sigma": 1.5},
        grid(
            active_params=np.geomspace(1e7, 3e10, 4),
            experts=np.array([1, 2, 4, 8]),
            tokens=np.geomspace(1e8, 3e12, 4),
        ),
    ),
    "abnar": (
        {
            "a": 9000.0,
            "alpha": 0.55,
            "b": 5000.0,
            "beta": 0.42,
            "c": 1.5,
            "lambda_": -0.5,
            "d": 12.0,
            "delta": 0.4,
            "gamma": 0.16,
            "e": 0.9,
        },
        grid(
            params=np.geomspace(1e6, 1e11, 5),
            tokens=np.array([1e8, 3e9, 3e12]),
            sparsity=np.array([0.0, 0.5, 0.8, 0.95, 0.99, 0.998]),
        ),
    ),
    "p2": (
        {"N_C": 60.0, "alpha": 0.25, "D_C": 3000.0, "beta": 0.45, "E": 1.5, "gamma": -1.4, "delta": 0.06},
        pruned(),
    ),
}
