"""Truths planted for inference and downstream tasks."""

import numpy as np


def grid(**axes):
    """All combinations of the values of each axis, as flat arrays."""
    mesh = np.meshgrid(*axes.values(), indexing="ij")
    return {name: values.ravel() for name, values in zip(axes, mesh, strict=True)}


CASES = {
    "coverage": ({"a": -1.8, "b": -0.35}, {"samples": np.geomspace(1, 1e4, 40)}),
    "wu_inference": ({"slope": 1.19, "intercept": 2.03}, {"params": np.geomspace(1e8, 1e11, 40)}),
    "lifetime_compute": (
        {"train": 6.0, "infer": 2.0},
        grid(
            params=np.geomspace(1e8, 1e11, 4),
            tokens=np.geomspace(1e10, 1e13, 4),
            inference_tokens=np.array([0.0, 1e11, 1e13]),
        ),
    ),
    "sigmoid_accuracy": ({"a": -0.65, "k": 7.0, "L_0": 0.9, "b": 0.9}, {"task_loss": np.linspace(0.05, 2.0, 60)}),
    "flp_loss": ({"C_N": 1e28, "alpha_N": 0.055}, {"flops": np.geomspace(1e16, 1e23, 40)}),
    "flp_performance": ({"w_0": 1.6, "w_1": -0.42}, {"pretraining_loss": np.linspace(1.9, 3.4, 40)}),
    "logit_compute": ({"C_0": 3e21, "beta": 0.5}, {"flops": np.geomspace(1e17, 1e26, 40)}),
}
