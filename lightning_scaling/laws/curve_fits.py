"""One law fitted to many curves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lightning_scaling.laws.base import Law

if TYPE_CHECKING:
    from lightning_scaling.laws.results import Fit, Settings

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Fits:
    """One law fitted to many curves.

    Attributes:
        law: The law.
        settings: How the fits were asked for.
        inputs: Inputs, each of shape ``(points,)`` or ``(curves, points)``.
        y: Observations, shape ``(curves, points)``.
        weights: Weights, likewise; zero for points that could not be used.
        params: Estimates by name, each of shape ``(curves,)``; nan where a curve has too few points.
        objective: Value of the objective, shape ``(curves,)``.
        status: ``"ok"``, ``"not converged"`` or ``"too few points"``, shape ``(curves,)``.
    """

    law: Law
    settings: Settings
    inputs: Mapping[str, Array]
    y: Array
    weights: Array
    params: Mapping[str, Array]
    objective: Array
    status: NDArray[np.str_]

    def __len__(self) -> int:
        return len(self.y)

    def predict(self, **inputs: Any) -> Array:
        """What each curve's law says.

        Args:
            **inputs: Inputs by name, numbers or arrays of shape ``(m,)`` or ``(curves, m)``.

        Returns:
            Predictions of shape ``(curves, m)``; nan for curves without a fit.
        """
        wide = {name: np.atleast_1d(np.asarray(value, dtype=np.float64)) for name, value in inputs.items()}
        return self.law.evaluate({name: value[:, None] for name, value in self.params.items()}, **wide)

    def __getitem__(self, curve: int) -> Fit:
        """The full fit of one curve, with intervals and diagnostics; fitted anew on its own points.

        Args:
            curve: Index of the curve.

        Returns:
            The fit.

        Raises:
            IndexError: There is no such curve.
            ValueError: It has too few points.
        """
        if not -len(self) <= curve < len(self):
            raise IndexError(f"there are {len(self)} curves, but curve {curve} was asked for.")
        used = self.weights[curve] > 0
        data = {name: (v[curve] if v.ndim == 2 else v)[used] for name, v in self.inputs.items()}
        objective = self.settings.objective
        return self.law.fit(
            data | {self.settings.loss: self.y[curve][used]},
            self.settings.loss,
            objective.kind,
            objective.delta,
            self.weights[curve][used],
            space=self.settings.space,
            quantile=objective.quantile,
            fixed=self.settings.fixed,
            bounds=self.settings.bounds,
        )
