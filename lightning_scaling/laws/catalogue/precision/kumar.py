"""Loss of training in low precision."""

from __future__ import annotations

from types import MappingProxyType
from typing import Any

import numpy as np

from lightning_scaling.laws.base import Law, Parameter, Published, Source


class Kumar(Law):
    """``loss = A / N_eff^alpha + B / tokens^beta + E``, ``N_eff = params * product over x of (1 - exp(-P_x/gamma_x))``.

    ``P_x`` are the bits of weights, activations and key-value cache in training; few bits act like a smaller model.
    ``gamma_x`` is how many bits it takes to matter.

    Kumar et al. 2024 (arXiv 2411.04330), equations 3 and 4.
    """

    name = "kumar"
    title = "Kumar: precision of training"
    formula = (
        "loss = A/N_eff^alpha + B/tokens^beta + E, N_eff = params*(1 - exp(-weight_bits/gamma_w))"
        "*(1 - exp(-activation_bits/gamma_a))*(1 - exp(-kv_bits/gamma_kv))"
    )
    source = Source("Kumar et al.", 2024, "2411.04330", "eq. 3 and 4")
    inputs = ("params", "tokens", "weight_bits", "activation_bits", "kv_bits")
    units = MappingProxyType(
        {
            "weight_bits": "bits of a weight in training",
            "activation_bits": "bits of an activation in training",
            "kv_bits": "bits of a key or value in training",
        }
    )
    parameters = (
        Parameter("A", "size coefficient", (1e-1, 1e8), log=True),
        Parameter("alpha", "size exponent", (0.1, 1.2), upper=4.0),
        Parameter("B", "data coefficient", (1e-1, 1e8), log=True),
        Parameter("beta", "data exponent", (0.1, 1.2), upper=4.0),
        Parameter("E", "irreducible loss", (0.0, 1.0), of="loss"),
        Parameter("gamma_w", "bits of weights that matter", (0.4, 6.0), 0.02, 64.0, log=True),
        Parameter("gamma_a", "bits of activations that matter", (0.4, 6.0), 0.02, 64.0, log=True),
        Parameter("gamma_kv", "bits of keys and values that matter", (0.2, 6.0), 0.02, 64.0, log=True),
    )
    linear = ("A", "B", "E")
    tags = frozenset({"precision", "ladder"})
    pitfalls = (
        "A read-out, not a prediction: the authors warn that their constants are of little use elsewhere.",
        "Published values known: gamma_w 2.6745, gamma_a 2.2102, gamma_kv .9578, A 4299, alpha = beta = .4965; not "
        "all of them, so none are carried. They do not give back the 7 to 8 bits reported as optimal (one gets about "
        "5).",
        "A kind of bits that never varies cannot be fitted: fix its gamma.",
        "Integer formats; floating-point formats of equal width behave differently.",
    )

    def value(self, p: Any, x: Any) -> Any:
        """Chinchilla's form with the effective size."""
        kept = np.expm1(-x.weight_bits / p.gamma_w) * np.expm1(-x.activation_bits / p.gamma_a)
        kept = -kept * np.expm1(-x.kv_bits / p.gamma_kv)
        return p.A * (x.params * kept) ** -p.alpha + p.B * x.tokens**-p.beta + p.E


class KumarPTQ(Law):
    """``loss_increase = C_T tokens^gamma_D / params^gamma_N exp(-post_bits / gamma_post)``.

    What quantising the weights to ``post_bits`` after training adds to the loss: more, the more the model was trained.

    Kumar et al. 2024 (arXiv 2411.04330), equation 2.
    """

    name = "kumar_ptq"
    title = "Kumar: quantisation after training"
    formula = "loss_increase = C_T*tokens^gamma_D/params^gamma_N*exp(-post_bits/gamma_post)"
    source = Source("Kumar et al.", 2024, "2411.04330", "eq. 2")
    inputs = ("params", "tokens", "post_bits")
    units = MappingProxyType({"post_bits": "bits of a weight after training"})
    output = "loss_increase"
    parameters = (
        Parameter("C_T", "coefficient", (1e-6, 1e4), log=True),
        Parameter("gamma_D", "data exponent", (0.1, 1.2), upper=4.0),
        Parameter("gamma_N", "size exponent", (0.1, 1.2), upper=4.0),
        Parameter("gamma_post", "bits that matter", (0.2, 3.0), 0.02, 64.0, log=True),
    )
    linear = ("C_T",)
    tags = frozenset({"precision", "inference"})
    published_constants = (
        Published(
            "kumar",
            {"C_T": 0.0598, "gamma_D": 0.5068, "gamma_N": 0.3439, "gamma_post": 0.5907},
            Source("Kumar et al.", 2024, "2411.04330"),
            "recalled",
            "Dolma, nats per token, GPTQ; the exponents were transcribed, C_T and gamma_post are recalled with medium "
            "confidence. Doubling the tokens multiplies the damage by 1.42.",
            inexact={"C_T": "recalled", "gamma_post": "recalled"},
        ),
    )
    pitfalls = (
        "Past some number of tokens, more training makes the quantised model worse: weigh it with the fall of the "
        "loss itself.",
        "One method of quantisation; others change C_T and gamma_post.",
    )

    def value(self, p: Any, x: Any) -> Any:
        """``C_T tokens^gamma_D params^-gamma_N exp(-post_bits/gamma_post)``."""
        return p.C_T * x.tokens**p.gamma_D * x.params**-p.gamma_N * np.exp(-x.post_bits / p.gamma_post)
