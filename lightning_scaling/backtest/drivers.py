"""Drivers of the engine over recorded runs: plain curves, and journals with all that happened on the way."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from lightning_scaling._utils.formatting import plural
from lightning_scaling.engine.config import MonitorConfig
from lightning_scaling.engine.monitor import Monitor
from lightning_scaling.engine.records import Update
from lightning_scaling.forecast.calibration import Calibration
from lightning_scaling.runs import events
from lightning_scaling.runs.curve import LossBlock
from lightning_scaling.runs.events import Event, LossesObserved, PriorLearned, RecordedRun, RunStarted
from lightning_scaling.runs.history import RunHistory
from lightning_scaling.runs.run import Run


class Driver:
    """Shows a recorded run to a monitor: its curve, or event by event what its own monitor was given.

    Args:
        run: The run.
        history: Past runs to learn from.
        **settings: Settings of the monitor in place of the run's own, ``None`` for its own or the default.

    Attributes:
        monitor: The monitor, once something has been shown to it.
    """

    monitor: Monitor

    def __init__(self, run: Run, history: RunHistory | None = None, **settings: Any) -> None:
        self._history = history
        self._curve: LossBlock | None = None
        self._updates_made: frozenset[int] = frozenset()
        self._events: Sequence[Event]
        if isinstance(run, RecordedRun):
            known, self._events = run.settings, run.events
            history = None if run.priors_learned else history
        else:
            meta = run.meta
            known = {"params": run.params, "monitor": meta.get("metric"), "mode": meta.get("mode", "auto")}
            known["bounds"] = meta.get("bounds")
            self._curve = _losses_of(run)
            self._events = RunStarted(run.plan), LossesObserved(self._curve)
        given = {name: value for name, value in settings.items() if value is not None}
        self._config = MonitorConfig(history=history, **{**known, **given})

    def whole(self) -> list[Update]:
        """The updates of the whole run."""
        updates = [update for event in self._events for update in self._take(event)]
        return updates + self.monitor.finish(update=self._curve is not None)

    def asked(self, limits: Sequence[int]) -> dict[int, Update]:
        """An update at each of some steps, in order: the one made live, else one made of what had been seen by then."""
        if self._curve is not None:
            return dict(self._asked_of(self._curve, limits))
        found: dict[int, Update] = {}
        waiting = [*limits]
        for event in self._events:
            if isinstance(event, LossesObserved) and len(event.block):
                while waiting and waiting[0] < event.block.step[-1]:
                    limit = waiting.pop(0)
                    if limit not in found:
                        found[limit] = self._between(event, limit)
            found.update((update.step, update) for update in self._take(event))
        return {limit: found[limit] if limit in found else self.monitor.update(limit) for limit in limits}

    def _asked_of(self, curve: LossBlock, limits: Sequence[int]) -> Iterator[tuple[int, Update]]:
        self._take(self._events[0])
        shown = 0
        for limit in limits:
            seen = int(np.searchsorted(curve.step, limit, "right"))
            self._see(LossesObserved(curve[shown:seen]))
            yield limit, self.monitor.update(limit)
            shown = seen

    def _between(self, event: LossesObserved, limit: int) -> Update:
        """An update amid losses that came together; it leaves no trace."""
        kept, self.monitor = self.monitor, copy.deepcopy(self.monitor)
        seen = int(np.searchsorted(event.block.step, limit, "right"))
        try:
            made = self._see(LossesObserved(event.block[:seen], event.updates))
            return next((u for u in made if u.step == limit), None) or self.monitor.update(limit)
        finally:
            self.monitor = kept

    def _take(self, event: Event) -> list[Update]:
        if isinstance(event, RunStarted):
            self._begin(event)
        elif isinstance(event, LossesObserved):
            return self._see(event)
        elif isinstance(event, events.UpdateMade):
            return [self.monitor.update()]
        elif isinstance(event, events.ChangeMarked):
            self.monitor.mark(event.reason, follow_rates=event.follow_rates, resumed=event.resumed)
        elif isinstance(event, events.PlanReplaced):
            self.monitor.replan(event.plan)
        elif isinstance(event, events.DiagnosticsReported):
            self.monitor.note(event.facts)
        elif self._history is not None:
            self.monitor.learn(runs_learned_from(self._history, event)[0])
        return []

    def _begin(self, event: RunStarted) -> None:
        state = self.monitor.state_dict() if event.resumed else event.state
        skip = (lambda step: step not in self._updates_made) if self._curve is None else None
        self.monitor = Monitor(event.plan, self._config, skip=skip)
        if state is not None:
            self.monitor.load_state_dict(state)
            if self.monitor.plan.to_dict() != event.plan.to_dict():
                self.monitor.replan(event.plan)
        if event.next_update is not None:
            self.monitor.next_update = event.next_update

    def _see(self, event: LossesObserved) -> list[Update]:
        self._updates_made = frozenset(event.updates)
        updates = self.monitor.observe(**event.block.columns())
        last = self.monitor.curve.last_step
        if last in event.updates and not (updates and updates[-1].step == last):
            updates.append(self.monitor.update())  # though none was due, as at the end of training
        return updates


def _losses_of(run: Run) -> LossBlock:
    """The rows of a run that hold a loss."""
    recorded = ~np.isnan(run.loss)
    step = run.step[recorded]
    counts = {"tokens": run.tokens_per_step, "flops": run.flops_per_step}
    columns = {name: None if count is None else step * count for name, count in counts.items()}
    return LossBlock.of(step, run.loss[recorded], lr=None if run.lr is None else run.lr[recorded], **columns)


def runs_learned_from(history: RunHistory, learned: PriorLearned) -> tuple[RunHistory, bool]:
    """The past runs that a live run learned from, as far as a history has them.

    Args:
        history: Past runs.
        learned: What the journal says of them.

    Returns:
        Those runs in the order in which they were used, or the whole history where not all of them are in it; and
        whether they are.
    """
    known = {str(run.meta.get("run_id") or run.name): run for run in history}
    complete = bool(learned.runs) and all(one in known for one in learned.runs)
    found = history.with_runs([known[one] for one in learned.runs] if complete else history)
    found.calibration = None if learned.calibration is None else Calibration.from_dict(learned.calibration)
    return found, complete


def differing(run: Run, history: RunHistory | None) -> Iterator[str]:
    """Why a replay of a run from its journal may say other numbers than were said live, a sentence each.

    Args:
        run: The run.
        history: The past runs the replay is given.
    """
    if not isinstance(run, RecordedRun):
        return
    for gap in run.gaps:
        yield f"{gap[:1].upper()}{gap[1:]}, so the numbers may differ from the live ones."
    for event in run.priors_learned:
        learned = f"At step {event.step:,} the run learned from {plural(len(event.runs), 'run')} of {event.source}"
        if history is None:
            yield f"{learned}; this replay has none of them: its numbers after that step differ from the live ones."
        elif not runs_learned_from(history, event)[1]:
            yield f"{learned}, not all of which are in the history given: all of it is used in their place."
