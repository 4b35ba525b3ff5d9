"""Truths planted for fine-tuning, distillation, losses from losses, and precision."""

import numpy as np


def grid(**axes):
    """All combinations of the values of each axis, as flat arrays."""
    mesh = np.meshgrid(*axes.values(), indexing="ij")
    return {name: values.ravel() for name, values in zip(axes, mesh, strict=True)}


def taught():
    """Students of several sizes, each with weak and strong teachers."""
    inputs = grid(
        params=np.geomspace(1e7, 1e10, 4),
        tokens=np.geomspace(1e8, 1e12, 4),
        teacher_loss=np.array([1.3, 1.8, 2.4, 3.2, 4.2]),
    )
    alone = 1.2 + 900 * inputs["params"] ** -0.4 + 3000 * inputs["tokens"] ** -0.42
    return inputs | {"supervised_loss": alone}


CASES = {
    "hernandez": (
        {"k": 1.9e4, "alpha": 0.18, "beta": 0.38},
        grid(finetune_tokens=np.geomspace(1e4, 1e9, 7), params=np.geomspace(1e6, 1e10, 7)),
    ),
    "hernandez_loss": (
        {"N_C": 2e9, "alpha_N": 0.3, "D_k": 3e6, "alpha_D": 0.35, "alpha": 0.6, "beta": 0.3},
        grid(params=np.geomspace(1e5, 1e12, 8), finetune_tokens=np.geomspace(1e3, 1e12, 8)),
    ),
    "zhang": (
        {"A": 60.0, "alpha": 0.12, "beta": 0.1, "E": 0.6},
        grid(params=np.geomspace(1e8, 1e12, 7), finetune_tokens=np.geomspace(1e4, 1e11, 7)),
    ),
    "rectified": (
        {"B": 900.0, "D_l": 400.0, "beta": 0.75, "E": 0.6},
        {"finetune_tokens": np.geomspace(10, 1e9, 50)},
    ),
    "mikami": ({"a": 8.0, "alpha": 0.28, "c": 0.12}, {"tokens": np.geomspace(1e2, 1e9, 50)}),
    "abnar_transfer": ({"k": 0.9, "a": 1.6, "c": 0.08}, {"upstream_error": np.geomspace(0.02, 0.95, 50)}),
    "busbridge": (
        {
            "c_0": 1.5,
            "c_1": 2.0,
            "d_1": 1.1,
            "f_1": 0.12,
            "A": 900.0,
            "alpha": 0.42,
            "B": 4000.0,
            "beta": 0.45,
            "gamma": 0.7,
        },
        taught(),
    ),
    "loss_to_loss": (
        {"K": 1.3, "E_0": 1.5, "kappa": 0.8, "E_1": 0.9},
        {"other_loss": 1.5 + np.geomspace(0.13, 9.0, 50)},
    ),
    "kumar": (
        {
            "A": 4000.0,
            "alpha": 0.45,
            "B": 9000.0,
            "beta": 0.44,
            "E": 1.5,
            "gamma_w": 2.7,
            "gamma_a": 2.2,
            "gamma_kv": 1.6,
        },
        {
            "params": np.tile(np.geomspace(1e7, 3e9, 4), 18),
            "tokens": np.tile(np.repeat(np.geomspace(1e8, 1e12, 3), 4), 6),
            "weight_bits": np.repeat([16.0, 3.0, 1.5, 16.0, 16.0, 2.0], 12),
            "activation_bits": np.repeat([16.0, 16.0, 4.0, 1.2, 16.0, 2.0], 12),
            "kv_bits": np.repeat([16.0, 16.0, 16.0, 3.0, 1.0, 2.0], 12),
        },
    ),
    "kumar_ptq": (
        {"C_T": 0.06, "gamma_D": 0.5, "gamma_N": 0.34, "gamma_post": 0.6},
        grid(
            params=np.geomspace(1e7, 1e10, 4),
            tokens=np.geomspace(1e8, 1e12, 4),
            post_bits=np.array([3.0, 4.0, 6.0, 8.0]),
        ),
    ),
}
