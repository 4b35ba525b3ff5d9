"""Ranking of a run in training among the other runs of its family; on rank zero only."""

from __future__ import annotations

from operator import itemgetter
from time import perf_counter
from typing import Any

import numpy as np

from lightning_scaling.advice.ranking import Candidate, Ranking, rank
from lightning_scaling.callbacks.session import Session
from lightning_scaling.history.reader_thread import CompetitorReader
from lightning_scaling.runs.history import RunHistory
from lightning_scaling.runs.run import Run
from lightning_scaling.schedule import Plan

_CHECK_EVERY, _FIRST_CHECK = 0.025, 0.1  # of the plan
_MAX_COMPETITORS = 12  # the best at this progress; the others cannot win
_FREE_SECONDS = 0.25  # that comparing may take, however short the run
_SAME_SCHEDULE = 0.02  # mean difference of relative rates up to which two runs follow one schedule


class Competitors:
    """The other runs of a family, compared with a run at checks spread over its plan.

    Args:
        session: The fit under observation.
    """

    def __init__(self, session: Session) -> None:
        self._session = session
        self._spent = 0.0
        self._checked = 0
        self._candidates: dict[tuple[Any, ...], Candidate] = {}
        self._ranking: Ranking | None = None
        source, known = session.past_runs.source, session.logger.own_run_fields
        metric = session.capture.metric
        self._reader = None if source is None else CompetitorReader(source, **known, metric=metric)

    def ranking(self) -> Ranking | None:
        """The latest ranking, made anew when a check is due and there is time for it."""
        session = self._session
        engine = session.engine
        runs = None if self._reader is None else self._reader.poll()
        runs = session.past_runs.runs if runs is None else runs
        if not runs or engine.plan.total_steps is None or not len(engine.curve):
            return self._ranking
        fraction = engine.curve.last_step / engine.plan.total_steps
        check = int(fraction / _CHECK_EVERY + 1e-9)
        late = self._spent > max(_FREE_SECONDS, session.budget.share * session.capture.seconds)
        if check > self._checked and _FIRST_CHECK <= fraction < 1 and not late:
            self._checked = check
            begun = perf_counter()
            try:
                self._ranking = self._rank(runs, fraction)
            finally:
                self._spent += perf_counter() - begun
        return self._ranking

    def _rank(self, runs: RunHistory, fraction: float) -> Ranking | None:
        engine = self._session.engine
        own = engine.run()
        scaled = engine.metric.history(RunHistory([own, *runs]))
        assert scaled is not None
        own, *others = scaled
        levels = [(level, run) for run in others if (level := _level(run, fraction)) is not None]
        candidates = {}
        for _, run in sorted(levels, key=itemgetter(0))[:_MAX_COMPETITORS]:
            key = (run.meta.get("run_id") or run.name, int(run.step[-1]), run.total_steps)
            candidate = self._candidates.get(key)
            if candidate is None and (planned := _planned(run, own)) is not None:
                candidate = Candidate(planned)
            if candidate is not None:
                candidates[key] = candidate
        self._candidates = candidates
        return rank([Candidate(own), *candidates.values()], fraction) if candidates else None


def _level(run: Run, fraction: float) -> float | None:
    """Loss at a fraction of the plan; ``None`` for a run that has not reached it."""
    seen = np.isfinite(run.loss)
    if not seen.any() or run.step[seen][-1] < 0.99 * fraction * run.total_steps:
        return None
    return float(np.interp(fraction * run.total_steps, run.step[seen], run.loss[seen]))


def _planned(run: Run, own: Run) -> Run | None:
    """The run with a plan to its end: a running one whose learning rate matched that of `own` so far gets its plan."""
    own_plan = own.plan
    if run.plan.known:
        return run
    if run.lr is None or not own_plan.known or own_plan.peak <= 0:
        return None
    seen = np.isfinite(run.lr)
    if not seen.any() or not np.nanmax(run.lr) > 0:
        return None
    share = run.step[seen] / run.total_steps
    expected = own_plan.at(np.maximum(share * own.total_steps, 1.0)) / own_plan.peak
    peak = float(np.max(run.lr[seen])) / max(float(expected.max()), 1e-9)
    if float(np.mean(np.abs(run.lr[seen] / peak - expected))) > _SAME_SCHEDULE:
        return None
    steps = np.maximum(own_plan.steps * (run.total_steps / own.total_steps), 0.0)
    rest = Plan(steps, own_plan.lr * (peak / own_plan.peak), total_steps=run.total_steps)
    fields = {name: value for name, value in vars(run).items() if name not in ("step", "loss", "lr", "planned_lr")}
    return Run(run.step, run.loss, run.lr, planned_lr=(rest.steps, rest.lr), **fields)
