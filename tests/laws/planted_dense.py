"""Truths planted for the laws of dense pre-training."""

import numpy as np
from planted_chinchilla import grid

_PARAMS = np.geomspace(3e7, 3e10, 8)
_TOKENS = np.geomspace(5e8, 5e12, 8)
_FLOPS = np.geomspace(1e17, 1e25, 60)
_WIDTH = np.geomspace(128, 8192, 4)
_DEPTH = np.geomspace(3, 96, 4)

CASES = {
    "hestness": (
        {"alpha": 60.0, "beta_g": -0.3, "gamma": 0.2},
        {"tokens": np.geomspace(1e4, 1e10, 60)},
    ),
    "rosenfeld": (
        {"a": 300.0, "alpha": 0.6, "b": 40.0, "beta": 0.45, "c_inf": 0.1},
        grid(params=np.geomspace(1e4, 1e8, 8), tokens=np.geomspace(1e3, 1e7, 8)),
    ),
    "rosenfeld_envelope": (
        {"eps_0": 0.9, "a": 400.0, "alpha": 0.7, "b": 100.0, "beta": 0.5, "c_inf": 0.05},
        grid(params=np.geomspace(1e3, 1e8, 8), tokens=np.geomspace(1e2, 1e7, 8)),
    ),
    "kaplan_params": ({"N_c": 8.8e13, "alpha_N": 0.076}, {"params": np.geomspace(1e6, 1e10, 40)}),
    "kaplan_tokens": ({"D_c": 5.4e13, "alpha_D": 0.095}, {"tokens": np.geomspace(1e7, 1e11, 40)}),
    "kaplan_compute": ({"C_c": 2.7e28, "alpha_C": 0.05}, {"flops": np.geomspace(1e16, 1e22, 40)}),
    "kaplan_params_tokens": (
        {"N_c": 6.4e13, "alpha_N": 0.076, "D_c": 1.8e13, "alpha_D": 0.103},
        grid(params=np.geomspace(1e6, 1e10, 8), tokens=np.geomspace(1e7, 1e11, 8)),
    ),
    "kaplan_params_steps": (
        {"N_c": 6.5e13, "alpha_N": 0.077, "S_c": 2100.0, "alpha_S": 0.76},
        grid(params=np.geomspace(1e6, 1e10, 8), steps=np.geomspace(1e3, 1e6, 8)),
    ),
    "henighan": ({"L_inf": 2.0, "x_0": 3e6, "alpha": 0.25}, {"params": np.geomspace(1e5, 1e10, 50)}),
    "compute": ({"E": 1.7, "A": 3000.0, "alpha": 0.17}, {"flops": _FLOPS}),
    "over_training": ({"E": 1.8, "a": 200.0, "b": 350.0, "eta": 0.14}, grid(params=_PARAMS, tokens=_TOKENS)),
    "over_training_error": (
        {"epsilon": 0.85, "k": 2.1, "gamma": 0.75},
        {"validation_loss": np.linspace(1.5, 7.0, 50)},
    ),
    "farseer": (
        {
            "a_1": -0.15,
            "b_1": 0.5,
            "alpha": 0.12,
            "a_2": 80.0,
            "b_2": -6.0,
            "beta": -0.1,
            "a_3": -0.03,
            "b_3": 0.15,
            "gamma": 0.17,
        },
        grid(params=np.geomspace(1e6, 1e12, 9), tokens=np.geomspace(1e7, 1e14, 9)),
    ),
    "vocabulary": (
        {"E": 5.5, "A_1": 900.0, "A_2": 2100.0, "alpha_2": 0.67, "B": 22000.0, "beta": 0.45},
        grid(
            non_vocab_params=np.geomspace(1e7, 1e10, 4),
            vocab_params=np.geomspace(3e5, 1e9, 4),
            tokens=np.geomspace(1e8, 1e12, 4),
        ),
    ),
    "data_constrained": (
        {"E": 1.87, "A": 520.0, "alpha": 0.35, "B": 1480.0, "beta": 0.36, "R_D_star": 15.0, "R_N_star": 5.3},
        grid(
            params=np.geomspace(1e7, 1e11, 5),
            tokens=np.geomspace(1e8, 1e12, 5),
            unique_tokens=np.geomspace(1e8, 1e11, 3),
        ),
    ),
    "width_depth": (
        {"epsilon": 1.5, "A": 8.0, "alpha": 0.4, "B": 2.0, "beta": 0.6, "C": 30000.0, "gamma": 0.5},
        grid(width=_WIDTH, depth=_DEPTH, tokens=np.geomspace(1e9, 1e12, 4)),
    ),
    "width_depth_params": (
        {
            "epsilon": 1.4,
            "A": 5.0,
            "alpha": 0.35,
            "B": 1.2,
            "beta": 0.6,
            "C": 2500.0,
            "gamma": 0.5,
            "D": 23000.0,
            "delta": 0.48,
        },
        grid(
            width=np.geomspace(128, 8192, 3),
            depth=np.geomspace(3, 96, 3),
            params=np.geomspace(1e7, 1e10, 3),
            tokens=np.geomspace(1e9, 1e12, 3),
        ),
    ),
    "deepseek_params": ({"M_base": 0.17, "a": 0.524}, {"flops": _FLOPS}),
    "deepseek_tokens": ({"D_base": 5.8, "b": 0.476}, {"flops": _FLOPS}),
}
