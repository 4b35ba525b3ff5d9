"""Truths planted for the laws of mixtures, repeats and quality."""

import numpy as np


def grid(**axes):
    """All combinations of the values of each axis, as flat arrays."""
    mesh = np.meshgrid(*axes.values(), indexing="ij")
    return {name: values.ravel() for name, values in zip(axes, mesh, strict=True)}


def mixtures(*domains, count):
    """Mixtures that cover the simplex, its corners and edges included."""
    raw = np.random.default_rng(5).dirichlet(np.full(len(domains), 0.7), count - len(domains))
    return dict(zip(domains, np.concatenate([np.eye(len(domains)), raw]).T, strict=True))


def scaled_mixtures():
    """Sizes, tokens and shares of two domains."""
    inputs = grid(params=np.geomspace(1e7, 1e10, 3), tokens=np.geomspace(1e8, 1e12, 3), first=np.linspace(0, 1, 9) ** 2)
    return inputs | {"second": 1.0 - inputs["first"]}


CASES = {
    "ye_mixing": (
        {"c": 1.4, "k": 0.9, "t_books": -2.5, "t_code": 1.2},
        mixtures("books", "code", "web", count=60),
        {"domains": ["books", "code", "web"]},
    ),
    "shukor_mixture": (
        {
            "E": 1.1,
            "C_first": 3.0,
            "gamma_first": 0.45,
            "C_second": 0.8,
            "gamma_second": 0.7,
            "A": 400.0,
            "alpha": 0.35,
            "B": 900.0,
            "beta": 0.33,
        },
        scaled_mixtures(),
    ),
    "d_cpt": (
        {
            "E": 1.2,
            "A": 500.0,
            "alpha": 0.36,
            "B": 900.0,
            "eta": 0.5,
            "beta": 0.34,
            "C": 0.5,
            "epsilon": 0.06,
            "gamma": 0.6,
        },
        grid(
            params=np.geomspace(1e7, 3e10, 3),
            tokens=np.geomspace(1e7, 1e12, 4),
            ratio=np.array([0.0, 0.02, 0.06, 0.15, 0.4, 1.0]),
        ),
    ),
    "repeated_overfit": (
        {
            "E": 1.6,
            "L_0": 10.5,
            "a": 60.0,
            "alpha": 0.34,
            "b": 300.0,
            "beta": 0.36,
            "c": 30.0,
            "gamma": 0.35,
            "delta": 0.62,
        },
        grid(
            params=np.geomspace(1e5, 1e10, 4),
            tokens=np.geomspace(1e6, 1e12, 4),
            unique_tokens=np.geomspace(1e6, 1e12, 5),
        ),
    ),
    "goyal_quality": (
        {"a": 30.0, "b": -0.3, "tau": 5.0, "d": 0.2},
        {
            "unique_tokens": np.repeat(np.geomspace(1e4, 1e9, 5), 10),
            "tokens": np.repeat(np.geomspace(1e4, 1e9, 5), 10)
            * np.tile([0.3, 0.9, 1.0, 1.5, 2.0, 3.7, 6.0, 11.0, 24.0, 50.0], 5),
        },
    ),
}
