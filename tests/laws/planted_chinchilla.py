"""Truths planted in synthetic data, one per law, and where its points lie."""

import numpy as np


def grid(**axes):
    """All combinations of the values of each axis, as flat arrays."""
    mesh = np.meshgrid(*axes.values(), indexing="ij")
    return {name: values.ravel() for name, values in zip(axes, mesh, strict=True)}


CASES = {
    "chinchilla": (
        {"E": 1.8, "A": 480.0, "alpha": 0.35, "B": 2000.0, "beta": 0.37},
        grid(params=np.geomspace(5e7, 1e10, 7), tokens=np.geomspace(1e9, 1e12, 8)),
    ),
    "coupled": (
        {"E": 1.6, "A": 3000.0, "alpha": 0.5, "B": 15000.0, "beta": 0.52, "gamma": 0.6},
        grid(params=np.geomspace(2e7, 2e10, 8), tokens=np.geomspace(3e8, 3e12, 9)),
    ),
}
