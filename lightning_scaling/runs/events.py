"""Events of a monitored run, in order, and the run that holds them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lightning_scaling.runs.curve import LossBlock
from lightning_scaling.runs.run import Run
from lightning_scaling.schedule.plan import Plan


@dataclass(frozen=True)
class RunStarted:
    """Training began, or went on from a checkpoint.

    Attributes:
        plan: The plan from here on.
        resumed: Whether the monitor went on from what it knew at this point of the recording.
        state: State that the monitor went on from, where the recording does not hold what led to it.
        next_update: Step at which the next update was due; ``None`` where that is not known.
    """

    plan: Plan
    resumed: bool = False
    state: Mapping[str, Any] | None = None
    next_update: int | None = None


@dataclass(frozen=True)
class LossesObserved:
    """Losses reached the monitor together, and it made these updates of them.

    Attributes:
        block: The losses.
        updates: Steps of the updates, in order; those that would have taken too long were left out.
    """

    block: LossBlock
    updates: tuple[int, ...] = ()


@dataclass(frozen=True)
class UpdateMade:
    """The monitor made an update though none was due, as at the end of training.

    Attributes:
        step: The step.
    """

    step: int


@dataclass(frozen=True)
class ChangeMarked:
    """A change was announced.

    Attributes:
        reason: What changed.
        follow_rates: Whether the learning rate left the plan.
        resumed: Whether nothing was changed: the run went on from a checkpoint.
    """

    reason: str
    follow_rates: bool = False
    resumed: bool = False


@dataclass(frozen=True)
class PlanReplaced:
    """The plan turned out to be another one.

    Attributes:
        plan: The plan from here on.
    """

    plan: Plan


@dataclass(frozen=True)
class PriorLearned:
    """The monitor took its prior from past runs.

    Attributes:
        step: Step from which on the prior holds.
        source: Where the past runs came from.
        runs: Their ids, or names where they have none.
        calibration: The correction of the intervals, as builtins; ``None`` if there was none.
    """

    step: int
    source: str
    runs: tuple[str, ...] = ()
    calibration: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class DiagnosticsReported:
    """Diagnostics were reported, in addition to the losses.

    Attributes:
        facts: The diagnostics by name, as builtins.
    """

    facts: Mapping[str, Any]


Event = RunStarted | LossesObserved | UpdateMade | ChangeMarked | PlanReplaced | PriorLearned | DiagnosticsReported


class RecordedRun(Run):
    """A run with all that its live monitor was given, from which a replay makes the same updates.

    Args:
        *curve: Columns of :class:`Run`.
        events: The events in order, from the first :class:`RunStarted` on.
        settings: Settings of the monitor, as arguments of :class:`~lightning_scaling.engine.monitor.Monitor`.
        said: The updates it made, as builtins.
        gaps: Sentences on what the recording lacks, so that a replay may differ; empty when nothing is missing.
        **known: Further arguments of :class:`Run`.

    Raises:
        ValueError: If the arrays do not describe a curve.
    """

    events: tuple[Event, ...]
    settings: dict[str, Any]
    said: tuple[dict[str, Any], ...]
    gaps: tuple[str, ...]

    def __init__(
        self,
        *curve: Any,
        events: Sequence[Event],
        settings: Mapping[str, Any],
        said: Sequence[dict[str, Any]] = (),
        gaps: Sequence[str] = (),
        **known: Any,
    ) -> None:
        super().__init__(*curve, **known)
        self.__dict__.update(events=tuple(events), settings=dict(settings), said=tuple(said), gaps=tuple(gaps))

    @property
    def plan(self) -> Plan:
        """The plan that was in force at the end of the recording."""
        return next(event.plan for event in reversed(self.events) if isinstance(event, RunStarted | PlanReplaced))

    @property
    def priors_learned(self) -> list[PriorLearned]:
        """When the monitor took its prior from past runs, and from which."""
        return [event for event in self.events if isinstance(event, PriorLearned)]
