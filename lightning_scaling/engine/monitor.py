"""The engine: from losses as they arrive to forecast, deviation and advice."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from lightning_scaling._utils.state import AttributeState
from lightning_scaling.advice import Advice, Adviser, RunState
from lightning_scaling.advice.context import AdviceContext
from lightning_scaling.advice.repeats import Repeats
from lightning_scaling.detection import Deviation
from lightning_scaling.engine.buffer import LossBuffer
from lightning_scaling.engine.config import MonitorConfig
from lightning_scaling.engine.detectors import MetricDetectors
from lightning_scaling.engine.learning_rates import is_binding, plan_of_used_rates, rate_ratios
from lightning_scaling.engine.metric import FollowedMetric
from lightning_scaling.engine.prior import PriorProvider
from lightning_scaling.engine.records import Update, forecast_log_row, record_of, settle
from lightning_scaling.engine.update_schedule import LOOKS_PER_UPDATE, count_until_update, next_update_after
from lightning_scaling.forecast import Forecaster, WhatIf, what_if, what_ifs
from lightning_scaling.forecast.calibrated import applied
from lightning_scaling.forecast.forecaster import PriorSource
from lightning_scaling.forecast.law_grid import before
from lightning_scaling.runs.curve import Curve, LossBlock
from lightning_scaling.runs.history import RunHistory
from lightning_scaling.runs.run import Run
from lightning_scaling.schedule.plan import Plan

_STATE_VERSION = 1
_MAX_ADVICE_LOG = 1000
_OTHER_RATES = "the learning rate used is not the planned one"


class Monitor(AttributeState):
    """Follows one run: capture, forecast, test, advise. Knows neither Lightning nor MLflow.

    Updates are due at fixed steps, every 1 % of the plan (every 5 % of the present progress when the plan has no end),
    so what is said does not depend on how the losses are cut into blocks.

    Args:
        plan: What the run intends to do; ``None`` when nothing is known of it.
        config: Its settings; left out, they are made of the keyword arguments.
        skip: Called with the step before each update; ``True`` leaves that update out.
        **settings: Attributes of :class:`~lightning_scaling.engine.config.MonitorConfig`, in place of ``config``'s.

    Attributes:
        plan: The plan in force.
        config: The settings.
        metric: The metric followed.
        curve: All losses so far, in bounded memory.
        next_update: Step at which the next update is due.
        forecast: The latest forecast.
        advice: The latest advice.
        state: What the latest advice rests on; ``None`` before the first update.
        advice_log: Advice in the order in which it changed.
        forecast_log: Every forecast made, as rows of builtins.

    Raises:
        ValueError, TypeError: If a setting is out of its range, or there is none of that name.

    Example:
        >>> monitor = Monitor(Plan.constant(total_steps=1000))
        >>> updates = monitor.observe(range(1, 501), [5 * s ** -0.1 for s in range(1, 501)])
        >>> updates[-1].forecast.trust
        'low'
    """

    STATE = ("next_update", "_next_look", "_between_looks", "_rate_ratios", "_follows_rates", "_loss")

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
        self.curve, self.next_update = Curve(self.plan), next_update_after(self.plan, 0)
        self._nonfinite_limit = config.advice.findings.nonfinite_losses
        rising = self.metric.scale.mode == "max"
        self._context = AdviceContext(
            self.plan, config.params, config.unique_tokens, metric=config.monitor, rising=rising, config=config.advice
        )
        self._context.use(config.history or ())
        self._prior = PriorProvider(self.metric, config)
        self._detectors = MetricDetectors(config.alpha, self.metric, config.detection)
        self._adviser = Adviser(config.advice)
        self._pending = LossBuffer()
        self._skip = skip
        self._next_look = self._between_looks = math.inf
        self._rate_ratios: list[float] = []
        self._follows_rates = False
        self._blown, self._loss = False, math.nan
        self._renew_forecaster()
        self.forecast = self.metric.forecast(self._forecaster.before())
        self.advice = Advice("continue", "No losses have been seen yet.")
        self.state: RunState | None = None
        self.advice_log: list[Advice] = []
        self.forecast_log: list[dict[str, Any]] = []

    def __repr__(self) -> str:
        return f"Monitor(step={max(self.curve.last_step, 0):,}, {self.forecast!r}, advice={self.advice.action})"

    def _renew_forecaster(self) -> None:
        self._forecaster = Forecaster(self.plan, self._prior.source, self.config.forecast)

    def _is_off_plan(self, ratio: float) -> bool:
        return abs(ratio - 1) > self.config.advice.findings.learning_rate_tolerance  # False for nan

    @property
    def deviation(self) -> Deviation:
        """The verdict against the forecasts made before."""
        return self._detectors.deviation

    @property
    def next_look(self) -> int:
        """Step by which losses should come in: that of the next update, or earlier while they are suspicious."""
        return math.ceil(min(self.next_update, self._next_look))

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
        block = LossBlock.of(step, loss, lr=lr, tokens=tokens, flops=flops, seconds=seconds)
        updates: list[Update] = []
        while len(block):
            limit = self._detectors.loss_limit
            due, nonfinite = min(self.next_update, self._next_look), (self.curve.nonfinite_tail, self._nonfinite_limit)
            end = count_until_update(block.step, block.loss, due, limit, *nonfinite)
            part, block = block[:end], block[end:]
            self.curve.add_block(part)
            self._pending.add(part.step, part.loss)
            self.metric.see(part.loss)
            self._rate_ratios += rate_ratios(self.plan, part)
            self._blown = bool(limit < part.loss[-1] < math.inf)
            updates += self._update_if_due(int(part.step[-1]))
        return updates

    def _update_if_due(self, now: int) -> list[Update]:
        urgent = self._blown or self.curve.nonfinite_tail == self._nonfinite_limit
        if not urgent and self._next_look <= now < self.next_update:
            self._next_look = now + self._between_looks
            urgent = self._detectors.would_alarm(self._pending)
        if now < self.next_update and not urgent:
            return []
        self.next_update = next_update_after(self.plan, now)
        made = [self.update(now)] if urgent or self._skip is None or not self._skip(now) else []
        self._between_looks = (self.next_update - now) / LOOKS_PER_UPDATE if self._detectors.suspicious else math.inf
        self._next_look = now + self._between_looks
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
        rescaled = self.metric.settle()  # by a value outside the inferred bounds
        if rescaled:
            self._prior.again()
            self._detectors.reset()
        if self._prior.size(points) or rescaled:
            self._renew_forecaster()
        ratio = float(np.median(self._rate_ratios)) if self._rate_ratios else math.nan
        if self._is_off_plan(ratio) and (self._follows_rates or not is_binding(self.plan)):
            used = plan_of_used_rates(self.plan, points)
            if used is not None:
                self.replan(used)
                points = self.curve.points
            ratio = math.nan
        on_law = self._forecaster.fit(self.metric.points(points), now)
        block = self._detectors.judge(self._pending, on_law, self.plan, blown=self._blown)
        self.forecast = self.metric.forecast(on_law, known=self.plan.known, doubt=self._doubt(ratio))
        if block is not None or self._pending.nonfinite:
            self._loss = math.nan if block is None else block.loss
        self.state = state = self._state(now, ratio)
        topic = self.advice.topic
        self.advice = self._adviser.advise(state)
        if not self.advice_log or topic != self.advice.topic:
            self.advice_log = [*self.advice_log, self.advice][-_MAX_ADVICE_LOG:]
        self._pending.clear()
        self._rate_ratios, self._blown = [], False
        update = Update(now, state.fraction, state.loss, self.forecast, self.deviation, self.advice)
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
            divergence=self._detectors.divergence,
            nonfinite=self._pending.nonfinite,
            rate_ratio=ratio,
            target=self.config.target,
            metric=self.metric.name,
            mode=self.metric.scale.mode,
        )

    def _doubt(self, ratio: float) -> str:
        """Why a forecast is not to be trusted, whatever it says of itself."""
        if self._is_off_plan(ratio):
            return _OTHER_RATES
        since = self.deviation.since_step
        return f"the run has left the path forecast at step {since:,}" if self.deviation.alarm else ""

    def mark(self, reason: str, *, follow_rates: bool = False, resumed: bool = False) -> None:
        """Announce a change: tests begin anew, the spent alpha budget stays spent.

        Args:
            reason: What has changed.
            follow_rates: Whether the plan is from now on the rates used, constant from the present.
            resumed: Whether the run only goes on from a checkpoint: then the tests go on, too.
        """
        self.curve.mark(reason, resumed=resumed)
        if not resumed:
            self._context.mark()
            self._detectors.restart()
        self._follows_rates = self._follows_rates or follow_rates

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
        self._take(plan)
        self.curve.replan(plan)
        self._detectors.restart(keep_verdict=True)
        self.next_update = next_update_after(plan, max(self.curve.last_step, 0))

    def _take(self, plan: Plan) -> None:
        self.plan = plan
        self._context.replan(plan)
        self._renew_forecaster()

    def learn(self, history: RunHistory, *, prior: PriorSource | None = None) -> None:
        """Take a history that arrived after the start: its shapes are the prior of all forecasts from here on.

        Args:
            history: Finished runs of the same family.
            prior: What :func:`~lightning_scaling.forecast.family_prior` makes of them, where it is known already.
        """
        self._context.use(history)
        if self._prior.use(history, prior):
            self._detectors.reset()
        self._renew_forecaster()
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
        """
        return what_if(self.forecast, self.plan, change, **self._what_if_context(), **options)

    def what_ifs(self, changes: Iterable[str | Plan | tuple[str, Mapping[str, Any]]] | None = None) -> list[WhatIf]:
        """Carrying on, then several changes.

        Args:
            changes: Changes, alone or with their options. Left out, the usual ones as far as the plan allows them.

        Raises:
            ValueError, TypeError: As :meth:`what_if`.
        """
        return what_ifs(self.forecast, self.plan, changes, **self._what_if_context())

    def _what_if_context(self) -> dict[str, Any]:
        points = self.metric.points(before(self.curve.points, self.forecast.step))
        doubt = self.forecast.why if self.deviation.alarm or self.forecast.why == _OTHER_RATES else ""
        known = {"points": points, "doubt": doubt, "monitor": self.metric.name}
        return {**known, "prior": self._prior.source, "config": self.config.forecast}

    def finish(self, *, update: bool = True) -> list[Update]:
        """Close the run: a last update (unless `update` is false) if losses came since, and the outcomes of forecasts.

        Returns:
            The last update, if there was one to make.
        """
        updates = [self.update()] if update and (len(self._pending) or self._pending.nonfinite) else []
        settle(self.forecast_log, self.curve.points, self.curve.last_step)
        return updates

    def run(self, **known: Any) -> Run:
        """The run recorded so far, one point per bin of the curve; further arguments of :class:`Run` may be given.

        Raises:
            ValueError: If no finite loss has been seen yet.
        """
        return record_of(self.curve, self.plan, self.metric, {"params": self.config.params, **known})

    @property
    def _parts(self) -> dict[str, Curve | LossBuffer | Adviser | AdviceContext]:
        return {"curve": self.curve, "pending": self._pending, "adviser": self._adviser, "context": self._context}

    def state_dict(self) -> dict[str, Any]:
        """Everything a resumed run needs, as builtins."""
        return {
            "version": _STATE_VERSION,
            "plan": self.plan.to_dict(),
            "metric": self.metric.state_dict(),
            "detection": self._detectors.state_dict(),
            **{name: part.state_dict() for name, part in self._parts.items()},
            "forecast_log": [dict(row) for row in self.forecast_log],
            "advice": self.advice.to_dict(),
            "advice_log": [advice.to_dict() for advice in self.advice_log],
            **super().state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from what :meth:`state_dict` returned; the plan of this monitor holds for the steps to come.

        Raises:
            ValueError: If the state was written by a later, incompatible version.
        """
        version = state.get("version")
        if version != _STATE_VERSION:
            raise ValueError(f"The saved monitor state has version {version!r}; this version reads {_STATE_VERSION}.")
        for name, part in self._parts.items():
            part.load_state_dict(state[name])
        if self.metric.load_state_dict(state["metric"]):
            self._detectors.load_state_dict(state["detection"])
        if not self.metric.plain:
            self._prior.again()
        self.forecast_log = [dict(row) for row in state["forecast_log"]]
        self.advice_log = [Advice.from_dict(advice) for advice in state["advice_log"]]
        saved = Plan.from_dict(state["plan"])
        plan = saved.then(self.plan, self.curve.last_step)
        if plan.agrees_with(saved, after=self.curve.last_step):
            self._take(saved)
        else:
            self.replan(plan)
        due = state["next_update"] if saved.total_steps == plan.total_steps else self.next_update
        super().load_state_dict({**state, "next_update": due})
        if len(self.curve):
            if self._prior.size(self.curve.points):
                self._renew_forecaster()
            on_law = self._forecaster.fit(self.metric.points(self.curve.points), self.curve.last_step)
            self.forecast = self.metric.forecast(on_law, known=self.plan.known)
        self.advice = Advice.from_dict(state["advice"])
