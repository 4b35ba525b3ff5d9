"""One past run, prepared to teach."""

from __future__ import annotations

import math
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from lightning_scaling.forecast.forecaster import Forecaster, Mixture
from lightning_scaling.forecast.priors.base import PUBLISHED, ShapePrior
from lightning_scaling.forecast.priors.gaussian_process import RunFeatures
from lightning_scaling.forecast.result import Forecast
from lightning_scaling.runs.curve import Curve, Points
from lightning_scaling.runs.run import Run

_REACHED = 0.98
_LANDED = 0.02
_LEAST_ERROR = 0.03
_LEAST_SHOWN = 0.05
_LEAST_LEVEL_ERROR = 2e-4
_NOT_SHOWN = 0.1


class PastRun:
    """A past run: its traits, the shape of its curve under the published prior, and where it landed or is going to.

    Args:
        run: The run, finished or not.
    """

    def __init__(self, run: Run) -> None:
        seen = np.isfinite(run.loss) & (run.step <= run.total_steps)
        self.run = run
        self.plan = run.plan
        self.total_steps = run.total_steps
        self.features = RunFeatures.of(self.plan, run.total_steps, run.params, run.tokens_per_step)
        curve = Curve(self.plan)
        curve.add(run.step[seen], run.loss[seen])
        self.points = curve.points
        self.reached = int(run.step[seen][-1]) if seen.any() else 0
        self.finished = self.reached >= _REACHED * run.total_steps
        self._forecaster = Forecaster(self.plan)
        self._whole = self._forecaster.fit(self.points, self.reached) if seen.any() else None

    @property
    def is_usable(self) -> bool:
        """Whether a falling law could be fitted to the run, to a positive loss."""
        whole = self._whole
        return whole is not None and whole.path is not None and whole.is_falling and whole.final > 0

    @property
    def has_informative_shape(self) -> bool:
        """Whether, besides, its schedule is known."""
        return self.is_usable and self.plan.known

    def _fit(self) -> Forecast:
        assert self._whole is not None
        return self._whole

    @cached_property
    def shape(self) -> NDArray[np.float64]:
        """Means and standard deviations of the logarithms of alpha, kappa and slope, shape ``(3, 2)``.

        What the curve itself has shown of them: the published belief it was fitted under is taken out again, lest many
        runs that never decayed add up to a certain gain of annealing.
        """
        path = self._fit().path
        assert isinstance(path, Mixture)
        level = abs(float(self.points.loss[-1]))
        logs = (np.log(path.alpha), np.log(path.kappa), np.log(np.maximum(path.alpha * path.slope / level, 1e-6)))
        prior = self._forecaster.prior
        beliefs = (
            (prior.alpha, prior.alpha_spread),
            (prior.kappa, prior.kappa_spread),
            (prior.slope, prior.slope_spread),
        )
        shown = []
        for log, (median, spread) in zip(logs, beliefs, strict=True):
            mean = float(path.weight @ log)
            variance = float(path.weight @ (log - mean) ** 2) + _LEAST_ERROR**2
            precision = max(1 / variance - 1 / spread**2, _LEAST_SHOWN / spread**2)
            at_first = math.log(median)
            shown.append((at_first + (mean - at_first) / (variance * precision), precision**-0.5))
        return np.array(shown)

    @cached_property
    def log_final_loss(self) -> tuple[float, float]:
        """Logarithm of the loss at the end of the plan and its standard deviation; forecast if it is not finished."""
        whole = self._fit()
        if not self.finished:
            end = whole.final_distribution
            return math.log(end), end.scale / float(end)
        late = self.points.last > (1 - _LANDED) * self.reached
        medians, _ = whole.curve(self.points.step[late])
        count = self.points.count[late]
        after = float(np.average(self.points.loss[late] - medians, weights=count))
        final = whole.final + after
        noise = whole.params["noise"] * math.sqrt(whole.params["losses_per_point"] / count.sum())
        return math.log(max(final, 1e-300)), math.hypot(noise / final, _LEAST_LEVEL_ERROR)

    def forecast(self, fraction: float, prior: ShapePrior = PUBLISHED) -> tuple[float, float] | None:
        """Logarithm of the final loss as forecast at a fraction of the run, and the relative scale of its error."""
        now = int(fraction * self.total_steps)
        if now < 1 or now > self.reached:
            return None
        forecast = self._forecaster.under(prior).fit(before(self.points, now), now)
        final = forecast.final_distribution
        if forecast.path is None or not forecast.is_falling or final <= 0:
            return None
        return math.log(final), final.scale / float(final)


def before(points: Points, step: int) -> Points:
    """The part of a curve up to a step."""
    kept = points.last <= step
    return Points(**{name: values[kept] for name, values in vars(points).items()})
