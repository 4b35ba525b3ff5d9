"""The followed metric: between its units and the scale of the law."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lightning_scaling.detection import Block, Deviation, Divergence
from lightning_scaling.forecast import Forecast
from lightning_scaling.forecast.metric_scale import scale_of, scales_for
from lightning_scaling.runs.curve import Points
from lightning_scaling.runs.history import RunHistory
from lightning_scaling.runs.run import Run

LOSS = "loss"
RANGE_TOLERANCE = 0.01
"""Fraction of the range of a bounded metric that is taken for its noise, and for an interval narrow enough."""


class FollowedMetric:
    """The metric that a run is followed by; for a loss nothing is converted.

    Bounds that are not given are inferred from the values seen, the history's included: they can only widen.

    Args:
        monitor: Name of the metric; ``None`` is the training loss.
        mode: See :func:`~lightning_scaling.forecast.metric_scale.scales_for`.
        bounds: The same.

    Attributes:
        settings: The arguments, ``mode`` resolved, as builtins; a replay with the same settings gives the same numbers.
        scale: Between the metric and the scale of the law.
        name: What to call it in sentences.

    Raises:
        ValueError: If an argument has a value that it cannot have.
    """

    def __init__(
        self, monitor: str | None = None, mode: str = "auto", bounds: Sequence[float | None] | None = None
    ) -> None:
        self._scales = scales_for(monitor, mode, bounds)
        self._low, self._high = math.inf, -math.inf
        self.scale = self._scales[0]
        given = None if bounds is None else self.scale.to_dict()["bounds"]
        self.settings = {"monitor": monitor, "mode": self.scale.mode, "bounds": given}
        self.name = LOSS if self.scale.plain or not monitor or monitor == LOSS else monitor

    @property
    def plain(self) -> bool:
        """Whether the metric is a loss: nothing is converted then."""
        return len(self._scales) == 1 and self.scale.plain

    @property
    def sentence(self) -> str:
        """The assumptions about the metric, for the first line of a run; empty for a loss."""
        if self.plain:
            return ""
        guess = "" if len(self._scales) == 1 else " unless its values say otherwise"
        return f"`{self.name}`: {self.scale.sentence()}{guess}"

    def see(self, values: NDArray[np.float64]) -> None:
        """Take note of values of the metric."""
        finite = values[np.isfinite(values)]
        if len(self._scales) > 1 and finite.size:
            self._low, self._high = min(self._low, float(finite.min())), max(self._high, float(finite.max()))

    def settle(self) -> bool:
        """Take the scale that holds all values seen; returns whether it is another one than before."""
        if len(self._scales) == 1 or self._low > self._high:
            return False
        before, self.scale = self.scale, scale_of(self._scales, self._low, self._high)
        return self.scale != before

    def history(self, runs: RunHistory | None) -> RunHistory | None:
        """Past runs with their values on the scale of the law."""
        if self.plain or runs is None:
            return runs
        return runs.with_runs(map(self._on_law, runs))

    def _on_law(self, run: Run) -> Run:
        fields = {name: value for name, value in vars(run).items() if name not in ("step", "loss", "lr")}
        missing = np.isnan(run.loss)
        return Run(run.step, np.where(missing, np.nan, self.scale.to_law(run.loss)), run.lr, **fields)

    def points(self, points: Points) -> Points:
        """The curve on the scale of the law: means are taken in the units of the metric, then converted."""
        loss, spread = self.scale.to_law(points.loss), self.scale.spread_to_law(points.loss, points.spread)
        return replace(points, loss=loss, spread=spread)

    def noise(self, value: float, noise: float) -> float:
        """Noise on the scale of the law in the units of the metric, at a value of the metric."""
        return float(self.scale.spread_from_law(self.scale.to_law(value), noise))

    def block(self, block: Block | None) -> Block | None:
        """A block on the scale of the law; metrics between two bounds have noise of at least 1 % of the range."""
        if block is None:
            return None
        least = RANGE_TOLERANCE * (self.scale.high - self.scale.low)
        sd = math.hypot(block.sd, least if math.isfinite(least) else 0.0)
        loss, sd = self.scale.to_law(block.loss), float(self.scale.spread_to_law(block.loss, sd))
        return replace(block, loss=float(loss), sd=sd)

    def forecast(self, forecast: Forecast, *, known: bool = True, doubt: str = "") -> Forecast:
        """A forecast made on the scale of the law, in the units of the metric.

        Where the rates ahead are ``known`` and their fall has begun to show, the trust depends only on how precise the
        end is, and between two bounds that is judged in these units: to within 1 % of the range. A ``doubt`` lowers it.
        """
        converted = self._converted(forecast, known)
        return replace(converted, trust="low", why=doubt) if doubt and forecast.trust != "none" else converted

    def _converted(self, forecast: Forecast, known: bool) -> Forecast:
        converted = replace(forecast, scale=self.scale)
        if self.scale.mode == "max":
            converted = replace(converted, why=forecast.why.replace("curve is not falling", "curve is not rising"))
        near = RANGE_TOLERANCE * (self.scale.high - self.scale.low)
        whole = forecast.is_falling and forecast.at_plan_end and forecast.valid_until >= forecast.horizon
        if forecast.trust == "none" or not (whole and known and math.isfinite(near)):
            return converted
        lower, upper = converted.interval(0.9)
        if upper - lower <= 2 * near:
            return replace(converted, trust="ok", why="")
        return replace(converted, trust="low", why=f"the 90% interval is wider than {near:.2g} to either side")

    def deviation(self, deviation: Deviation, block: Block | None) -> Deviation:
        """A verdict reached on the scale of the law in the units of the metric, where ``block`` is."""
        if self.plain:
            return deviation
        expected = float(self.scale.from_law(deviation.expected))
        excess = math.nan if block is None else block.loss - expected
        direction = deviation.direction
        if direction is not None and self.scale.mode == "max":
            direction = "above" if direction == "below" else "below"
        return replace(deviation, expected=expected, excess=excess, direction=direction)

    def divergence(self, divergence: Divergence | None) -> Divergence | None:
        """A blow-up seen on the scale of the law, its best value in the units of the metric."""
        if divergence is None:
            return None
        return replace(divergence, best=float(self.scale.from_law(divergence.best)))

    def state_dict(self) -> dict[str, Any]:
        """The scale and the values seen, as builtins."""
        seen = [self._low, self._high] if self._low <= self._high else None
        return {**self.scale.to_dict(), "seen": seen}

    def load_state_dict(self, state: Mapping[str, Any]) -> bool:
        """Continue from what :meth:`state_dict` returned; returns whether the scale is what it was then."""
        if state["seen"] is not None:
            self.see(np.array(state["seen"]))
        self.settle()
        return self.scale.to_dict() == {"mode": state["mode"], "bounds": state["bounds"]}
