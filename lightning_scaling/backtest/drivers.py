"""Drivers of the engine over recorded runs: plain curves, and journals with all that happened on the way."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from lightning_scaling._utils.formatting import plural
from lightning_scaling.engine.config import MonitorConfig
from lightning_scaling.engine.forecast_log import settle
from lightning_scaling.engine.monitor import Monitor, Update
from lightning_scaling.forecast.calibration import Calibration
from lightning_scaling.runs.events import (
    ChangeMarked,
    DiagnosticsReported,
    Event,
    LossesObserved,
    PlanReplaced,
    PriorLearned,
    RecordedRun,
    RunStarted,
    UpdateMade,
)
from lightning_scaling.runs.history import RunHistory
from lightning_scaling.runs.run import Run


class Driver:
    """Shows a recorded run to a monitor.

    Args:
        run: The run.
        history: Past runs to learn from.
        **settings: Settings of the monitor in place of the run's own, ``None`` for its own or the default.

    Attributes:
        monitor: The monitor, once something has been shown to it.
    """

    monitor: Monitor

    def __init__(self, run: Run, history: RunHistory | None, **settings: Any) -> None:
        self._run = run
        self._show_from_start(run, history, {name: value for name, value in settings.items() if value is not None})

    def _show_from_start(self, run: Run, history: RunHistory | None, settings: dict[str, Any]) -> None:
        followed = {
            "monitor": run.meta.get("metric"),
            "mode": run.meta.get("mode", "auto"),
            "bounds": run.meta.get("bounds"),
        }
        self.monitor = Monitor(run.plan, history=history, params=run.params, **followed, **settings)

    def whole(self) -> list[Update]:
        """The updates of the whole run."""
        return self._feed(0, len(self._run)) + self.monitor.finish()

    def asked(self, limits: list[int]) -> dict[int, Update]:
        """An update at each of some steps, in order."""
        found: dict[int, Update] = {}
        done = 0
        for limit in limits:
            reached = int(np.searchsorted(self._run.step, limit, side="right"))
            self._feed(done, reached)
            found[limit] = self.monitor.update(limit)
            done = reached
        return found

    def _feed(self, begin: int, end: int) -> list[Update]:
        """Show the rows from one to another that hold a loss."""
        run, part = self._run, slice(begin, end)
        recorded = ~np.isnan(run.loss[part])
        step = run.step[part][recorded]
        return self.monitor.observe(
            step,
            run.loss[part][recorded],
            lr=None if run.lr is None else run.lr[part][recorded],
            tokens=None if run.tokens_per_step is None else step * run.tokens_per_step,
            flops=None if run.flops_per_step is None else step * run.flops_per_step,
        )


class JournalDriver(Driver):
    """Goes through a recorded run event by event; arguments as :class:`Driver`."""

    def __init__(self, recording: RecordedRun, history: RunHistory | None, **settings: Any) -> None:
        self._recording = recording
        self._history = history
        super().__init__(recording, history, **settings)

    def _show_from_start(self, run: Run, history: RunHistory | None, settings: dict[str, Any]) -> None:
        known = {**self._recording.settings, **settings}
        self._config = MonitorConfig(history=None if self._recording.priors_learned else history, **known)
        self._made: frozenset[int] = frozenset()

    def whole(self) -> list[Update]:
        """The updates of the whole run."""
        updates = [update for event in self._recording.events for update in self._take(event)]
        settle(self.monitor.forecast_log, self.monitor.curve.points, self.monitor.curve.last_step)
        return updates

    def asked(self, limits: list[int]) -> dict[int, Update]:
        """An update at each of some steps: the one made live, else one made of what had been seen by then."""
        found: dict[int, Update] = {}
        waiting = iter([*limits, math.inf])
        limit = next(waiting)
        for event in self._recording.events:
            if isinstance(event, LossesObserved):
                steps = event.block.step
                while steps.size and limit < steps[-1]:
                    if limit not in found:
                        found[int(limit)] = self._between(
                            event, int(np.searchsorted(steps, limit, "right")), int(limit)
                        )
                    limit = next(waiting)
            found.update((update.step, update) for update in self._take(event))
        for limit in limits:
            if limit not in found:
                found[limit] = self.monitor.update(limit)
        return found

    def _between(self, event: LossesObserved, seen: int, limit: int) -> Update:
        """An update amid losses that came together; it leaves no trace."""
        kept, self.monitor = self.monitor, copy.deepcopy(self.monitor)
        try:
            made = self._take(LossesObserved(event.block[:seen], event.updates))
            return next((u for u in made if u.step == limit), None) or self.monitor.update(limit)
        finally:
            self.monitor = kept

    def _take(self, event: Event) -> list[Update]:
        if isinstance(event, RunStarted):
            self._begin(event)
        elif isinstance(event, LossesObserved):
            return self._see(event)
        elif isinstance(event, UpdateMade):
            return [self.monitor.update()]
        elif isinstance(event, ChangeMarked):
            self.monitor.mark(event.reason, follow_rates=event.follow_rates)
        elif isinstance(event, PlanReplaced):
            self.monitor.replan(event.plan)
        elif isinstance(event, DiagnosticsReported):
            self.monitor.note(event.facts)
        elif self._history is not None:
            self.monitor.learn(runs_learned_from(self._history, event)[0])
        return []

    def _begin(self, event: RunStarted) -> None:
        state: Mapping[str, Any] | None = self.monitor.state_dict() if event.resumed else event.state
        self.monitor = Monitor(event.plan, self._config, skip=lambda step: step not in self._made)
        if state is not None:
            self.monitor.load_state_dict(state)
            if self.monitor.plan.to_dict() != event.plan.to_dict():
                self.monitor.replan(event.plan)
        if event.next_update is not None:
            self.monitor.next_update = event.next_update

    def _see(self, event: LossesObserved) -> list[Update]:
        self._made = frozenset(event.updates)
        updates = self.monitor.observe(**event.block.columns())
        last = self.monitor.curve.last_step
        if last in event.updates and not (updates and updates[-1].step == last):
            updates.append(self.monitor.update())  # though none was due, as at the end of training
        return updates


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
    found = RunHistory([known[one] for one in learned.runs] if complete else history, source=history.source)
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
