"""How a run in training stands among the other runs of its family; on rank zero only."""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter
from typing import Any

import numpy as np

from lightning_scaling.advice.ranking import Candidate, Ranking, rank
from lightning_scaling.callbacks.session import Session
from lightning_scaling.engine.monitor import Monitor
from lightning_scaling.history.poll import CompetitorReader
from lightning_scaling.runs.history import RunHistory
from lightning_scaling.runs.run import Run
from lightning_scaling.schedule import Plan

_EVERY = 0.025
_FROM = 0.1
_MOST = 12
_FREE_SECONDS = 0.25
_ALIKE = 0.02


class Competitors:
    """The relatives of a run, compared with it at checks spread over its plan.

    Args:
        session: The fit under observation.
        reading: Whether to read the relatives again now and then, as far as they come from a place to be read.
        share: Fraction of the training time that comparing may take.
        clock: Monotonic clock in seconds.
    """

    def __init__(
        self, session: Session, *, reading: bool, share: float, clock: Callable[[], float] = perf_counter
    ) -> None:
        self._session = session
        self._share = share
        self._clock = clock
        self._spent = 0.0
        self._checked = 0
        self._made: dict[tuple[Any, ...], Candidate] = {}
        self._reader: CompetitorReader | None = None
        what = session.past.source
        if reading and what is not None:
            own = session.record.own_run
            self._reader = CompetitorReader(
                what,
                run_id=None if own is None else own.run_id,
                tracking_uri=None if own is None else own.tracking_uri,
                metric=session.capture.metric,
            )
        self.standings: Ranking | None = None

    def look(self) -> Ranking | None:
        """The latest standings, made anew when a check is due and there is time for it."""
        engine = self._session.engine
        known = self._reader.poll() if self._reader is not None else None
        runs = known if known is not None else self._session.past.runs
        if engine is None or not runs or engine.plan.total_steps is None or not len(engine.curve):
            return self.standings
        fraction = engine.curve.last_step / engine.plan.total_steps
        check = int(fraction / _EVERY + 1e-9)
        late = self._spent > max(_FREE_SECONDS, self._share * self._session.capture.seconds)
        if check <= self._checked or fraction < _FROM or fraction >= 1 or late:
            return self.standings
        self._checked = check
        begun = self._clock()
        try:
            self.standings = self._compare(engine, runs, fraction)
        finally:
            self._spent += self._clock() - begun
        return self.standings

    def _compare(self, engine: Monitor, runs: RunHistory, fraction: float) -> Ranking | None:
        own = engine.run()
        scaled = engine.metric.history(RunHistory([own, *runs]))
        assert scaled is not None
        own, *others = scaled
        level = {id(run): value for run in others if (value := _level(run, fraction)) is not None}
        ahead = sorted((run for run in others if id(run) in level), key=lambda run: level[id(run)])[:_MOST]
        keys = [(run.meta.get("run_id") or run.name, int(run.step[-1]), run.total_steps) for run in ahead]
        made = {}
        for key, run in zip(keys, ahead, strict=True):
            rival = self._made.get(key)
            if rival is None:
                planned = _planned(run, own)
                rival = None if planned is None else Candidate(planned)
            if rival is not None:
                made[key] = rival
        self._made = made
        return rank([Candidate(own), *made.values()], fraction) if made else None


def _level(run: Run, fraction: float) -> float | None:
    """Loss at a fraction of the plan; ``None`` for a run that has not come so far."""
    seen = np.isfinite(run.loss)
    if not seen.any() or run.step[seen][-1] < 0.99 * fraction * run.total_steps:
        return None
    return float(np.interp(fraction * run.total_steps, run.step[seen], run.loss[seen]))


def _planned(run: Run, own: Run) -> Run | None:
    """The run with a plan to its end; one still running whose rates were ours so far is taken to go on as we do."""
    plan, ours = run.plan, own.plan
    if plan.known:
        return run
    if run.lr is None or not ours.known or ours.peak <= 0:
        return None
    seen = np.isfinite(run.lr)
    if not seen.any() or not np.nanmax(run.lr) > 0:
        return None
    share = run.step[seen] / run.total_steps
    theirs = ours.at(np.maximum(share * own.total_steps, 1.0)) / ours.peak
    peak = float(np.max(run.lr[seen])) / max(float(theirs.max()), 1e-9)
    if float(np.mean(np.abs(run.lr[seen] / peak - theirs))) > _ALIKE:
        return None
    steps = np.maximum(ours.steps * (run.total_steps / own.total_steps), 0.0)
    rest = Plan(steps, ours.lr * (peak / ours.peak), total_steps=run.total_steps)
    known = {name: value for name, value in vars(run).items() if name not in ("step", "loss", "lr", "planned_lr")}
    return Run(run.step, run.loss, run.lr, planned_lr=(rest.steps, rest.lr), **known)
