"""The prior of a run's forecasts: published, or from past runs, on the scale of its metric."""

from __future__ import annotations

import numpy as np

from lightning_scaling.engine.config import MonitorConfig
from lightning_scaling.engine.metric import FollowedMetric
from lightning_scaling.forecast import family_prior
from lightning_scaling.forecast.calibrated import with_calibration
from lightning_scaling.forecast.forecaster import PriorSource
from lightning_scaling.runs.curve import Points
from lightning_scaling.runs.history import RunHistory


class PriorProvider:
    """Holds the source of priors of a run's forecasts and keeps it up to date.

    Args:
        metric: The metric that is followed.
        config: The settings: parameters of the run, past runs of its family, and the tuned numbers of the forecasts.
    """

    def __init__(self, metric: FollowedMetric, config: MonitorConfig) -> None:
        self._metric = metric
        self._config = config
        self.use(config.history)

    def use(self, history: RunHistory | None, prior: PriorSource | None = None) -> bool:
        """Take the prior from a history, on the scale of the law, which must hold its values too.

        Args:
            history: The past runs; their calibration, which is one of losses, corrects the intervals.
            prior: The prior made of them for a loss, where it is known already.

        Returns:
            Whether the scale of the metric has changed with it.
        """
        metric, scale = self._metric, self._metric.scale
        self._history = history
        self._sized = False
        if prior is None or not metric.plain:
            for run in () if metric.plain else history or ():
                metric.see(run.loss)
            metric.settle()
            prior = family_prior(metric.history(history), self._config.params, config=self._config.forecast)
        calibration = None if history is None or not metric.plain else history.calibration
        self.source: PriorSource = with_calibration(prior, calibration)
        return metric.scale != scale

    def again(self) -> None:
        """Rebuild the prior from its history on the present scale of the law."""
        self.use(self._history)

    def size(self, points: Points) -> bool:
        """Compare past runs by the tokens of their steps, too, known once something has been counted.

        Returns:
            Whether that changes the source of priors.
        """
        known = np.flatnonzero(np.isfinite(points.tokens) & (points.tokens > 0))
        if self._sized or not known.size:
            return False
        self._sized = True
        before = self.source
        self.source = before.with_batch_size(float(points.tokens[known[0]] / points.last[known[0]]))
        return self.source is not before
