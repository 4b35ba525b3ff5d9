"""Loss from the size of the training set alone."""

from __future__ import annotations

from typing import Any

from lightning_scaling.laws.base import Law, Parameter, Published, Source

_HESTNESS = Source("Hestness et al.", 2017, "1712.00409", "section 4")


class Hestness(Law):
    """``loss = alpha * tokens^beta_g + gamma``.

    ``beta_g`` is negative: the slope of the learning curve of the best model for each training set; ``gamma`` is what
    no amount of data removes. ``tokens`` counts the training set (tokens or samples), the model being the best of its
    size for it. Hestness et al. 2017 (arXiv 1712.00409), section 2, on language, translation, vision and speech.
    """

    name = "hestness"
    title = "Hestness: loss from data, for the best model of each training set"
    formula = "loss = alpha*tokens^beta_g + gamma"
    source = _HESTNESS
    inputs = ("tokens",)
    parameters = (
        Parameter("alpha", "coefficient", (1e-2, 1e8), log=True),
        Parameter("beta_g", "learning-curve exponent", (-1.0, -0.03), lower=-4.0, upper=0.0),
        Parameter("gamma", "irreducible loss", (0.0, 1.0), of="loss"),
    )
    linear = ("alpha", "gamma")
    tags = frozenset({"single run", "ladder"})
    published_constants = (
        Published(
            "word-lm",
            {"alpha": 11.9, "beta_g": -0.066, "gamma": 0.0},
            _HESTNESS,
            "transcribed",
            "Word language model, nats per word; the training set is counted in words.",
            inexact={"gamma": "the published line has no floor"},
        ),
    )
    pitfalls = (
        "Three regions: a plateau while data are few, a power law, a floor. Drop the plateau before fitting.",
        "A better architecture moves the offset, not the exponent.",
        "Exponents published without a floor (character LM -.094, translation -.128, ImageNet top-1 -.309, top-5 "
        "-.488, speech -.299) are slopes of the total and too small for the reducible part.",
    )

    def value(self, p: Any, x: Any) -> Any:
        """``alpha tokens^beta_g + gamma``."""
        return p.alpha * x.tokens**p.beta_g + p.gamma
