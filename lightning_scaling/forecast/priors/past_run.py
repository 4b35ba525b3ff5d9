"""Features of a past run that priors are made from."""

from __future__ import annotations

import math
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from lightning_scaling.forecast.config import DEFAULT, ForecastConfig
from lightning_scaling.forecast.forecaster import Forecaster, Mixture
from lightning_scaling.forecast.law_grid import before
from lightning_scaling.forecast.priors.base import PUBLISHED, ShapePrior, shape_parameters
from lightning_scaling.forecast.priors.features import RunFeatures
from lightning_scaling.forecast.result import Forecast
from lightning_scaling.runs.curve import Curve
from lightning_scaling.runs.final_loss import is_finished
from lightning_scaling.runs.run import Run

_TINY_SLOPE = 1e-6  # relative; a rising shape gets the logarithm of this slope


class PastRun:
    """The digest of a past run: features, curve, shape under the published prior, and final loss or its forecast.

    Args:
        run: The run, finished or not.
        config: The tuned numbers.

    Attributes:
        run: The run.
        plan: Its plan.
        total_steps: Its planned steps.
        features: Size, length, tokens per step and schedule, as far as known.
        points: Its curve up to the end of the plan.
        reached: Last step with a finite loss.
        finished: Whether that is the end of the plan (:func:`~lightning_scaling.runs.final_loss.is_finished`).
    """

    def __init__(self, run: Run, config: ForecastConfig = DEFAULT) -> None:
        seen = np.isfinite(run.loss) & (run.step <= run.total_steps)
        self.run = run
        self._config = config.past_run
        self.plan = run.plan
        self.total_steps = run.total_steps
        self.features = RunFeatures.of(self.plan, run.params, run.tokens_per_step)
        curve = Curve(self.plan)
        curve.add(run.step[seen], run.loss[seen])
        self.points = curve.points
        self.reached = int(run.step[seen][-1]) if seen.any() else 0
        self.finished = is_finished(self.reached, run.total_steps)
        self._forecaster = Forecaster(self.plan, config=config)
        self._whole = self._forecaster.fit(self.points, self.reached) if seen.any() else None

    @property
    def is_usable(self) -> bool:
        """Whether a falling law could be fitted to the run, to a positive loss."""
        whole = self._whole
        return whole is not None and whole.path is not None and whole.is_falling and whole.final > 0

    @property
    def has_informative_shape(self) -> bool:
        """Whether its schedule is known, too."""
        return self.is_usable and self.plan.known

    def _fit(self) -> Forecast:
        assert self._whole is not None
        return self._whole

    @cached_property
    def shape(self) -> NDArray[np.float64]:
        """Means and standard deviations of the logarithms of alpha, kappa and slope, shape ``(3, 2)``.

        The likelihood alone: the published prior it was fitted under is divided out, so that many runs that never
        decayed do not add up to a certain gain of annealing.
        """
        path = self._fit().path
        assert isinstance(path, Mixture)
        level = abs(float(self.points.loss[-1]))
        slope = np.maximum(path.alpha * path.slope / level, _TINY_SLOPE)
        logs = np.log([path.alpha, path.kappa, slope])
        shown = []
        for log, (median, spread) in zip(logs, shape_parameters(self._forecaster.shape_prior), strict=True):
            mean = float(path.weight @ log)
            variance = float(path.weight @ (log - mean) ** 2) + self._config.min_shape_error**2
            precision = max(1 / variance - 1 / spread**2, self._config.min_precision_share / spread**2)
            at_first = math.log(median)
            shown.append((at_first + (mean - at_first) / (variance * precision), precision**-0.5))
        return np.array(shown)

    @cached_property
    def log_final_loss(self) -> tuple[float, float]:
        """Mean and standard deviation of the log final loss; of an unfinished run that of its forecast."""
        whole = self._fit()
        if not self.finished:
            end = whole.final_distribution
            return math.log(end), end.scale / float(end)
        late = self.points.last > (1 - self._config.final_window_share) * self.reached
        medians, _ = whole.curve(self.points.step[late])
        count = self.points.count[late]
        after = float(np.average(self.points.loss[late] - medians, weights=count))
        final = whole.final + after
        noise = whole.params["noise"] * math.sqrt(whole.params["losses_per_point"] / count.sum())
        return math.log(max(final, 1e-300)), math.hypot(noise / final, self._config.min_level_error)

    def forecast(self, fraction: float, prior: ShapePrior = PUBLISHED) -> tuple[float, float] | None:
        """Logarithm of the final loss as forecast at a fraction of the run, and the relative scale of its error."""
        now = int(fraction * self.total_steps)
        if now < 1 or now > self.reached:
            return None
        forecast = self._forecaster.with_prior(prior).fit(before(self.points, now), now)
        final = forecast.final_distribution
        if forecast.path is None or not forecast.is_falling or final <= 0:
            return None
        return math.log(final), final.scale / float(final)
