"""Composition of two fits, such as compute to loss and loss to accuracy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from lightning_scaling._utils.validation import probability
from lightning_scaling.laws.arrays import Array
from lightning_scaling.laws.results import Fit

_DRAWS = 4000


@dataclass(frozen=True, eq=False, repr=False)
class Chain:
    """``second(first(inputs))``: the output of one law as the input of the next.

    The usual way to a downstream metric: a law for the task's loss, and a link from that loss to accuracy (Bhagia et
    al. 2024, arXiv 2412.04403; Gadre et al. 2024, arXiv 2403.08540; Chen et al. 2024). Fitting accuracy on compute
    directly skips the part that scales smoothly.

    Attributes:
        first: Fit of the law whose output the second takes.
        second: Fit of the link; it must have one input.
    """

    first: Fit
    second: Fit

    def __post_init__(self) -> None:
        if len(self.second.law.inputs) != 1:
            raise ValueError(
                f"The second law of a chain must have one input, but {self.second.law.name} has "
                f"{', '.join(self.second.law.inputs)}."
            )

    def predict(self, **inputs: Any) -> Array:
        """The second law at what the first one predicts.

        Args:
            **inputs: Inputs of the first law.

        Returns:
            The predicted output, of the inputs' broadcast shape.
        """
        return self.second.predict(**{self.second.law.inputs[0]: self.first.predict(**inputs)})

    def interval(self, level: float = 0.95, **inputs: Any) -> tuple[Array, Array]:
        """Interval for a new observation: the first law's prediction interval carried through the second's.

        Args:
            level: Probability, between 0 and 1.
            **inputs: Inputs of the first law.

        Returns:
            Lower and upper end, each of the inputs' broadcast shape.

        Raises:
            ValueError: `level` is not between 0 and 1.
        """
        probability("level", level)
        rng = np.random.default_rng(0)
        between = self.first.prediction_spread.sample(_DRAWS, rng, inputs)
        rows = {name: values[:, None] for name, values in self.second.draws(_DRAWS, seed=1).items()}
        after = self.second.law.evaluate(rows, **{self.second.law.inputs[0]: between.reshape(_DRAWS, -1)})
        noise = self.second.prediction_spread.noise * rng.standard_normal(after.shape)
        after = after * np.exp(noise) if self.second.settings.space == "log" else after + noise
        low, high = np.quantile(after.reshape(between.shape), [(1 - level) / 2, (1 + level) / 2], axis=0)
        return low, high

    def to_dict(self) -> dict[str, Any]:
        """The two fits as builtins: keys ``first`` and ``second``, each as in :meth:`Fit.to_dict`."""
        return {"first": self.first.to_dict(), "second": self.second.to_dict()}

    @classmethod
    def from_dict(cls, state: dict[str, Any]) -> Chain:
        """The chain that :meth:`to_dict` described."""
        return cls(Fit.from_dict(state["first"]), Fit.from_dict(state["second"]))

    def __repr__(self) -> str:
        return f"Chain({self.first!r} -> {self.second!r})"


def chain(first: Fit, second: Fit) -> Chain:
    """Two fits in a row.

    Args:
        first: Fit of the law whose output the second takes, such as a loss from parameters and tokens.
        second: Fit of the link, such as ``sigmoid_accuracy``.

    Returns:
        An object that predicts the second law's output from the first law's inputs.

    Raises:
        ValueError: The second law has more than one input.
    """
    return Chain(first, second)
