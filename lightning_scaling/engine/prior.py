"""The prior of a run's forecasts: published, or from past runs, on the scale of its metric."""

from __future__ import annotations

import numpy as np

from lightning_scaling.engine.metric import FollowedMetric
from lightning_scaling.forecast import PUBLISHED, family_prior
from lightning_scaling.forecast.calibrated import with_calibration
from lightning_scaling.forecast.forecaster import PriorSource
from lightning_scaling.runs.curve import Points
from lightning_scaling.runs.history import RunHistory


class PriorProvider:
    """Holds the source of priors of a run's forecasts and keeps it up to date.

    Args:
        metric: The metric that is followed.
        params: Number of parameters of the run.
        history: Past runs of its family.
    """

    def __init__(self, metric: FollowedMetric, params: int | None, history: RunHistory | None) -> None:
        self._metric = metric
        self._params = params
        self._history = history
        self._sized = False
        self.source: PriorSource = PUBLISHED
        self.again()

    def again(self) -> None:
        """Rebuild the prior from the history on the scale of the law, which must hold its values too."""
        for run in () if self._metric.plain else self._history or ():
            self._metric.see(run.loss)
        self._metric.settle()
        self._sized = False
        self._take(family_prior(self._metric.history(self._history), self._params), self._history)

    def learn(self, history: RunHistory, prior: PriorSource | None) -> bool:
        """Take a history that has arrived.

        Args:
            history: The past runs.
            prior: The prior made of them for a loss, where it is known already.

        Returns:
            Whether the scale of the metric has changed with it.
        """
        scale = self._metric.scale
        self._sized = False
        if prior is not None and self._metric.plain:
            self._take(prior, history)
        else:
            self._history = history
            self.again()
        return self._metric.scale != scale

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

    def _take(self, source: PriorSource, history: RunHistory | None) -> None:
        """Correct the intervals by the history's calibration, which is one of losses."""
        self.source = with_calibration(
            source, None if history is None or not self._metric.plain else history.calibration
        )
