"""The engine: from losses as they arrive to forecast, deviation and advice."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from lightning_scaling.advice import Advice, Adviser, RunState
from lightning_scaling.advice.config import NONFINITE_LOSSES
from lightning_scaling.advice.context import AdviceContext
from lightning_scaling.advice.repeats import Repeats
from lightning_scaling.detection import Deviation, Divergence
from lightning_scaling.engine.buffer import LossBuffer
from lightning_scaling.engine.config import MonitorConfig
from lightning_scaling.engine.detectors import MetricDetectors
from lightning_scaling.engine.forecast_log import forecast_log_row, settle
from lightning_scaling.engine.learning_rates import RateComparison, differs, plan_of_used_rates
from lightning_scaling.engine.metric import FollowedMetric
from lightning_scaling.engine.prior import PriorProvider
from lightning_scaling.engine.record import record_of
from lightning_scaling.engine.update import Update
from lightning_scaling.engine.update_schedule import MIN_GAP, UpdateSchedule, count_until_update
from lightning_scaling.forecast import Forecast, Forecaster, WhatIf, what_if, what_ifs
from lightning_scaling.forecast.calibrated import applied
from lightning_scaling.forecast.forecaster import PriorSource
from lightning_scaling.forecast.law_grid import before
from lightning_scaling.runs.curve import Curve
from lightning_scaling.runs.history import RunHistory
from lightning_scaling.runs.run import Run
from lightning_scaling.schedule.plan import Plan

__all__ = ["Monitor", "Update"]

_STATE_VERSION = 1
_START_SHARE = 0.06
"""Fraction of the plan before which no forecast is tested: early curves bend in ways of their own."""
_WARMUPS = 1.25
"""Multiple of the warm-up before which no forecast is tested."""
_MIN_POINTS = 8
"""Points of the curve on which a forecast that is tested must rest."""
_MAX_ADVICE_LOG = 1000
_OTHER_RATES = "the learning rate used is not the planned one"


class Monitor:
    """Follows one run: capture, forecast, test, advise. Knows neither Lightning nor MLflow.

    Updates are due at fixed steps, every 1 % of the plan (every 5 % of the present progress when the plan has no end),
    so what is said does not depend on how the losses are cut into blocks.

    Args:
        plan: What the run intends to do; ``None`` when nothing is known of it.
        config: Its settings; left out, they are made of the keyword arguments.
        skip: Called with the step before each update; ``True`` leaves that update out.
        **settings: Attributes of :class:`~lightning_scaling.engine.config.MonitorConfig`, in place of those of
            ``config``.

    Attributes:
        plan: The plan in force.
        config: The settings.
        metric: The metric followed.
        curve: All losses so far, in bounded memory.
        forecast: The latest forecast.
        advice: The latest advice.
        state: What the latest advice rests on; ``None`` before the first update.
        advice_log: Advice in the order in which it changed.
        forecast_log: Every forecast made, as rows of builtins.

    Raises:
        ValueError: If a setting is out of its range.
        TypeError: If there is no such setting.

    Example:
        >>> monitor = Monitor(Plan.constant(total_steps=1000))
        >>> updates = monitor.observe(range(1, 501), [5 * s ** -0.1 for s in range(1, 501)])
        >>> updates[-1].forecast.trust
        'low'
    """

    def __init__(
        self,
        plan: Plan | None,
        config: MonitorConfig | None = None,
        *,
        skip: Callable[[int], bool] | None = None,
        **settings: Any,
    ) -> None:
        self.config = config = replace(config or MonitorConfig(), **settings)
        self.plan = plan or Plan.constant(known=False, why="no plan is known")
        self.metric = FollowedMetric(config.monitor, config.mode, config.bounds)
        self._context = AdviceContext(
            self.plan,
            config.params,
            config.unique_tokens,
            metric=config.monitor,
            rising=self.metric.scale.mode == "max",
        )
        self._context.use(config.history or ())
        self._prior = PriorProvider(self.metric, config.params, config.history)
        self._skip = skip
        self._forecaster = Forecaster(self.plan, self._prior.source)
        self._detectors = MetricDetectors(config.alpha, self.metric, config.detection)
        self._adviser = Adviser()
        self._pending = LossBuffer()
        self._rates = RateComparison()
        self._schedule = UpdateSchedule(self.plan)
        self._blown = False
        self._loss = math.nan
        self.curve = Curve(self.plan)
        self.forecast = self.metric.forecast(self._forecaster.before())
        self.advice = Advice("continue", "No losses have been seen yet.")
        self.state: RunState | None = None
        self.advice_log: list[Advice] = []
        self.forecast_log: list[dict[str, Any]] = []

    def __repr__(self) -> str:
        return f"Monitor(step={max(self.curve.last_step, 0):,}, {self.forecast!r}, advice={self.advice.action})"

    @property
    def deviation(self) -> Deviation:
        """The verdict against the forecasts made before."""
        return self._detectors.deviation

    @property
    def divergence(self) -> Divergence | None:
        """A blow-up under way."""
        return self._detectors.divergence

    @property
    def next_update(self) -> int:
        """Step at which the next update is due."""
        return self._schedule.next_update

    @next_update.setter
    def next_update(self, step: int) -> None:
        self._schedule.next_update = step

    @property
    def next_look(self) -> int:
        """The step by which losses should come in: that of the next update, or earlier where the last looked wrong."""
        return self._schedule.next_look

    @property
    def repeats(self) -> Repeats | None:
        """Where the run was in its data at the last update; ``None`` where that is not known."""
        return self._context.repeats

    def observe(
        self,
        step: ArrayLike,
        loss: ArrayLike,
        *,
        lr: ArrayLike | None = None,
        tokens: ArrayLike | None = None,
        flops: ArrayLike | None = None,
        seconds: ArrayLike | None = None,
    ) -> list[Update]:
        """Take the next losses of the run.

        Args:
            step: Optimizer steps completed at each loss, shape ``(n,)``, strictly increasing.
            loss: Losses, shape ``(n,)``; those not finite are counted, never averaged.
            lr: Learning rates used, shape ``(n,)``.
            tokens: Cumulative tokens or samples, shape ``(n,)``.
            flops: Cumulative training FLOPs, shape ``(n,)``.
            seconds: Cumulative seconds of training, shape ``(n,)``.

        Returns:
            The updates that were due, in order.

        Raises:
            ValueError: If the steps do not increase or the shapes differ.
        """
        steps = np.atleast_1d(np.asarray(step, dtype=np.float64))
        losses = np.atleast_1d(np.asarray(loss, dtype=np.float64))
        others = {
            name: np.atleast_1d(np.asarray(values, dtype=np.float64))
            for name, values in (("lr", lr), ("tokens", tokens), ("flops", flops), ("seconds", seconds))
            if values is not None
        }
        updates: list[Update] = []
        start = 0
        while start < steps.size:
            limit, tail = self._detectors.limit, self.curve.nonfinite_tail
            due = self._schedule.due
            end = start + count_until_update(steps[start:], losses[start:], due, limit=limit, nonfinite_tail=tail)
            part = slice(start, end)
            self.curve.add(steps[part], losses[part], **{name: values[part] for name, values in others.items()})
            self._pending.add(steps[part], losses[part])
            self.metric.see(losses[part])
            if "lr" in others:
                self._rates.add(self.plan, steps[part], others["lr"][part])
            self._blown = bool(limit < losses[end - 1] < math.inf)
            updates += self._update_if_due(int(steps[end - 1]))
            start = end
        return updates

    def _update_if_due(self, now: int) -> list[Update]:
        urgent = self._blown or self.curve.nonfinite_tail == NONFINITE_LOSSES
        if not urgent and self._schedule.look_due(now):
            urgent = self._detectors.peek(self._pending)
        if now < self.next_update and not urgent:
            return []
        self._schedule.replan(self.plan, now)
        made = [self.update(now)] if urgent or self._skip is None or not self._skip(now) else []
        self._schedule.look_until_next(now, suspicious=self._detectors.suspicious)
        return made

    def update(self, step: int | None = None) -> Update:
        """Refit, test and advise now, whether or not an update is due.

        Args:
            step: The present step, if it is beyond the last loss.

        Returns:
            The update, also kept in :attr:`forecast`, :attr:`deviation`, :attr:`advice` and :attr:`forecast_log`.
        """
        now = max(self.curve.last_step, 0) if step is None else step
        points = self.curve.points
        if self.metric.settle():
            self._rescale()
        if self._prior.size(points):
            self._forecaster = Forecaster(self.plan, self._prior.source)
        ratio = self._rates.ratio
        if differs(ratio) and not self._rates.is_binding(self.plan):
            used = plan_of_used_rates(self.plan, points)
            if used is not None:
                self.replan(used)
                points = self.curve.points
            ratio = math.nan
        on_law = self._forecaster.fit(self.metric.points(points), now)
        block = self._detectors.update(
            self._pending,
            on_law,
            settled=self._settled(now, on_law),
            blown=self._blown,
            rate=float(self.plan.at(np.array([max(now, 1)]))[0]),
        )
        self.forecast = self._lower_trust(self.metric.forecast(on_law, known=self.plan.known), ratio)
        if block is not None or self._pending.nonfinite:
            self._loss = math.nan if block is None else block.loss
        self.state = self._state(now, ratio)
        self._advise(self.state)
        self._pending.clear()
        self._rates.clear()
        self._blown = False
        update = Update(now, self.state.fraction, self.state.loss, self.forecast, self.deviation, self.advice)
        self.forecast_log.append(forecast_log_row(update, *applied(self._forecaster.run_prior, on_law)))
        return update

    def _state(self, now: int, ratio: float) -> RunState:
        return self._context.state(
            self.curve,
            step=now,
            fraction=None if self.plan.total_steps is None else now / self.plan.total_steps,
            loss=self._loss,
            forecast=self.forecast,
            deviation=self.deviation,
            divergence=self.divergence,
            nonfinite=self._pending.nonfinite,
            rate_ratio=ratio,
            target=self.config.target,
            metric=self.metric.name,
            mode=self.metric.scale.mode,
        )

    def _advise(self, state: RunState) -> None:
        topic = self.advice.topic
        self.advice = self._adviser.advise(state)
        if not self.advice_log or topic != self.advice.topic:
            self.advice_log = [*self.advice_log, self.advice][-_MAX_ADVICE_LOG:]

    def _rescale(self) -> None:
        """Refit from scratch: a value outside the inferred bounds changed the scale of the metric."""
        self._prior.again()
        self._forecaster = Forecaster(self.plan, self._prior.source)
        self._detectors.rescaled()

    def _lower_trust(self, forecast: Forecast, ratio: float) -> Forecast:
        if forecast.trust == "none":
            return forecast
        if differs(ratio):
            return replace(forecast, trust="low", why=_OTHER_RATES)
        if self.deviation.alarm:
            reason = f"the run has left the path forecast at step {self.deviation.since_step:,}"
            return replace(forecast, trust="low", why=reason)
        return forecast

    def _settled(self, step: int, forecast: Forecast) -> bool:
        """Whether the run may be tested against a forecast: the start is over, and it rests on points of a fall."""
        start = max(_START_SHARE * (self.plan.total_steps or 0), _WARMUPS * self.plan.warmup_end, 10 * MIN_GAP)
        return step >= start and forecast.is_falling and forecast.params.get("points", 0) >= _MIN_POINTS

    def mark(self, reason: str, *, follow_rates: bool = False) -> None:
        """Announce a change, such as a resume or new data: the test against earlier forecasts begins anew.

        The alpha budget that was spent on them stays spent.

        Args:
            reason: What has changed.
            follow_rates: Whether the learning rate leaves the plan from now on: the rates used are then the plan,
                constant from the present.
        """
        self.curve.mark(reason)
        self._context.mark(reason)
        self._rates.follows = self._rates.follows or follow_rates
        self._detectors.restart()

    def note(self, facts: Mapping[str, Any]) -> None:
        """Take diagnostics seen in addition to the losses; they only serve to name what to check first.

        Args:
            facts: By name, as builtins; ``None`` takes one back. ``idle`` (parameter tensors that have lost their
                gradient) with ``tensors``, ``idle_share``, ``idle_names``, ``idle_since``; ``state_lost`` (step of a
                resume without the optimizer's state); ``precision``; ``unit`` of what is counted; ``epoch_steps``;
                ``batch`` with ``noise_scale``, ``noise_low``, ``noise_high``, the gradient-noise scale in its unit.
        """
        self._context.note(facts, max(self.curve.last_step, 0))

    def replan(self, plan: Plan) -> None:
        """Take a new plan from here on."""
        self.plan = plan
        self.curve.replan(plan)
        self._context.replan(plan)
        self._forecaster = Forecaster(plan, self._prior.source)
        self._detectors.restart(keep_verdict=True)
        self._schedule.replan(plan, max(self.curve.last_step, 0))

    def learn(self, history: RunHistory, *, prior: PriorSource | None = None) -> None:
        """Take a history that arrived after the start: its shapes are the prior of all forecasts from here on.

        Args:
            history: Finished runs of the same family.
            prior: What :func:`~lightning_scaling.forecast.family_prior` makes of them, where it is known already.
        """
        self._context.use(history)
        if self._prior.learn(history, prior):
            self._detectors.rescaled()
        self._forecaster = Forecaster(self.plan, self._prior.source)
        if not self.forecast_log:
            self.forecast = self.metric.forecast(self._forecaster.before())

    def what_if(self, change: str | Plan, **options: Any) -> WhatIf:
        """The final loss if the plan were another one from the step of the latest forecast on.

        Args:
            change: ``"stop"``, ``"decay"``, ``"longer"``, ``"wsd"`` or another plan.
            **options: Its options, as of :func:`~lightning_scaling.forecast.what_if`.

        Raises:
            ValueError: If the rates of the plan are not known, or the change or an option is none that can be made.
            TypeError: If the change has no such option.

        Example:
            >>> monitor = Monitor(Plan([1, 1000], [1e-3, 1e-3], total_steps=1000))
            >>> updates = monitor.observe(range(1, 501), [5 * s ** -0.1 for s in range(1, 501)])
            >>> stopped = monitor.what_if("stop")
            >>> stopped.total_steps, stopped.extra_compute, stopped.final > monitor.forecast.final
            (500, -0.5, True)
        """
        return what_if(self.forecast, self.plan, change, **self._what_if_context(), **options)

    def what_ifs(self, changes: Iterable[str | Plan | tuple[str, Mapping[str, Any]]] | None = None) -> list[WhatIf]:
        """Carrying on, then several changes.

        Args:
            changes: Changes, alone or with their options. Left out, the usual ones as far as the plan allows them.

        Raises:
            ValueError: As :meth:`what_if`.
            TypeError: As :meth:`what_if`.
        """
        return what_ifs(self.forecast, self.plan, changes, **self._what_if_context())

    def _what_if_context(self) -> dict[str, Any]:
        points = self.metric.points(before(self.curve.points, self.forecast.step))
        doubtful = self.deviation.alarm or self.forecast.why == _OTHER_RATES
        doubt = self.forecast.why if doubtful else ""
        return {"points": points, "prior": self._prior.source, "doubt": doubt, "monitor": self.metric.name}

    def finish(self) -> list[Update]:
        """Close the run: a last update if losses came since the one before, and the outcomes of all forecasts.

        Returns:
            The last update, if there was one to make.
        """
        updates = [self.update()] if len(self._pending) or self._pending.nonfinite else []
        settle(self.forecast_log, self.curve.points, self.curve.last_step)
        return updates

    def run(self, **known: Any) -> Run:
        """The run recorded so far, one point per bin of the curve.

        Args:
            **known: Further arguments of :class:`Run`, such as ``name``.

        Raises:
            ValueError: If no finite loss has been seen yet.
        """
        return record_of(self.curve, self.plan, self.metric, {"params": self.config.params, **known})

    def state_dict(self) -> dict[str, Any]:
        """Everything a resumed run needs, as builtins."""
        return {
            "version": _STATE_VERSION,
            "plan": self.plan.to_dict(),
            "curve": self.curve.state_dict(),
            "pending": self._pending.state_dict(),
            "detection": self._detectors.state_dict(),
            "adviser": self._adviser.state_dict(),
            "context": self._context.state_dict(),
            "follows": self._rates.follows,
            "forecast_log": [dict(row) for row in self.forecast_log],
            "metric": self.metric.state_dict(),
            "advice_log": [advice.to_dict() for advice in self.advice_log],
            "next_update": self.next_update,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from what :meth:`state_dict` returned; the plan of this monitor holds for the steps to come.

        Raises:
            ValueError: If the state was written by a later, incompatible version.
        """
        version = state.get("version")
        if version != _STATE_VERSION:
            raise ValueError(f"The saved monitor state has version {version!r}; this version reads {_STATE_VERSION}.")
        self.curve.load_state_dict(state["curve"])
        self._pending.load_state_dict(state["pending"])
        if self.metric.load_state_dict(state["metric"]):
            self._detectors.load_state_dict(state["detection"])
        self._adviser.load_state_dict(state["adviser"])
        self._context.load_state_dict(state["context"])
        if not self.metric.plain:
            self._prior.again()
        self._rates.follows = bool(state["follows"])
        self.forecast_log = [dict(row) for row in state["forecast_log"]]
        self.advice_log = [Advice.from_dict(advice) for advice in state["advice_log"]]
        self.replan(Plan.from_dict(state["plan"]).then(self.plan, self.curve.last_step))
        if state["plan"]["total_steps"] == self.plan.total_steps:
            self.next_update = state["next_update"]
        if len(self.curve):
            found = self._forecaster.fit(self.metric.points(self.curve.points), self.curve.last_step)
            self.forecast = self.metric.forecast(found, known=self.plan.known)
        if self.advice_log:
            self.advice = self.advice_log[-1]
