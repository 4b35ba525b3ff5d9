"""Detectors on the scale of the law, for a metric in its own units."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from lightning_scaling.detection import Block, DetectionConfig, Divergence, References, RunDetectors
from lightning_scaling.engine.buffer import LossBuffer
from lightning_scaling.engine.metric import FollowedMetric
from lightning_scaling.forecast import Forecast
from lightning_scaling.schedule.plan import Plan

_START_SHARE = 0.06
"""Fraction of the plan before which no forecast is tested: early curves bend in ways of their own."""
_WARMUPS = 1.25
"""Multiple of the warm-up before which no forecast is tested."""
_MIN_STEPS = 40
"""Steps before which no forecast is tested: those of ten updates of a short run."""
_MIN_POINTS = 8
"""Points of the curve on which a forecast that is tested must rest."""


def _is_testable(forecast: Forecast, plan: Plan) -> bool:
    """Whether a run may be tested against a forecast: the start is over, and it rests on points of a fall."""
    start = max(_START_SHARE * (plan.total_steps or 0), _WARMUPS * plan.warmup_end, _MIN_STEPS)
    return forecast.step >= start and forecast.is_falling and forecast.params.get("points", 0) >= _MIN_POINTS


class MetricDetectors(RunDetectors):
    """Summarizes the losses between updates, tests them on the scale of the law, and reports in units of the metric.

    Args:
        alpha: Probability of a false alarm over the whole run.
        metric: The metric that is followed.
        config: Tuned numbers.

    Attributes:
        deviation: The latest verdict, in the units of the metric.
    """

    def __init__(self, alpha: float, metric: FollowedMetric, config: DetectionConfig) -> None:
        super().__init__(alpha, config=config)
        self._metric = metric
        self._config = config.block
        self._noise: list[float] = []

    @property
    def divergence(self) -> Divergence | None:
        """A blow-up under way, in the units of the metric."""
        return self._metric.divergence(super().divergence)

    @property
    def loss_limit(self) -> float:
        """A loss so high that an update is made at once; infinite while a blow-up is under way already."""
        if not self._metric.plain or not self._noise:
            return math.inf
        return self.limit(float(np.median(self._noise)))

    def judge(self, pending: LossBuffer, forecast: Forecast, plan: Plan, *, blown: bool) -> Block | None:
        """Judge the losses since the last update.

        Args:
            pending: Those losses.
            forecast: The forecast made after them, on the scale of the law.
            plan: The plan of the run.
            blown: Whether the last of them was above :attr:`loss_limit`.

        Returns:
            Their summary in the units of the metric, ``None`` when none was finite.
        """
        block = self._block(pending)
        block = block and replace(block, rate=float(plan.at([max(forecast.step, 1)])[0]), blown=blown)
        if "noise" in forecast.params and not self.deviation.alarm:
            # Kept per single loss; bins and blocks hold different numbers of them.
            per_loss = forecast.params["noise"] * math.sqrt(forecast.params["losses_per_point"])
            self._noise = [*self._noise, per_loss][-self._config.noise_memory :]
        own = forecast if forecast.own_path is None else replace(forecast, path=forecast.own_path)
        past_runs = None
        if forecast.peer_path is not None:
            past_runs = replace(forecast, path=forecast.peer_path, valid_until=math.inf)
        before = self.deviation
        verdict = self.update(self._metric.block(block), References(own, past_runs, _is_testable(forecast, plan)))
        self.deviation = before if verdict is before else self._metric.deviation(verdict, block)
        return block

    def _block(self, pending: LossBuffer) -> Block | None:
        # The median noise of fits made before this block: a fault must not widen the interval it is judged by.
        noise = float(np.median(self._noise)) / math.sqrt(max(len(pending), 1)) if self._noise else 0.0
        steps, losses = pending.means
        if noise and not self._metric.plain and len(pending):
            noise = self._metric.noise(float(np.mean(losses)), noise)
        return Block.of(steps, losses, noise, self._config)

    def would_alarm(self, pending: LossBuffer) -> bool:
        """Whether an update made now, of the losses since the last one, would raise an alarm."""
        block = self._metric.block(self._block(pending))
        return block is not None and self.peek(block)

    def reset(self) -> None:
        """Forget everything, as where it was measured on another scale."""
        super().reset()
        self._noise = []

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs, as builtins."""
        return {**super().state_dict(), "noise": list(self._noise)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from what :meth:`state_dict` returned."""
        super().load_state_dict(state)
        self._noise = list(state["noise"])
