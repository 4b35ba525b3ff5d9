"""Backtests of many recorded runs, each with the past runs that it could have learned from."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import numpy as np

from lightning_scaling._utils.enums import StrEnum
from lightning_scaling._utils.formatting import plural
from lightning_scaling.backtest.single_run import ACTIONS, FRACTIONS, Replay
from lightning_scaling.runs.history import RunHistory
from lightning_scaling.runs.replicates import replicate_matrix
from lightning_scaling.runs.run import Run

AUTO: Literal["auto"] = "auto"
MAX_PAST_RUNS = 100
"""Past runs of one run; more cost time and say little that is new."""
MIN_PAST_RUNS = 2
"""Past runs that a prior needs."""


class HistorySource(StrEnum):
    """The choice of the past runs of each run of a collection."""

    EARLIER_RUNS = "earlier_runs"
    OTHER_RUNS = "other_runs"
    GIVEN_RUNS = "given_runs"
    NONE = "none"


@dataclass(frozen=True)
class Quality:
    """How good the forecasts made at one part of the runs were.

    Attributes:
        fraction: The part of the run.
        count: How many there are.
        median_error: Median of their relative errors without sign; ``nan`` without any.
        covered: Share of the outcomes within the 90 % interval; ``nan`` without any.
    """

    fraction: float
    count: int
    median_error: float
    covered: float


@dataclass(frozen=True)
class ReplayCollection:
    """Replays of many runs, and what they add up to.

    Attributes:
        replays: The replays, in the order of the runs.
        history_source: The past runs of each: ``"earlier_runs"``, those that had ended before the run began;
            ``"other_runs"``, all but its replicates; ``"given_runs"``; or ``"none"``.
        skipped: How many runs were left out, by reason.
    """

    replays: list[Replay]
    history_source: HistorySource
    skipped: dict[str, int] = field(default_factory=dict)

    @property
    def with_history(self) -> int:
        """Runs that had the two past runs which a prior needs."""
        return sum(one.past_runs >= MIN_PAST_RUNS for one in self.replays)

    def __repr__(self) -> str:
        ended = sum(one.outcome is not None for one in self.replays)
        return f"ReplayCollection({plural(len(self.replays), 'run')}, {ended:,} finished, {self.history_source})"

    def quality(self, fraction: float) -> Quality:
        """How good the forecasts made at one part of the runs were, compared with the outcomes."""
        checks = [check for one in self.replays for check in one.checks((fraction,))]
        if not checks:
            return Quality(fraction, 0, math.nan, math.nan)
        error = float(np.median([abs(check.error) for check in checks]))
        return Quality(fraction, len(checks), error, float(np.mean([check.inside for check in checks])))

    @property
    def compute(self) -> tuple[str, float, float]:
        """What compute is counted in, how much was planned, and how much of that following every stop had saved.

        Counted are FLOPs where they are known of all runs, else 6 N D, else tokens (or samples), else steps.
        """
        runs = [one.run for one in self.replays]
        ways: dict[str, list[float]] = {
            "FLOPs": [run.flops_per_step or 0.0 for run in runs],
            "FLOPs (6 N D)": [6.0 * (run.params or 0) * (run.tokens_per_step or 0) for run in runs],
            "tokens or samples": [run.tokens_per_step or 0.0 for run in runs],
            "steps": [1.0 for _ in runs],
        }
        unit, each = next((unit, costs) for unit, costs in ways.items() if all(costs))
        planned = [cost * run.total_steps for cost, run in zip(each, runs, strict=True)]
        saved = sum(cost * one.saved for cost, one in zip(planned, self.replays, strict=True))
        return unit, float(sum(planned)), float(saved)

    def summary(self) -> dict[str, Any]:
        """The totals as builtins.

        Returns:
            ``runs``, and how many ``reached_their_end``; ``skipped`` by reason; ``history_source``, ``with_history``;
            ``forecasts``, the :meth:`quality` at each of the fractions as dicts; number of ``alarms``; ``advice``, the
            number of runs by gravest action; ``compute``: ``unit``, ``planned``, ``saved`` and the ``share`` saved.
        """
        unit, planned, saved = self.compute
        actions = [one.advised.advice.action for one in self.replays if one.advised is not None]
        return {
            "runs": len(self.replays),
            "reached_their_end": sum(one.outcome is not None for one in self.replays),
            "skipped": dict(self.skipped),
            "history_source": str(self.history_source),
            "with_history": self.with_history,
            "forecasts": [asdict(self.quality(fraction)) for fraction in FRACTIONS],
            "alarms": sum(one.alarm is not None for one in self.replays),
            "advice": {action: actions.count(action) for action in ACTIONS},
            "compute": {"unit": unit, "planned": planned, "saved": saved, "share": saved / planned if planned else 0.0},
        }

    def to_dict(self) -> dict[str, Any]:
        """Every attribute by its name, as builtins: ``replays`` as the dicts of their own."""
        replays, source = [one.to_dict() for one in self.replays], self.history_source.value
        return {**vars(self), "replays": replays, "history_source": source}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> ReplayCollection:
        """The collection that :meth:`to_dict` described."""
        replays = [Replay.from_dict(one) for one in data["replays"]]
        return cls(replays, HistorySource(data["history_source"]), dict(data["skipped"]))


def replay_many(
    runs: Iterable[Run],
    *,
    history: RunHistory | Literal["auto"] | None = AUTO,
    alpha: float | None = None,
    target: float | None = None,
    skipped: Mapping[str, int] | None = None,
    each: Callable[[Replay], object] | None = None,
) -> ReplayCollection:
    """Replay many runs, each with its past runs as a history.

    Args:
        runs: The runs, such as a :class:`RunHistory`.
        history: Past runs of each run. ``"auto"``: of its family those that had ended before it began, where all runs
            know when they began; else all others of its family but its replicates (of its size, length and schedule),
            which may be later. A given history is used for every run, without the run itself; ``None`` uses none.
        alpha: Probability of a false alarm over each run; see :func:`replay`.
        target: Loss the user wants to reach.
        skipped: Runs left out already, by reason; left out, those of the history.
        each: Called with each replay once it is made.

    Returns:
        The replays.

    Raises:
        ValueError: If an argument is out of its range.
    """
    chosen = list(runs)
    if skipped is None:
        skipped = runs.skipped if isinstance(runs, RunHistory) else {}
    histories: Sequence[RunHistory | None]
    if history is None:
        source, histories = HistorySource.NONE, [None] * len(chosen)
    elif isinstance(history, RunHistory):
        source, histories = HistorySource.GIVEN_RUNS, [without(history, run) for run in chosen]
    else:
        source, histories = past_runs_of(chosen)
    replays = []
    for run, past in zip(chosen, histories, strict=True):
        replays.append(Replay.of(run, history=past or None, alpha=alpha, target=target))
        if each is not None:
            each(replays[-1])
    return ReplayCollection(replays, source, dict(skipped))


def past_runs_of(runs: Sequence[Run]) -> tuple[HistorySource, list[RunHistory]]:
    """For each run its past runs among the others, and how they were chosen.

    At most 100 for one run: the latest that had ended, or those nearest in size.

    Args:
        runs: The runs.
    """
    times = [(_time(run, "start_time"), _time(run, "end_time")) for run in runs]
    if runs and all(began is not None for began, _ in times):
        ended = sorted((end, i) for i, (_, end) in enumerate(times) if end is not None)
        earlier = [
            [runs[i] for end, i in ended if end <= (began or 0.0) and runs[i].family == run.family]
            for (began, _), run in zip(times, runs, strict=True)
        ]
        return HistorySource.EARLIER_RUNS, [RunHistory(past[-MAX_PAST_RUNS:]) for past in earlier]
    apart = ~replicate_matrix([run.plan for run in runs], [run.params for run in runs])
    found = []
    for i, run in enumerate(runs):
        others = [
            j for j in np.flatnonzero(apart[i]).tolist() if runs[j].family == run.family and not same(runs[j], run)
        ]
        others.sort(key=lambda j: abs(math.log((runs[j].params or 1) / (run.params or 1))))
        found.append(RunHistory([runs[j] for j in sorted(others[:MAX_PAST_RUNS])]))
    return HistorySource.OTHER_RUNS, found


def without(history: RunHistory, run: Run) -> RunHistory:
    """A history without one run, should it be in there."""
    return history.with_runs(one for one in history if not same(one, run))


def same(one: Run, other: Run) -> bool:
    """Whether two records are of one run: the same object, the same id, or the same curve under the same name."""
    if one is other:
        return True
    ids = (one.meta.get("run_id"), other.meta.get("run_id"))
    if None not in ids:
        return ids[0] == ids[1]
    return one.name == other.name and one.step[-1] == other.step[-1] and one.loss[-1] == other.loss[-1]


def _time(run: Run, name: str) -> float | None:
    value = run.meta.get(name)
    return float(value) if isinstance(value, int | float) else None
