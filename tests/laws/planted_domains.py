"""Truths planted for vision, several modalities, reinforcement learning and retrieval."""

import numpy as np


def grid(**axes):
    """All combinations of the values of each axis, as flat arrays."""
    mesh = np.meshgrid(*axes.values(), indexing="ij")
    return {name: values.ravel() for name, values in zip(axes, mesh, strict=True)}


def together():
    """Two modalities with losses of their own, and as many tokens of each or not."""
    inputs = grid(
        params=np.geomspace(1e7, 1e11, 4), tokens_i=np.geomspace(1e8, 1e12, 4), tokens_j=np.geomspace(1e8, 1e12, 4)
    )
    return inputs | {
        "loss_i": 1.7 + 300 * inputs["params"] ** -0.3 + 800 * inputs["tokens_i"] ** -0.35,
        "loss_j": 2.2 + 90 * inputs["params"] ** -0.22 + 500 * inputs["tokens_j"] ** -0.3,
    }


CASES = {
    "openclip": ({"beta": 60.0, "alpha": -0.12}, {"macs": np.geomspace(1e16, 1e22, 40)}),
    "aghajanyan": ({"C": 0.4, "A": 500.0, "alpha": 0.38, "B": 3000.0, "beta": 0.4}, together()),
    "shukor_multimodal": (
        {"E": 2.0, "A": 500.0, "alpha": 0.33, "B": 900.0, "beta": 0.32},
        grid(active_params=np.geomspace(1e7, 3e10, 7), tokens=np.geomspace(1e8, 3e12, 7)),
    ),
    "droppo": (
        {"L_inf": 0.7, "N_C": 3e5, "alpha_N": 0.4, "D_C": 30.0, "alpha_D": 0.45, "alpha": 0.5},
        grid(params=np.geomspace(1e4, 1e10, 8), audio_hours=np.geomspace(1.0, 1e6, 8)),
    ),
    "hilton": (
        {"N_c": 1e3, "alpha_N": 0.8, "E_c": 1e4, "alpha_E": 0.6},
        grid(params=np.geomspace(1e3, 1e8, 7), interactions=np.geomspace(1e4, 1e9, 7)),
    ),
    "alphazero_elo": ({"alpha": 0.88, "constant": -700.0}, {"params": np.geomspace(1e3, 1e7, 40)}),
    "jones_test_time": (
        {"slope": -1.2, "k": 0.004, "constant": 29.0},
        grid(flops=np.geomspace(1e11, 1e17, 7), elo_gap=np.linspace(0, 2000, 7)),
    ),
    "scale_rl": ({"R_0": 0.22, "A": 0.61, "C_mid": 2500.0, "B": 1.8}, {"compute": np.geomspace(30.0, 3e5, 60)}),
    "dense_retrieval": (
        {"A": 4e4, "alpha": 0.5, "B": 3e3, "beta": 0.9, "delta": 0.4},
        grid(params=np.geomspace(1e3, 1e9, 8), annotations=np.geomspace(1e2, 1e8, 8)),
    ),
    "dlrm": ({"alpha": 30.0, "beta": 0.3, "gamma": 0.5}, {"tokens": np.geomspace(1e3, 1e11, 50)}),
    "graph": ({"a": 8.0, "b": 0.28, "c": 0.1}, {"edges": np.geomspace(1e2, 1e9, 50)}),
}
