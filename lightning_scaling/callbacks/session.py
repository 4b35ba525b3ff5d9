"""One fit under observation: passes what is captured to the engine, and its updates to the logger and the console."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from time import perf_counter
from typing import TYPE_CHECKING, Any

from lightning_scaling.callbacks.aggregation import Block
from lightning_scaling.callbacks.batch_size_meter import BatchSizeMeter
from lightning_scaling.callbacks.capture import Capture
from lightning_scaling.callbacks.console import Console
from lightning_scaling.callbacks.device_reads import CaptureError
from lightning_scaling.callbacks.diagnostics import Diagnostics
from lightning_scaling.callbacks.gradient_noise import NoiseScale
from lightning_scaling.callbacks.gradients import Gradients
from lightning_scaling.callbacks.guard import Guard, within
from lightning_scaling.callbacks.overhead import OverheadBudget, TimedHooks
from lightning_scaling.callbacks.past_runs import PastRuns
from lightning_scaling.callbacks.plan_changes import PlanChanges, plan_of
from lightning_scaling.callbacks.run_logger import RunLogger
from lightning_scaling.callbacks.settings import Settings
from lightning_scaling.engine.monitor import Monitor
from lightning_scaling.engine.records import Update
from lightning_scaling.schedule import Plan
from lightning_scaling.tracking import EventKind
from lightning_scaling.tracking.schema import RunStatus

if TYPE_CHECKING:
    from lightning_scaling.compute import ParamCounts


class Session:
    """Everything that lives from the start of training to its end, on one rank.

    Args:
        settings: The arguments of the callback.
        trainer: The Trainer, about to train; everything has been restored.
        module: The module in training.
        counts: Parameters counted before the model was sharded.
        state: State of a checkpoint to go on from, as :meth:`state_dict` returned it, or ``None``.
        scope: What names that are logged are distinguished by from those of another monitor.

    Attributes:
        engine: The engine.
        capture: Counts and reads what the training does.
        past_runs: The past runs that give the engine its prior.
        logger: Writes the run to journal, MLflow and console.
        budget: The monitor's own time.
        batch_started: Called with each batch before its step; ``None`` if no step will be watched.
        status: How the run ended, or that it has not.
        counts: Parameters counted before the model was sharded.
        watchers: Called after updates; they must not raise.
    """

    def __init__(
        self, settings: Settings, trainer: Any, module: Any, counts: ParamCounts | None, state: Any, *, scope: str
    ) -> None:
        self._clock = clock = perf_counter
        begun = clock()
        self.watchers: list[Callable[[Session], None]] = []
        self.counts = counts
        self._settings, self._trainer = settings, trainer
        self._console = Console(bool(trainer.is_global_zero))
        self._guard = Guard(self._console.warn)
        self._closed = self._introduced = self._validated = self._flushing = False
        self.status = RunStatus.UNKNOWN
        self._lead = 1
        self.sizes = BatchSizeMeter(settings.count, settings.flops, module)
        self.capture = Capture(self.sizes, metric=settings.monitor, clock=clock)
        if state is not None:
            self.capture.load_state_dict(state["capture"])
            self.sizes.meter.load_state_dict(state["sizes"])
        self.capture.attach(trainer, module)
        self.gradients = Gradients(trainer, module, self.capture.hooks.progress, clock)
        self.hooks = TimedHooks(self.capture.hooks, self.gradients, self.sizes, clock)
        self.batch_started = self.hooks.batch_started if self.sizes.meter.wanting else None
        self.capture.extra_reductions = self.gradients.drain
        self.budget = OverheadBudget(self.capture, settings.max_overhead, clock)
        config = settings.for_engine(None if counts is None else counts.total)
        plan = plan_of(trainer, self.capture.steps, self._guard)
        self._changes = PlanChanges(trainer, resumed=state is not None)
        self._optimized = 0
        self.optimized_others()
        self.engine = Monitor(plan, config, skip=self.budget if settings.max_overhead < 1 else None)
        if state is not None:
            self.gradients.load_state_dict(state["gradients"])
            self.engine.load_state_dict(state["engine"])
        self._topic = self.engine.advice.topic
        self._resumed = f"resumed at step {self.capture.steps}" if state is not None or self.capture.steps else ""
        if self._resumed:
            self.engine.mark(self._resumed, resumed=True)
        self.logger = RunLogger(settings, trainer, self._console, state, scope=scope)
        self.past_runs = PastRuns(settings, self._console, self.engine, self.logger, self.capture.ranks.world)
        self._diagnostics = Diagnostics(trainer, module, self.sizes)
        if state is not None:
            self._diagnostics.load_state_dict(state["diagnostics"])
        self._console.open(trainer)
        self._setup_seconds = clock() - begun
        self.capture.begin()

    def _replan(self) -> None:
        """Ask again where the module steps its own schedulers: how often, only the run can show."""
        unread = not self.engine.plan.known and self.engine.plan.source == "constant"
        if self.capture.hooks.manual and unread:  # a plan known in part would be simulated anew at every epoch
            plan = plan_of(self._trainer, self.capture.steps, self._guard)
            if plan.known:
                self._take_plan(plan)

    def _follow_changes(self) -> None:
        if (plan := self._changes.look(self.engine.plan, self.capture.steps)) is not None:
            self._take_plan(plan)

    def _take_plan(self, plan: Plan) -> None:
        self.engine.replan(plan)
        step = max(self.engine.curve.last_step, 0)
        self.logger.mark("plan", step, {"kind": EventKind.PLAN, "plan": plan.to_dict()})

    def optimized_others(self) -> bool:
        """Whether the optimizers have other parameters than when this was last asked, as where a module has grown.

        Epochs may be short: this takes .2 us a tensor, a fiftieth of counting the module.
        """
        groups = (group for optimizer in self._trainer.optimizers for group in optimizer.param_groups)
        before, self._optimized = self._optimized, hash(tuple(id(one) for group in groups for one in group["params"]))
        return before != self._optimized

    def recount(self, counts: ParamCounts | None) -> None:
        """Take the parameters of a module that may have grown."""
        if counts is None or counts is self.counts:
            return
        self.counts = counts
        params = self._settings.for_engine(counts.total).params
        self.engine.config = replace(self.engine.config, params=params)

    # ------------------------------------------------------------------ batches and flushes

    def flush_batch(self) -> None:
        """Flush at the end of a batch, where all ranks have exchanged their gradients, and time one of the next."""
        if not self.capture.too_early():
            self.flush(together=self.capture.lockstep or self.capture.ranks.meet_at_steps(), at_batch=True)
            self.hooks.time_next()

    def count_only(self, error: Exception) -> bool:
        """Whether this rank goes on counting after a failure, up to the flush where it meets the others."""
        if isinstance(error, CaptureError) or self._closed or self.capture.alone:
            return False
        self.sizes.end(failed=True)
        self.batch_started = None
        self.capture.hooks.failure = error
        return True

    def flush(self, *, together: bool, looking: bool = False, closing: bool = False, at_batch: bool = False) -> None:
        """Read what is pending and pass it to the engine.

        Args:
            together: Whether every rank is certain to be here.
            looking: Whether the followed metric may have a new value here.
            closing: Whether an epoch or the training ends here.
            at_batch: Whether this is the end of a batch.

        Raises:
            CaptureError: If capture had to be given up, on all ranks alike.
        """
        if self._flushing:  # a signal's handler saves a checkpoint in the middle of a flush
            return
        self._flushing = True
        try:
            self._flush(together, looking, closing, at_batch)
        finally:
            self._flushing = False

    def _flush(self, together: bool, looking: bool, closing: bool, at_batch: bool) -> None:
        begun = self._clock()
        capture, engine, budget = self.capture, self.engine, self.budget
        before, counted = capture.micro_batches, capture.counted
        budget.book(capture.hooks.seconds + self.gradients.seconds + self.sizes.seconds)
        capture.hooks.seconds = self.gradients.seconds = self.sizes.seconds = 0.0
        capture.ready = self.past_runs.ready
        block = capture.flush(together=together, looking=looking, closing=closing)
        if capture.ready:  # at once: nothing may fail on one rank before all have met here
            self.past_runs.share(capture.ranks)
        if at_batch:
            stepped = getattr(self._trainer.fit_loop.epoch_loop, "_batches_that_stepped", capture.steps - 1)
            self._lead = capture.steps - stepped
        self._update_gradients(capture.micro_batches - before, counted)
        if not self._introduced and capture.steps:
            self._introduce()
            self._setup_seconds += self._clock() - begun
            begun = self._clock()
        if self._changes.due and at_batch:
            sentence = "Changes of the plan are not followed ({cause}); the forecasts rest on the plan of the start."
            self._guard.run("changes", sentence, self._follow_changes)
        budget.begin_flush(begun)
        if self._introduced:
            self.past_runs.deliver()
            if at_batch:  # an unusual optimizer may fail: the rest can do without
                updating = len(block) > 0 and block.step[-1] >= engine.next_update
                self._guard.run("diagnostics", "The diagnostics could not be taken: {cause}", self._diagnose, updating)
        if len(block):
            updates = engine.observe(**block.columns())
            self.logger.points(block)
            self._report(updates, block)
        if self.sizes.error is not None:
            self._guard.failed("flops", "FLOPs are left out from here: {cause}", self.sizes.error)
        if capture.lossless:
            self._console.warn_once(
                "lossless",
                "No loss has been seen, because `training_step` returns none: return it (a tensor, or a dict with the "
                "key 'loss'), or name a logged metric with `monitor=`.",
            )
        budget.end_flush(begun, self.hooks.per_batch * (capture.micro_batches - before))
        capture.aim(None if budget.exceeded(engine.next_update) else engine.next_look)

    def _introduce(self) -> None:
        """The first step has been seen: say and write what is counted and planned."""
        self._introduced = True
        self._replan()
        self.logger.introduce(self.sizes, self.counts, self.engine, self.capture.steps)
        self.logger.prior_forecast(self.engine)
        if self._resumed:
            self.logger.mark(self._resumed, self.capture.steps, {"kind": EventKind.RESUME})
        self.past_runs.introduce()

    def _diagnose(self, updating: bool) -> None:
        """Pass new diagnostics to the engine, and to the journal, so that a backtest has them as well."""
        steps = self.capture.steps
        found = self._diagnostics.look(steps, **(self.gradients.diagnostics() if updating else {}))
        if found:
            self.engine.note(found)
            self.logger.mark("facts", steps, {"kind": EventKind.DIAGNOSTICS, "facts": found})

    def _update_gradients(self, batches: int, counted: int | None) -> None:
        """Use the norms read, and read no more of them while too much time has been taken."""
        capture, gradients = self.capture, self.gradients
        size = None
        if batches and counted is not None and capture.counted is not None:
            size = (capture.counted - counted) / (batches * capture.ranks.world)
        gradients.update(capture.reduced_extras, size)
        gradients.resting = self.budget.spent
        if gradients.error is not None:
            self._guard.failed("gradients", "Gradients could not be read: {cause}", gradients.error)

    def _record(self, updates: list[Update], block: Block | None) -> None:
        for update in updates:
            found = (block and block.at(update.step)) or self.capture.counters()
            counters = {**found, **self.gradients.counters(), "overhead": self.budget.fraction}
            self.logger.update(update, counters, update.step - self._lead, self.engine)

    def _report(self, updates: list[Update], block: Block | None = None) -> None:
        self._record(updates, block)
        for update in updates:
            if update.advice.topic != self._topic:
                self._topic = update.advice.topic
                self.logger.advice(update.advice)
        for watcher in list(self.watchers) if updates else ():
            watcher(self)

    # ------------------------------------------------------------------ epochs, validations, changes, the end

    def epoch(self, *, ended: bool) -> None:
        """An epoch has begun or ended: the two moments at which metrics of whole epochs turn up."""
        capture = self.capture
        self.sizes.end(failed=True)
        if capture.metric is not None or (ended and capture.stepless):
            self.flush(together=capture.between_epochs, looking=True, closing=ended)
        if not ended and capture.micro_batches:
            self._replan()
            self._changes.due = not capture.hooks.manual
            if self._changes.due and capture.alone:
                capture.hooks.make_room(capture.hooks.pending + 1)
            if self.sizes.refresh():
                capture.hooks.forget_sizes()
            self._check_metric(final=False)

    def validated(self) -> None:
        """A validation within the fit has ended."""
        self._validated = True
        if self.capture.metric is not None or self.capture.hooks.pending:
            self.flush(together=self.capture.between_epochs, looking=True)

    def mark(self, reason: str, *, follow_rates: bool) -> None:
        """A change was announced; several ranks do not meet here: what they have pending counts as coming after it."""
        if self.capture.alone and self.capture.hooks.pending:
            self.flush(together=True)
        self.engine.mark(reason, follow_rates=follow_rates)
        self._diagnostics.reset()
        self.gradients.noise = NoiseScale()
        self.logger.mark(reason, self.capture.steps, {"kind": EventKind.CHANGE, "follow_rates": follow_rates})

    def _check_metric(self, *, final: bool) -> None:
        metric, trainer = self.capture.metric, self._trainer
        due = final or self._validated or not getattr(trainer, "enable_validation", False)
        if metric is not None and due and not self.capture.hooks.metric_seen:
            names = ", ".join(sorted(trainer.callback_metrics)) or "none at all"
            self._console.warn_once(
                "metric",
                f"The metric `{metric}` that `monitor=` names has not been logged; available: {names}. Nothing can be "
                "forecast until it is.",
            )

    def finish(self) -> None:
        """Training has ended in order."""
        self.flush(together=self.capture.at_the_end, looking=True, closing=True)
        self._check_metric(final=True)
        self._conclude()

    def interrupt(self, seconds: float) -> bool:
        """Training was interrupted, on this rank at least: keep what was seen; whether that was done in time.

        Nothing is reduced over the ranks, drawn or fitted anew, and no function of the user is called.
        """
        self.status = RunStatus.INTERRUPTED
        return self._within(seconds, self._keep_pending)

    def _keep_pending(self) -> None:
        self.past_runs.cancel()
        block = self.capture.flush(together=False, closing=True)
        self.logger.points(block)
        if len(block):
            self._record(self.engine.observe(**block.columns()), block)

    def _within(self, seconds: float, function: Callable[..., object], *args: Any) -> bool:
        # A step that is being watched is left here: a thread of its own cannot end what watches this one.
        self.sizes.end(failed=True)
        return within(seconds, function, *args)

    def _conclude(self) -> None:
        early = self.capture.steps < (self.engine.plan.total_steps or 0)
        self.status = RunStatus.STOPPED_EARLY if early else RunStatus.FINISHED
        self.budget.book()
        self._report(self.engine.finish())
        self.past_runs.cancel()

    def close(self, seconds: float) -> bool:
        """Write the artifacts, send what waits, and let go of the Trainer; whether that was done within some seconds.

        What has not returned by then is left behind.
        """
        if self._closed:
            return True
        self._closed = True
        return self._within(max(seconds, 0.0), self._close, seconds)

    def _close(self, deadline: float) -> None:
        spent = {"overhead": self.budget.fraction, "setup_seconds": self._setup_seconds}
        try:
            self.logger.close(self.engine, self.run_fields(), spent, self.status, deadline)
        finally:
            self._console.close()
            self._trainer = None
            for part in (self.capture, self.gradients, self.sizes, self._diagnostics, self._changes, self.hooks):
                part.detach()
            del self.hooks, self.batch_started

    # ------------------------------------------------------------------ results

    def run_fields(self) -> dict[str, Any]:
        """What is known of the run besides its curve, as arguments of :class:`~lightning_scaling.runs.run.Run`."""
        capture, counted = self.capture, self.capture.counted
        return {
            "name": self._settings.name,
            "tokens_per_step": counted / capture.steps if counted and capture.steps else None,
            "flops_per_step": capture.flops / capture.steps if capture.flops and capture.steps else None,
            "meta": {"unit": self.sizes.unit, "flops": self.sizes.meter.provenance},
        }

    def state_dict(self, *, flush: bool = False, together: bool = False) -> dict[str, Any]:
        """Everything needed to go on, as builtins.

        Args:
            flush: Whether to read first what is pending.
            together: Whether every rank is certain to be here.
        """
        if flush and (self.capture.hooks.pending if self.capture.alone else together):
            self.flush(together=True)
        parts = {name: getattr(self, name) for name in ("capture", "engine", "gradients", "logger")}
        parts |= {"sizes": self.sizes.meter, "diagnostics": self._diagnostics}
        return {name: part.state_dict() for name, part in parts.items()}
