"""Loss from vocabulary and other parameters."""

from __future__ import annotations

from types import MappingProxyType
from typing import Any

from lightning_scaling.laws.base import Law, Parameter, Published, Source

_A1, _A2, _B = 1.8313851559554126, 0.19584238398665638, 2.1241123120064955
_TIED, _ALPHA_2 = 0.44660634152009615, 0.6707374679896795


class Vocabulary(Law):
    """``loss_u = -E + A_1 / non_vocab_params^beta + A_2 / vocab_params^alpha_2 + B / tokens^beta``.

    ``loss_u`` is the loss minus that of a unigram model, nats per token, and negative; it makes tokenizers comparable.
    ``E`` is the most it can fall below zero. ``vocab_params`` is vocabulary size x width. The paper ties the exponent
    of the other parameters to that of the data (its ``alpha_1 = beta``), and so does this. Tao et al. 2024 (arXiv
    2407.13623), approach 3; in the authors' code the data term counts tokens, not characters.
    """

    name = "vocabulary"
    title = "Vocabulary: unigram-normalised loss from vocabulary, other parameters and tokens"
    formula = "loss_u = -E + A_1/non_vocab_params^beta + A_2/vocab_params^alpha_2 + B/tokens^beta"
    source = Source("Tao et al.", 2024, "2407.13623", "approach 3")
    inputs = ("non_vocab_params", "vocab_params", "tokens")
    units = MappingProxyType(
        {
            "non_vocab_params": "parameters outside the vocabulary",
            "vocab_params": "vocabulary size x embedding width",
        }
    )
    output = "unigram_normalised_loss"
    space = "linear"
    parameters = (
        Parameter("E", "how far below the unigram loss it can fall", (0.0, 20.0)),
        Parameter("A_1", "coefficient of the other parameters", (1e-2, 1e8), log=True),
        Parameter("A_2", "coefficient of the vocabulary", (1e-2, 1e8), log=True),
        Parameter("alpha_2", "exponent of the vocabulary", (0.1, 1.5), upper=4.0),
        Parameter("B", "data coefficient", (1e-2, 1e10), log=True),
        Parameter("beta", "exponent of data and of the other parameters", (0.1, 1.0), upper=4.0),
    )
    linear = ("E", "A_1", "A_2", "B")
    tags = frozenset({"ladder", "allocation"})
    published_constants = (
        Published(
            "tao",
            {
                "E": 5.5327846803337435,
                "A_1": _A1 * 1e6**_TIED,
                "A_2": _A2 * 1e6**_ALPHA_2,
                "alpha_2": _ALPHA_2,
                "B": _B * 1e9**_TIED,
                "beta": _TIED,
            },
            Source("Tao et al.", 2024, "2407.13623", "optimal_Nv_predict.py of the authors"),
            "checked",
            "33M to 1.2B parameters, nats per token. As the authors use them, for the best vocabulary of a budget: "
            "2.4e8 vocabulary parameters (60 thousand words of width 4096) next to 7e9 others. For the level of the "
            "loss see the pitfalls.",
            inexact=dict.fromkeys(("A_1", "A_2", "B"), "converted from millions of parameters and billions of tokens"),
        ),
    )
    pitfalls = (
        "Compare losses across tokenizers only after normalising by the unigram loss, or in bits per byte.",
        "The published constants were fitted with tokens computed from characters with the vocabulary counted in "
        "thousands, about three times too many: take them for trade-offs, not for the level of the loss.",
    )

    def value(self, p: Any, x: Any) -> Any:
        """``-E + A_1 non_vocab_params^-beta + A_2 vocab_params^-alpha_2 + B tokens^-beta``."""
        other = p.A_1 * x.non_vocab_params**-p.beta + p.B * x.tokens**-p.beta
        return other + p.A_2 * x.vocab_params**-p.alpha_2 - p.E
