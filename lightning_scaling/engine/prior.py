"""What teaches the forecasts of a run: the published prior, or past runs, on the scale of its metric."""

from __future__ import annotations

import numpy as np

from lightning_scaling.engine.metric import FollowedMetric
from lightning_scaling.forecast import PUBLISHED, family_prior
from lightning_scaling.forecast.calibrated import with_calibration
from lightning_scaling.forecast.forecaster import PriorSource
from lightning_scaling.runs.curve import Points
from lightning_scaling.runs.history import RunHistory


class PriorProvider:
    """Holds the teacher of a run's forecasts and keeps it up to date.

    Args:
        measure: The metric that is followed.
        params: Number of parameters of the run.
        history: Past runs of its family.
    """

    def __init__(self, measure: FollowedMetric, params: int | None, history: RunHistory | None) -> None:
        self._measure = measure
        self._params = params
        self._history = history
        self._sized = False
        self.source: PriorSource = PUBLISHED
        self.again()

    def again(self) -> None:
        """Let the history say what it has to, on the scale of the law, which has to hold its values too."""
        for run in () if self._measure.plain else self._history or ():
            self._measure.see(run.loss)
        self._measure.settle()
        self._sized = False
        self._take(family_prior(self._measure.history(self._history), self._params), self._history)

    def learn(self, history: RunHistory, prior: PriorSource | None) -> bool:
        """Take a history that has arrived.

        Args:
            history: The past runs.
            prior: What they teach of a loss, where that is known already.

        Returns:
            Whether the scale of the metric has changed with it.
        """
        scale = self._measure.scale
        self._sized = False
        if prior is not None and self._measure.plain:
            self._take(prior, history)
        else:
            self._history = history
            self.again()
        return self._measure.scale != scale

    def size(self, points: Points) -> bool:
        """Liken relatives by the size of their steps, too, which is known once something has been counted.

        Returns:
            Whether that makes for another teacher.
        """
        known = np.flatnonzero(np.isfinite(points.tokens) & (points.tokens > 0))
        if self._sized or not known.size:
            return False
        self._sized = True
        before = self.source
        self.source = before.with_batch_size(float(points.tokens[known[0]] / points.last[known[0]]))
        return self.source is not before

    def _take(self, source: PriorSource, history: RunHistory | None) -> None:
        """The intervals are set right by the history's calibration, which is one of losses."""
        self.source = with_calibration(
            source, None if history is None or not self._measure.plain else history.calibration
        )
