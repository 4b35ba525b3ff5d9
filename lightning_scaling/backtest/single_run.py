"""Backtest of one recorded run: the forecasts, alarms and advice that the monitor would have given."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from html import escape
from typing import Any

import numpy as np

from lightning_scaling._utils.formatting import plural
from lightning_scaling.advice.result import Action
from lightning_scaling.backtest.drivers import Driver
from lightning_scaling.engine.monitor import Monitor
from lightning_scaling.engine.records import LEVEL, Update
from lightning_scaling.runs.history import RunHistory
from lightning_scaling.runs.run import Run

FRACTIONS = (0.1, 0.25, 0.5, 0.75)
"""Parts of a run at which its forecasts are compared with the outcome."""
ACTIONS: tuple[Action, ...] = ("stop", "investigate", "resize")
"""Actions other than to continue, the gravest first."""


def replay(
    run: Run,
    *,
    history: RunHistory | None = None,
    at: Sequence[float] | None = None,
    alpha: float | None = None,
    target: float | None = None,
    unique_tokens: float | None = None,
) -> list[Update]:
    """Drive the engine of the callback over a recorded run; it sees the losses one by one and never looks ahead.

    A run that was read from its journal (:meth:`Run.from_journal`) is replayed with all that happened on the way:
    resumes, announced changes, updates left out for want of time. The numbers are then those that were said live.

    Args:
        run: The recorded run; its plan (``total_steps`` and planned rates) is known from the start.
        history: Finished runs of the same family. A run from a journal learns from them at the step at which it learned
            live, from those of them that it learned from, if it did.
        at: Fractions of ``total_steps``, each in ``(0, 1]``, at which an update is asked for. Left out, the updates are
            those the callback would have made, every 1 % of the plan.
        alpha: Probability of a false alarm over the whole run; left out, that of the journal, else 0.01.
        target: Loss the user wants to reach; left out, that of the journal, if there is one.
        unique_tokens: Distinct tokens (or samples) there were to train on, for a run that counts them; left out, what
            the journal tells.

    Returns:
        The updates in order: one for each fraction of ``at``, or all of them.

    Raises:
        ValueError: If ``at`` holds something other than fractions, or an argument is out of its range.

    Example:
        >>> steps = list(range(1, 201))
        >>> run = Run(steps, [3 + s ** -0.5 for s in steps], [1e-3] * 200, total_steps=200)
        >>> [update.step for update in replay(run, at=[0.25, 0.5])]
        [50, 100]
    """
    settings = {"alpha": alpha, "target": target, "unique_tokens": unique_tokens}
    if at is None:
        return Replay.of(run, history=history, **settings).updates
    fractions = [float(f) for f in at]
    if not all(0 < f <= 1 for f in fractions):
        raise ValueError(f"`at` must hold fractions of the run, each above 0 and at most 1, but got {list(at)!r}.")
    limits = {f: math.floor(f * run.total_steps + 1e-9) for f in fractions}
    asked = Driver(run, history, **settings).asked(sorted(set(limits.values())))
    return [asked[limits[fraction]] for fraction in fractions]


@dataclass(frozen=True)
class Check:
    """A forecast made at a part of a run, compared with the outcome.

    Attributes:
        fraction: The part of the run.
        step: Step at which the forecast was made.
        final: Median of the final loss.
        lower: Lower end of its 90 % interval.
        upper: Upper end.
        trust: Trust in the forecast.
        outcome: The final loss.
        error: ``(final - outcome) / outcome``.
        inside: Whether the outcome lies within the interval.
        quantile: Probability that the forecast gave to at most the outcome.
    """

    fraction: float
    step: int
    final: float
    lower: float
    upper: float
    trust: str
    outcome: float
    error: float
    inside: bool
    quantile: float


@dataclass(frozen=True)
class Replay:
    """A recorded run, the updates the monitor would have made of it, and the outcome.

    Attributes:
        run: The run.
        updates: All updates, in order.
        forecast_log: The forecasts as rows of ``Monitor.forecast_log``, with outcomes.
        outcome: Mean loss over the last 1 % of the plan; ``None`` if the run did not get there.
        past_runs: Number of past runs that it could learn from.
        metric: What to call the metric followed.
        rising: Whether it is to be high.
    """

    run: Run
    updates: list[Update]
    forecast_log: list[dict[str, Any]]
    outcome: float | None
    past_runs: int = 0
    metric: str = "loss"
    rising: bool = False

    @classmethod
    def of(cls, run: Run, *, history: RunHistory | None = None, **settings: Any) -> Replay:
        """Replay a run; arguments as :func:`replay`."""
        driver = Driver(run, history, **settings)
        updates, monitor = driver.whole(), driver.monitor
        metric, curve = monitor.metric, monitor.curve
        outcome = curve.points.final_loss(run.total_steps, reached=curve.last_step)
        rising = metric.scale.mode == "max"
        return cls(run, updates, monitor.forecast_log, outcome, len(history or ()), metric.name, rising)

    def __repr__(self) -> str:
        alarm, advised = self.alarm, self.advised
        outcome = "no outcome" if self.outcome is None else f"{self.metric} {self.outcome:.4g} at the end"
        warned = "no alarm" if alarm is None else f"alarm at step {alarm.step:,}"
        advice = "continue" if advised is None else f"{advised.advice.action} at step {advised.step:,}"
        return (
            f"Replay({self.run.name!r}, {plural(len(self.updates), 'update')}, {outcome}, {warned}, advice: {advice})"
        )

    def _repr_html_(self) -> str:
        rows = "".join(
            f"<tr><td>{check.fraction:.0%}</td><td>{check.final:.4g}</td>"
            f"<td>{check.lower:.4g} to {check.upper:.4g}</td><td>{check.error:+.2%}</td></tr>"
            for check in self.checks()
        )
        head = "<tr><th>part of the run</th><th>forecast</th><th>90% interval</th><th>error</th></tr>"
        return f"<p>{escape(repr(self))}</p><table>{head}{rows}</table>"

    @property
    def alarm(self) -> Update | None:
        """The first update with an alarm."""
        return next((update for update in self.updates if update.deviation.alarm), None)

    @property
    def advised(self) -> Update | None:
        """The first update with the gravest advice given, other than to continue."""
        found = (update for action in ACTIONS for update in self.updates if update.advice.action == action)
        return next(found, None)

    @property
    def stop(self) -> Update | None:
        """The first update with the advice to stop."""
        return next((update for update in self.updates if update.advice.action == "stop"), None)

    @property
    def saved(self) -> float:
        """Share of the planned compute that was left when the advice was to stop; 0 if it never was."""
        stop = self.stop
        return 0.0 if stop is None else stop.advice.saving

    @property
    def given_up(self) -> float | None:
        """How much better than at the advice to stop the run came out; below 0 if worse, ``None`` if not known."""
        stop = self.stop
        if stop is None or self.outcome is None or not math.isfinite(stop.loss):
            return None
        return self.outcome - stop.loss if self.rising else stop.loss - self.outcome

    def checks(self, fractions: Iterable[float] = FRACTIONS) -> list[Check]:
        """The forecasts at some parts of the run, compared with the outcome.

        Args:
            fractions: Parts of the plan, each in ``(0, 1]``.

        Returns:
            A check for each part at which there was a forecast to be used; none if the run did not get to its end.
        """
        outcome = self.outcome
        if outcome is None or outcome == 0:
            return []
        found = []
        for fraction in fractions:
            update = self._at(fraction)
            if update is None or update.forecast.trust == "none" or not math.isfinite(update.forecast.final):
                continue
            forecast = update.forecast
            final, trust, (lower, upper) = forecast.final, forecast.trust, forecast.interval(LEVEL)
            error, below = (final - outcome) / outcome, forecast.final_distribution.below(outcome)
            inside = lower <= outcome <= upper
            found.append(Check(fraction, update.step, final, lower, upper, trust, outcome, error, inside, below))
        return found

    def _at(self, fraction: float) -> Update | None:
        """The last update made at or not long before a part of the run."""
        due = [u for u in self.updates if u.fraction is not None and fraction - 0.05 < u.fraction <= fraction + 1e-9]
        return due[-1] if due else None

    def summary(self) -> dict[str, Any]:
        """The outcome of the run and of the updates as builtins.

        Returns:
            ``name``, ``run_id`` and ``family`` of the run; ``metric`` followed; its last ``step`` and ``total_steps``;
            ``outcome``, ``past_runs``; ``forecasts``, the :meth:`checks` as dicts; ``alarm``, the first (``step``,
            ``fraction``, ``direction``) or ``None``; ``advice``, the gravest (``action``, ``step``, ``fraction``,
            ``reason``, ``saving``, ``cost``) or ``None``; ``saved`` and ``given_up``.
        """
        run, alarm, advised = self.run, self.alarm, self.advised
        advice = None
        if advised is not None:
            given = advised.advice.to_dict()
            advice = {"action": given["action"], "step": advised.step, "fraction": advised.fraction}
            advice |= {name: given[name] for name in ("reason", "saving", "cost")}
        known = {"name": run.name, "run_id": run.meta.get("run_id"), "family": run.family, "metric": self.metric}
        end = {"step": int(run.step[-1]), "total_steps": run.total_steps, "outcome": self.outcome}
        return {
            **known,
            **end,
            "past_runs": self.past_runs,
            "forecasts": [asdict(check) for check in self.checks()],
            "alarm": alarm and {"step": alarm.step, "fraction": alarm.fraction, "direction": alarm.deviation.direction},
            "advice": advice,
            "saved": self.saved,
            "given_up": self.given_up,
        }

    def to_dict(self) -> dict[str, Any]:
        """Every attribute by its name, as builtins: ``run`` and ``updates`` as the dicts of their own."""
        return {**vars(self), "run": self.run.to_dict(), "updates": [update.to_dict() for update in self.updates]}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Replay:
        """The replay that :meth:`to_dict` described; its forecasts are those of the final loss only."""
        updates = [Update.from_dict(update) for update in data["updates"]]
        return cls(**{**data, "run": Run.from_dict(data["run"]), "updates": updates})


def follow(run: Run, *, history: RunHistory | None = None) -> Monitor:
    """The monitor of a recorded run as it stands after the last loss of the record, its forecast made there.

    Args:
        run: The run.
        history: Finished runs of the same family, as of :func:`replay`.

    Raises:
        ValueError: If the run holds no finite loss.
    """
    if not np.isfinite(run.loss).any():
        raise ValueError(f"The run {run.name or ''} holds no finite loss, so nothing can be forecast of it.")
    driver = Driver(run, history)
    driver.whole()
    monitor = driver.monitor
    if monitor.forecast.step < monitor.curve.last_step:
        monitor.update()
    return monitor
