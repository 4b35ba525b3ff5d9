"""The engine: from losses as they arrive to forecast, deviation and advice."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lightning_scaling.advice import Advice, Adviser, RunState
from lightning_scaling.advice.context import AdviceContext
from lightning_scaling.advice.repeats import Repeats
from lightning_scaling.detection import Deviation, Divergence
from lightning_scaling.engine.buffer import LossBuffer
from lightning_scaling.engine.detectors import RunDetectors
from lightning_scaling.engine.forecast_log import forecast_log_row, settle
from lightning_scaling.engine.metric import FollowedMetric
from lightning_scaling.engine.prior import PriorProvider
from lightning_scaling.engine.update import Update
from lightning_scaling.engine.update_schedule import MIN_GAP, NONFINITE_ALARM, count_until_update, next_update_after
from lightning_scaling.forecast import Forecast, Forecaster, WhatIf, what_if, what_ifs
from lightning_scaling.forecast.calibrated import applied
from lightning_scaling.forecast.forecaster import PriorSource
from lightning_scaling.forecast.law_grid import before
from lightning_scaling.runs.curve import Curve
from lightning_scaling.runs.history import RunHistory
from lightning_scaling.runs.run import Run
from lightning_scaling.schedule.plan import Plan

__all__ = ["LAWS", "Monitor", "Update"]

_START = 0.06
_ENOUGH_POINTS = 8
_MAX_LOG = 1000
_LOOKS = 4
_OTHER_RATES = "the learning rate used is not the planned one"
LAWS = ("auto", "relative_multi_power")


class Monitor:
    """Follows one run: capture, forecast, test, advise. Knows neither Lightning nor MLflow.

    Updates fall due at fixed steps, every 1 % of the plan (every 5 % of the present progress when the plan has no end),
    so what is said does not depend on how the losses are cut into blocks.

    Args:
        plan: What the run intends to do; ``None`` when nothing is known of it.
        alpha: Probability of a false alarm over the whole run, in ``(0, 1)``.
        target: Loss the user wants to reach, or ``None``.
        law: Law of the curve: ``"auto"`` or ``"relative_multi_power"``.
        history: Finished runs of the same family; their shapes replace the published prior, and their calibration sets
            the intervals right.
        params: Number of parameters, for the record.
        monitor: Name of the metric followed; ``None`` is the training loss.
        mode: Whether it is to be low (``"min"``) or high (``"max"``); ``"auto"`` goes by its name.
        bounds: Its lowest and highest value, ``None`` for none; left out, see
            :func:`~lightning_scaling.forecast.metric_scale.scales_for`.
        skip: Asked with the step before each update; ``True`` leaves that update out.
        unique_tokens: Distinct tokens (or samples) there are to train on; ``None`` works them out from the fact
            ``epoch_steps`` and the tokens of a step.

    Raises:
        ValueError: If an argument is out of its range.

    Example:
        >>> monitor = Monitor(Plan.constant(total_steps=1000))
        >>> updates = monitor.observe(range(1, 501), [5 * s ** -0.1 for s in range(1, 501)])
        >>> updates[-1].forecast.trust
        'ok'
    """

    def __init__(
        self,
        plan: Plan | None,
        *,
        alpha: float = 0.01,
        target: float | None = None,
        law: str = "auto",
        history: RunHistory | None = None,
        params: int | None = None,
        monitor: str | None = None,
        mode: str = "auto",
        bounds: Sequence[float | None] | None = None,
        skip: Callable[[int], bool] | None = None,
        unique_tokens: float | None = None,
    ) -> None:
        if not (isinstance(alpha, float | int) and 0 < alpha < 1):
            raise ValueError(f"`alpha` is a probability and must lie strictly between 0 and 1, but got {alpha!r}.")
        if target is not None and not math.isfinite(target):
            raise ValueError(f"`target` must be a finite loss or None, but got {target!r}.")
        if law not in LAWS:
            raise ValueError(f"`law` must be one of {', '.join(map(repr, LAWS))}, but got {law!r}.")
        self.plan = plan or Plan.constant(known=False, why="no plan is known")
        self.alpha = float(alpha)
        self.target = target
        self.params = params
        self.unique_tokens = unique_tokens
        self.metric = FollowedMetric(monitor, mode, bounds)
        rising = self.metric.scale.mode == "max"
        self._background = AdviceContext(self.plan, params, unique_tokens, metric=monitor, rising=rising)
        self._background.use(history or ())
        self._teaching = PriorProvider(self.metric, params, history)
        self._skip = skip
        self._forecaster = Forecaster(self.plan, self._teaching.source)
        self._watching = RunDetectors(self.alpha, self.metric)
        self._adviser = Adviser()
        self._pending = LossBuffer()
        self._follows = False
        self._blown = False
        self._next_look = self._between_looks = math.inf
        self._loss = math.nan
        self.curve = Curve(self.plan)
        self.forecast = self.metric.forecast(self._forecaster.before())
        self.advice = Advice("continue", "No losses have been seen yet.")
        self.state: RunState | None = None
        self.advice_log: list[Advice] = []
        self.forecast_log: list[dict[str, Any]] = []
        self.next_update = next_update_after(self.plan, 0)

    @property
    def deviation(self) -> Deviation:
        """The verdict against the forecasts made before."""
        return self._watching.deviation

    @property
    def divergence(self) -> Divergence | None:
        """A blow-up under way."""
        return self._watching.divergence

    @property
    def next_look(self) -> int:
        """The step by which losses should come in: that of the next update, or earlier where the last looked wrong."""
        return int(min(self.next_update, math.ceil(min(self._next_look, self.next_update))))

    @property
    def repeats(self) -> Repeats | None:
        """Where the run was in its data at the last update; ``None`` where that cannot be told."""
        return self._background.repeats

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
            The updates that fell due, in order.

        Raises:
            ValueError: If the steps do not increase or the shapes differ.
        """
        steps = np.atleast_1d(np.asarray(step, dtype=np.float64))
        losses = np.atleast_1d(np.asarray(loss, dtype=np.float64))
        others = {
            name: None if values is None else np.atleast_1d(np.asarray(values, dtype=np.float64))
            for name, values in (("lr", lr), ("tokens", tokens), ("flops", flops), ("seconds", seconds))
        }
        updates: list[Update] = []
        start = 0
        while start < steps.size:
            end = start + count_until_update(
                steps[start:],
                losses[start:],
                min(self.next_update, self._next_look),
                limit=self._watching.limit,
                nonfinite_tail=self.curve.nonfinite_tail,
            )
            part = slice(start, end)
            self.curve.add(
                steps[part],
                losses[part],
                **{name: None if values is None else values[part] for name, values in others.items()},
            )
            self._pending.add(steps[part], losses[part])
            self.metric.see(losses[part])
            self._compare_rates(steps[part], others["lr"], part)
            start = end
            now = int(steps[end - 1])
            self._blown = bool(self._watching.limit < losses[end - 1] < math.inf)
            alarm = self._blown or self.curve.nonfinite_tail == NONFINITE_ALARM
            if self._next_look <= now < self.next_update and not alarm:
                alarm = self._watching.peek(self._pending)
                self._next_look = now + self._between_looks
            if now >= self.next_update or alarm:
                self.next_update = next_update_after(self.plan, now)
                if alarm or self._skip is None or not self._skip(now):
                    updates.append(self.update(now))
                self._between_looks = (self.next_update - now) / _LOOKS if self._watching.suspicious else math.inf
                self._next_look = now + self._between_looks
        return updates

    def _compare_rates(self, steps: NDArray[np.float64], lr: NDArray[np.float64] | None, part: slice) -> None:
        if lr is None:
            return
        planned = self.plan.at(steps)
        used = lr[part]
        sound = np.isfinite(used) & (planned > 0.01 * self.plan.peak)
        if sound.any():
            self._pending.rates.append(float(np.median(used[sound] / planned[sound])))

    def update(self, step: int | None = None) -> Update:
        """Refit, test and advise now, whether or not an update is due.

        Args:
            step: The present step, if it is beyond the last loss.

        Returns:
            The update, also kept in :attr:`forecast`, :attr:`deviation`, :attr:`advice` and :attr:`ledger`.
        """
        now = max(self.curve.last_step, 0) if step is None else step
        if self.metric.settle():
            self._rescale()
        if self._teaching.size(self.curve.points):
            self._forecaster = Forecaster(self.plan, self._teaching.source)
        ratio = float(np.median(self._pending.rates)) if self._pending.rates else math.nan
        if math.isfinite(ratio) and abs(ratio - 1) > 0.05 and not self._binding:
            self._follow_rates()
            ratio = math.nan
        forecast = self._forecaster.fit(self.metric.points(self.curve.points), now)
        settled = self._settled(now, forecast)
        rate = float(self.plan.at(np.array([max(now, 1)]))[0])
        block = self._watching.look(self._pending, forecast, settled=settled, blown=self._blown, rate=rate)
        self.forecast = self._doubt(self.metric.forecast(forecast, known=self.plan.known), ratio)
        if block is not None:
            self._loss = block.loss
        elif self._pending.nonfinite:
            self._loss = math.nan
        self.state = self._background.state(
            self.curve,
            step=now,
            fraction=self._fraction(now),
            loss=self._loss,
            forecast=self.forecast,
            deviation=self.deviation,
            divergence=self.divergence,
            nonfinite=self._pending.nonfinite,
            rate_ratio=ratio,
            target=self.target,
            metric=self.metric.name,
            mode=self.metric.scale.mode,
        )
        before = self.advice
        self.advice = self._adviser.advise(self.state)
        if not self.advice_log or before.topic != self.advice.topic:
            self.advice_log = [*self.advice_log, self.advice][-_MAX_LOG:]
        self._pending.clear()
        self._blown = False
        update = Update(now, self.state.fraction, self.state.loss, self.forecast, self.deviation, self.advice)
        self.forecast_log.append(
            forecast_log_row(
                now,
                update.fraction,
                update.loss,
                self.forecast,
                self.deviation,
                self.advice.action,
                *applied(self._forecaster.run_prior, forecast),
            )
        )
        return update

    def _rescale(self) -> None:
        """A value beyond the bounds taken so far: what was made out on the scale before is void."""
        self._teaching.again()
        self._forecaster = Forecaster(self.plan, self._teaching.source)
        self._watching.rescaled()

    @property
    def _binding(self) -> bool:
        """Whether the plan says what the rates will be, so that other rates are news."""
        return self.plan.known and self.plan.source != "constant" and not self._follows

    def _follow_rates(self) -> None:
        """Without a schedule the rate used is the plan: what it was, and constant from here."""
        points = self.curve.points
        known = np.isfinite(points.lr)
        if not known.any():
            return
        why = "the learning rate is set by hand or by what happens, so its future is not known"
        total = self.plan.total_steps
        self.replan(Plan(points.last[known], points.lr[known], total_steps=total, known=False, why=why))

    def _doubt(self, forecast: Forecast, ratio: float) -> Forecast:
        if forecast.trust == "none":
            return forecast
        if math.isfinite(ratio) and abs(ratio - 1) > 0.05:
            return replace(forecast, trust="low", why=_OTHER_RATES)
        if self.deviation.alarm:
            why = f"the run has left the path forecast at step {self.deviation.since_step:,}"
            return replace(forecast, trust="low", why=why)
        return forecast

    def _settled(self, step: int, forecast: Forecast) -> bool:
        """Whether the run may be held to a forecast: the start is over, and it rests on enough points of a fall."""
        start = max(_START * (self.plan.total_steps or 0), 1.25 * self.plan.warmup_end, 10 * MIN_GAP)
        return step >= start and forecast.is_falling and forecast.params.get("points", 0) >= _ENOUGH_POINTS

    def _fraction(self, step: int) -> float | None:
        return None if self.plan.total_steps is None else step / self.plan.total_steps

    def mark(self, reason: str, *, follow_rates: bool = False) -> None:
        """Announce a change, such as a resume or new data: the test against earlier forecasts begins anew.

        Args:
            reason: What has changed.
            follow_rates: Whether the learning rate leaves the plan from now on: the rates used are then the plan,
                constant from the present.
        """
        self.curve.mark(reason)
        self._background.mark(reason)
        self._follows = self._follows or follow_rates
        self._watching.begin_anew()

    def note(self, facts: Mapping[str, Any]) -> None:
        """Take facts that were seen beside the losses; they only serve to name what to check first.

        Args:
            facts: By name, as builtins; ``None`` takes one back. ``idle`` (parameter tensors that have lost their
                gradient) with ``tensors``, ``idle_share``, ``idle_names``, ``idle_since``; ``state_lost`` (step of a
                resume without the optimizer's state); ``precision``; ``unit`` of what is counted; ``epoch_steps``;
                ``batch`` with ``noise_scale``, ``noise_low``, ``noise_high``, the gradient-noise scale in its unit.
        """
        self._background.note(facts, max(self.curve.last_step, 0))

    def replan(self, plan: Plan) -> None:
        """Take a new plan from here on."""
        self.plan = plan
        self.curve.replan(plan)
        self._background.replan(plan)
        self._forecaster = Forecaster(plan, self._teaching.source)
        self._watching.replanned()
        self.next_update = next_update_after(plan, max(self.curve.last_step, 0))

    def learn(self, history: RunHistory, *, prior: PriorSource | None = None) -> None:
        """Take a history that arrived after the start: its shapes are the prior of all forecasts from here on.

        Args:
            history: Finished runs of the same family.
            prior: What :func:`~lightning_scaling.forecast.family_prior` makes of them, where it is known already.
        """
        self._background.use(history)
        if self._teaching.learn(history, prior):
            self._watching.rescaled()
        self._forecaster = Forecaster(self.plan, self._teaching.source)
        if not self.forecast_log:
            self.forecast = self.metric.forecast(self._forecaster.before())

    def what_if(self, change: str | Plan, **options: Any) -> WhatIf:
        """Where the run would land if its plan were another one from the step of the latest forecast on.

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
        return what_if(self.forecast, self.plan, change, **self._told(), **options)

    def what_ifs(self, changes: Iterable[str | Plan | tuple[str, Mapping[str, Any]]] | None = None) -> list[WhatIf]:
        """Carrying on, then several changes.

        Args:
            changes: Changes, alone or with their options. Left out, the usual ones as far as the plan allows them.

        Raises:
            ValueError: As :meth:`what_if`.
            TypeError: As :meth:`what_if`.
        """
        return what_ifs(self.forecast, self.plan, changes, **self._told())

    def _told(self) -> dict[str, Any]:
        points = self.metric.points(before(self.curve.points, self.forecast.step))
        doubtful = self.deviation.alarm or self.forecast.why == _OTHER_RATES
        return {"points": points, "prior": self._teaching.source, "doubt": self.forecast.why if doubtful else ""}

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
        points = self.curve.points
        steps = np.maximum(np.rint(points.step), 1)
        keep = np.concatenate([np.diff(steps) > 0, [True]]) if steps.size else np.empty(0, dtype=bool)
        lr = points.lr[keep]
        settings: dict[str, Any] = {
            "total_steps": self.plan.total_steps or max(self.curve.last_step, 1),
            "planned_lr": (self.plan.steps, self.plan.lr),
            "params": self.params,
        }
        settings.update(known)
        followed = dict(self.metric.settings)
        name = followed.pop("monitor")
        if name is not None or not self.metric.plain:
            settings["meta"] = {**(settings.get("meta") or {}), "metric": name, **followed}
        return Run(steps[keep], points.loss[keep], lr if np.isfinite(lr).all() and lr.size else None, **settings)

    def state_dict(self) -> dict[str, Any]:
        """Everything a resumed run needs, as builtins."""
        return {
            "version": 1,
            "plan": self.plan.to_dict(),
            "curve": self.curve.state_dict(),
            "pending": self._pending.state_dict(),
            **self._watching.state_dict(),
            "adviser": self._adviser.state_dict(),
            "background": self._background.state_dict(),
            "follows": self._follows,
            "ledger": [dict(row) for row in self.forecast_log],
            "measure": self.metric.state_dict(),
            "advice_log": [advice.to_dict() for advice in self.advice_log],
            "next_update": self.next_update,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from what :meth:`state_dict` returned; the plan of this monitor holds for the steps to come.

        Raises:
            ValueError: If the state was written by a later, incompatible version.
        """
        if state.get("version") != 1:
            raise ValueError(f"The saved monitor state has version {state.get('version')!r}; this version reads 1.")
        self.curve.load_state_dict(state["curve"])
        self._pending.load_state_dict(state["pending"])
        if self.metric.load_state_dict(state.get("measure")):
            self._watching.load_state_dict(state)
        self._adviser.load_state_dict(state["adviser"])
        if "background" in state:
            self._background.load_state_dict(state["background"])
        if not self.metric.plain:
            self._teaching.again()
        self._follows = bool(state["follows"])
        self.forecast_log = [dict(row) for row in state["ledger"]]
        self.advice_log = [Advice(**advice) for advice in state["advice_log"]]
        self.replan(Plan.from_dict(state["plan"]).then(self.plan, self.curve.last_step))
        if state["plan"]["total_steps"] == self.plan.total_steps:
            self.next_update = state["next_update"]
        if len(self.curve):
            found = self._forecaster.fit(self.metric.points(self.curve.points), self.curve.last_step)
            self.forecast = self.metric.forecast(found, known=self.plan.known)
        if self.advice_log:
            self.advice = self.advice_log[-1]
