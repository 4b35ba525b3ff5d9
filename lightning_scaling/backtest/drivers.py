"""Drives the engine over recorded runs: plain curves, and journals with all that happened on the way."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

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

_ALPHA = 0.01


class Driver:
    """Shows a recorded run to a monitor.

    Args:
        run: The run.
        history: Past runs to learn from.
        alpha: In place of the run's own, or of 0.01.
        target: In place of the run's own.
        unique: Distinct tokens (or samples) there are, in place of the run's own.

    Attributes:
        monitor: The monitor, once something has been shown to it.
    """

    def __init__(
        self,
        run: Run,
        history: RunHistory | None,
        alpha: float | None,
        target: float | None,
        unique: float | None = None,
    ) -> None:
        self._run = run
        self.monitor = Monitor(
            run.plan,
            alpha=_ALPHA if alpha is None else alpha,
            target=target,
            history=history,
            params=run.params,
            monitor=run.meta.get("metric"),
            mode=run.meta.get("mode", "auto"),
            bounds=run.meta.get("bounds"),
            unique_tokens=unique,
        )

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
    """Goes through a recording event by event; arguments as :class:`Driver`."""

    def __init__(
        self,
        recording: RecordedRun,
        history: RunHistory | None,
        alpha: float | None,
        target: float | None,
        unique: float | None = None,
    ) -> None:
        self._recording = recording
        other = {"alpha": alpha, "target": target, "unique_tokens": unique}
        self._settings = {**recording.settings, **{key: value for key, value in other.items() if value is not None}}
        self._history = history
        self._from_start = None if recording.taught else history
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
            self.monitor.learn(lesson_of(self._history, event)[0])
        return []

    def _begin(self, event: RunStarted) -> None:
        state: Mapping[str, Any] | None = self.monitor.state_dict() if event.resumed else event.state
        self.monitor = Monitor(
            event.plan, history=self._from_start, skip=lambda step: step not in self._made, **self._settings
        )
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


def lesson_of(history: RunHistory, lesson: PriorLearned) -> tuple[RunHistory, bool]:
    """What a live run learned from, as far as a history has it.

    Args:
        history: Past runs.
        lesson: What the journal says of those learned from.

    Returns:
        Those runs in the order in which they taught, or the whole history where not all of them can be told; and
        whether they could.
    """
    known = {str(run.meta.get("run_id") or run.name): run for run in history}
    told = bool(lesson.runs) and all(one in known for one in lesson.runs)
    found = RunHistory([known[one] for one in lesson.runs] if told else history, source=history.source)
    found.calibration = None if lesson.calibration is None else Calibration.from_dict(lesson.calibration)
    return found, told


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
    for lesson in run.taught:
        count = len(lesson.runs)
        learned = f"At step {lesson.step:,} the run learned from {count:,} {'run' if count == 1 else 'runs'} of "
        learned += lesson.source
        if history is None:
            yield f"{learned}; this replay has none of them: its numbers after that step differ from the live ones."
        elif not lesson_of(history, lesson)[1]:
            yield f"{learned}, not all of which are in the history given: all of it is used in their place."
