"""Loss of a distilled student."""

from __future__ import annotations

from types import MappingProxyType
from typing import Any

import numpy as np

from lightning_scaling.laws.base import Law, Parameter, Source


class Busbridge(Law):
    """``loss = T + T^-c_0 (1 + (T/(d_1 S))^(1/f_1))^(-c_1 f_1) (A/params^alpha + B/tokens^beta)^gamma``.

    ``T`` is ``teacher_loss`` and ``S`` is ``supervised_loss``, what the student would reach without a teacher. The
    bracket in ``A`` and ``B`` is the student's own capacity; the one in ``T/S`` breaks at ``d_1``, with sharpness
    ``f_1``: beyond it a better teacher no longer helps, and can hurt.

    Busbridge et al. 2025 (arXiv 2502.08606), equation 8, from two secondary transcriptions.
    """

    name = "busbridge"
    title = "Busbridge: distillation"
    formula = (
        "loss = teacher_loss + teacher_loss^-c_0*(1 + (teacher_loss/(d_1*supervised_loss))^(1/f_1))^(-c_1*f_1)"
        "*(A/params^alpha + B/tokens^beta)^gamma"
    )
    source = Source("Busbridge et al.", 2025, "2502.08606", "eq. 8")
    inputs = ("params", "tokens", "teacher_loss", "supervised_loss")
    units = MappingProxyType(
        {
            "params": "parameters of the student",
            "tokens": "tokens of distillation",
            "teacher_loss": "loss of the teacher",
            "supervised_loss": "loss of the same student trained without a teacher on as many tokens",
        }
    )
    parameters = (
        Parameter("c_0", "exponent of the teacher's loss", (0.2, 6.0), -20.0, 40.0),
        Parameter("c_1", "what the break takes away", (0.3, 60.0), 0.0, 1e4, log=True),
        Parameter("d_1", "ratio of losses at the break", (0.5, 2.0), 0.05, 20.0),
        Parameter("f_1", "softness of the break", (0.04, 0.8), 0.005, 5.0, log=True),
        Parameter("A", "size coefficient", (10.0, 1e6), log=True),
        Parameter("alpha", "size exponent", (0.15, 0.9), upper=4.0),
        Parameter("B", "data coefficient", (10.0, 1e7), log=True),
        Parameter("beta", "data exponent", (0.15, 0.9), upper=4.0),
        Parameter("gamma", "exponent of the student's capacity", (0.2, 1.5), 0.01, 6.0),
    )
    tags = frozenset({"fine-tuning", "ladder", "allocation"})
    pitfalls = (
        "The student's loss without a teacher must come from a law or from runs: it is an input here.",
        "Nine shape parameters: teachers both weaker and stronger than the student are needed to see the break.",
        "If a teacher has to be trained for one student only, training the student directly is usually cheaper.",
    )

    def value(self, p: Any, x: Any) -> Any:
        """The teacher's loss and the student's distance from it, worked out in logarithms."""
        teacher = np.log(x.teacher_loss)
        ratio = (teacher - np.log(x.supervised_loss) - np.log(p.d_1)) / p.f_1
        capacity = np.logaddexp(np.log(p.A) - p.alpha * np.log(x.params), np.log(p.B) - p.beta * np.log(x.tokens))
        distance = p.gamma * capacity - p.c_0 * teacher - p.c_1 * p.f_1 * np.logaddexp(0.0, ratio)
        return x.teacher_loss + np.exp(distance)
