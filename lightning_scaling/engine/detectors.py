"""Holds each block of losses against what was forecast, and against what the run had gained."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from lightning_scaling.detection import Block, Deviation, Divergence, DivergenceDetector, PathDetector
from lightning_scaling.detection.path import block_of
from lightning_scaling.engine.buffer import LossBuffer
from lightning_scaling.engine.metric import FollowedMetric
from lightning_scaling.forecast import Forecast

_NOISE_MEMORY = 20
_UNDECIDABLE = Deviation(False, 1.0, None, None, "undecidable")


class RunDetectors:
    """The tests of one run: its path against earlier forecasts, its noise, and blow-ups.

    Args:
        alpha: Probability of a false alarm over the whole run.
        measure: The metric that is followed.

    Attributes:
        deviation: The latest verdict, in the units of the metric.
        divergence: A blow-up under way.
    """

    def __init__(self, alpha: float, measure: FollowedMetric) -> None:
        self._measure = measure
        self._detector = PathDetector(alpha)
        self._watch = DivergenceDetector()
        self._noise: list[float] = []
        self.deviation = _UNDECIDABLE
        self.divergence: Divergence | None = None

    @property
    def limit(self) -> float:
        """A loss so high that an update is not waited for; infinite while a blow-up is under way already."""
        if not self._measure.plain or not self._noise:
            return math.inf
        return self._watch.limit(float(np.median(self._noise)))

    def look(
        self, pending: LossBuffer, forecast: Forecast, *, settled: bool, blown: bool, rate: float = math.nan
    ) -> Block | None:
        """Judge the losses since the last update.

        Args:
            pending: Those losses.
            forecast: What was forecast after them, on the scale of the law.
            settled: Whether the run may be held to that forecast from now on.
            blown: Whether the last of them was above :attr:`limit`.
            rate: Learning rate planned for the present step.

        Returns:
            The losses summed up, ``None`` when none was finite.
        """
        block = self._block(pending)
        on_law = self._measure.block(block)
        if "noise" in forecast.params and not self.deviation.alarm:
            # Kept per single loss; bins and blocks hold different numbers of them.
            per_loss = forecast.params["noise"] * math.sqrt(forecast.params["losses_per_point"])
            self._noise = [*self._noise, per_loss][-_NOISE_MEMORY:]
        held_to = forecast if forecast.own_path is None else replace(forecast, path=forecast.own_path)
        beside = None
        if forecast.peer_path is not None:
            beside = replace(forecast, path=forecast.peer_path, valid_until=math.inf)
        verdict = self._detector.update(
            on_law, held_to, settled=settled, relatives=beside, losses=pending.means[1], rate=rate
        )
        self.deviation = self._measure.deviation(verdict, block)
        self.divergence = self._measure.divergence(self._watch.update(on_law, blown=blown))
        return block

    def _block(self, pending: LossBuffer) -> Block | None:
        # The noise of fits made before this block, and their median: a fault must not raise the bar it is held to.
        noise = float(np.median(self._noise)) / math.sqrt(max(len(pending), 1)) if self._noise else 0.0
        steps, losses = pending.means
        if noise and not self._measure.plain and len(pending):
            noise = self._measure.noise(float(np.mean(losses)), noise)
        return block_of(steps, losses, noise)

    @property
    def suspicious(self) -> bool:
        """Whether the next losses should be looked at before the next update falls due."""
        return self._detector.suspicious

    def peek(self, pending: LossBuffer) -> bool:
        """Whether an update made now would raise an alarm.

        Args:
            pending: The losses since the last update.
        """
        block = self._measure.block(self._block(pending))
        return block is not None and self._detector.peek(block)

    def begin_anew(self) -> None:
        """Forget all forecasts, as after an announced change."""
        self._detector.reset()
        self.deviation = _UNDECIDABLE

    def replanned(self) -> None:
        """Forecasts were made under another plan; what was found under it stays found until the next look."""
        self._detector.reset()

    def rescaled(self) -> None:
        """Forget everything: it was made out on another scale."""
        self._noise = []
        self._watch = DivergenceDetector()
        self.begin_anew()

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs, as builtins: frozen forecasts are not carried over."""
        return {"watch": self._watch.state_dict(), "noise": list(self._noise)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from what :meth:`state_dict` returned."""
        self._watch.load_state_dict(state["watch"])
        self._noise = list(state["noise"])
