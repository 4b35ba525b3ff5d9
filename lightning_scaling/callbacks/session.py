"""One fit under observation: from what is captured to the engine, from the engine to the record and the console."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from statistics import median
from time import perf_counter
from typing import TYPE_CHECKING, Any
from weakref import ref

from lightning_scaling.callbacks.aggregation import Block
from lightning_scaling.callbacks.batch_size_meter import BatchSizeMeter
from lightning_scaling.callbacks.capture import Capture
from lightning_scaling.callbacks.console import Console
from lightning_scaling.callbacks.device_reads import CaptureError
from lightning_scaling.callbacks.diagnostics import Diagnostics
from lightning_scaling.callbacks.gradients import BeforeStep, Gradients, Take
from lightning_scaling.callbacks.past_runs import PastRuns
from lightning_scaling.callbacks.run_logger import RunLogger
from lightning_scaling.callbacks.settings import Settings
from lightning_scaling.engine.monitor import Monitor, Update
from lightning_scaling.schedule import Plan
from lightning_scaling.schedule.from_trainer import plan_from_trainer
from lightning_scaling.tracking.journal import ANNOUNCED, NOTED, RESUMED

if TYPE_CHECKING:
    from lightning_scaling.compute import ParamCounts

_SAMPLES = 16
_FREE_SECONDS = 0.03
_MARGIN = 0.9
_UPDATE_SECONDS = 0.005


class Session:
    """Everything that lives from the start of training to its end, on one rank.

    Args:
        settings: The arguments of the callback.
        console: Where to say things.
        counts: Parameters counted before the model was sharded.
        clock: Monotonic clock in seconds; ``time.perf_counter`` unless given.

    Attributes:
        engine: The engine; ``None`` until :meth:`start`.
        past: The past runs it learns from.
        watchers: Called after updates; they must not raise.
        setup_seconds: Time spent once, before and at the first step: counting, measuring, planning.
    """

    def __init__(
        self,
        settings: Settings,
        console: Console,
        counts: ParamCounts | None,
        clock: Callable[[], float] | None = None,
    ) -> None:
        self.engine: Monitor | None = None
        self.past = PastRuns(settings, console)
        self.watchers: list[Callable[[Session], None]] = []
        self.setup_seconds = 0.0
        self._closed = False
        self._settings = settings
        self._console = console
        self._counts = counts
        self._clock = clock or perf_counter
        self._samples: list[float] = []
        self._per_batch = 0.0
        self._introduced = False
        self._validated = False
        self._lead = 1
        self._topic: tuple[str, str | None] = ("continue", None)
        self._unbooked = 0.0
        self._flushing: float | None = None
        self._made = 0
        self._mark = ""

    def start(self, trainer: Any, module: Any, state: Mapping[str, Any] | None) -> None:
        """Begin, or go on from the state of a checkpoint; training is about to start and everything is restored."""
        begun = self._clock()
        settings = self._settings
        self._trainer = trainer
        self._console.open(trainer)
        self.sizes = BatchSizeMeter(settings.count, settings.flops, module)
        self.capture = Capture(self.sizes, metric=settings.monitor, clock=self._clock)
        if state is not None:
            self.capture.load_state_dict(state["capture"])
            self.sizes.load_state_dict(state["sizes"])
        self.capture.attach(trainer, module)
        self.gradients = Gradients(trainer, module, self.capture.intake.progress, self._clock)
        self.capture.riders = self.gradients.drain
        if state is not None:
            self.gradients.load_state_dict(state.get("gradients", {}))
        counted = None if self._counts is None else self._counts.total
        engine = Monitor(
            self._plan(), settings.for_engine(counted), skip=None if settings.max_overhead >= 1 else _Budget(self)
        )
        if state is not None:
            engine.load_state_dict(state["engine"])
            self._topic = engine.advice.topic
        if state is not None or self.capture.steps:
            self._mark = f"resumed at step {self.capture.steps}"
            engine.mark(self._mark)
        self.record = RunLogger(settings, trainer, self._console, state)
        self._facts = Diagnostics(trainer, module, self.sizes)
        self.engine = engine
        self.past.open(engine, self.record, first=bool(trainer.is_global_zero))
        self.setup_seconds = self._clock() - begun
        self.capture.begin()

    def _plan(self) -> Plan:
        """The plan, as rank zero sees it."""
        trainer = self._trainer
        try:
            plan = plan_from_trainer(trainer, step=self.capture.steps)
        except Exception as error:
            self._console.once(
                "plan",
                f"The learning-rate schedule could not be worked out ({type(error).__name__}: {error}); it is taken as "
                "constant, and the forecasts are to be trusted little.",
            )
            total = trainer.max_steps if isinstance(trainer.max_steps, int) and trainer.max_steps > 0 else None
            plan = Plan.constant(total_steps=total, known=False, why="the schedule could not be worked out")
        return plan if trainer.world_size == 1 else Plan.from_dict(trainer.strategy.broadcast(plan.to_dict()))

    def hooks(self) -> tuple[Take, BeforeStep]:
        """What to call after each batch and before each optimizer step."""
        intake = self.capture.intake
        return self.gradients.following(intake.take, intake.before_step)

    def calls(self, take: Take, before_step: BeforeStep) -> bool:
        """Whether these two are called as they are, with nothing around them."""
        return any(take is one.take and before_step is one.before_step for one in (self.capture.intake, self.gradients))

    def _note(self, *, updating: bool) -> None:
        """Tell the engine what is new beside the losses, and the journal, so that a replay knows it as well."""
        assert self.engine is not None
        try:
            news = self._facts.look(self.capture.steps, **(self.gradients.facts() if updating else {}))
        except Exception as error:  # an unusual optimizer, say: the rest can do without
            self._console.once("facts", f"Facts beside the losses could not be seen: {type(error).__name__}: {error}")
            return
        if news:
            self.engine.note(news)
            self.record.mark("facts", self.capture.steps, {"kind": NOTED, "facts": news})

    def _replan(self) -> None:
        """Ask again where the module steps its own schedulers: how often, only the run can show."""
        assert self.engine is not None
        if self.capture.intake.manual and not self.engine.plan.known:
            plan = self._plan()
            if plan.known:
                self.engine.replan(plan)
                self.record.replan(plan, max(self.engine.curve.last_step, 0))

    # ----------------------------------------------------------------- batches

    def sample(self, seconds: float) -> None:
        """Note what one batch took: the sample from which the cost of all is estimated."""
        self._samples = [*self._samples[1 - _SAMPLES :], seconds]
        self._per_batch = median(self._samples)

    def broken(self, error: BaseException, *, in_batch: bool) -> bool:
        """Give up after an error.

        Returns:
            Whether this rank has to limp on until it meets the others, who know nothing of the error yet.
        """
        if isinstance(error, CaptureError) or self.engine is None or self._closed or not self.capture.break_off(error):
            return False
        if in_batch and self.capture.intake.limp():
            with suppress(CaptureError):
                self.capture.flush()
            return False
        return True

    # ------------------------------------------------------------------ flushes

    def flush(self, *, looking: bool = False, closing: bool = False, at_batch: bool = False) -> None:
        """Read what is pending and let the engine have it.

        Args:
            looking: Whether the followed metric may have a new value here.
            closing: Whether an epoch or the training ends here.
            at_batch: Whether this is the end of a batch.

        Raises:
            CaptureError: If capture had to be given up, on all ranks alike.
        """
        assert self.engine is not None
        begun = self._clock()
        capture, engine = self.capture, self.engine
        before, counted = capture.micro_batches, self._counted
        capture.own_seconds += self._unbooked + capture.intake.seconds + self.gradients.seconds + self.sizes.seconds
        self._unbooked = capture.intake.seconds = self.gradients.seconds = self.sizes.seconds = 0.0
        block = capture.flush(looking=looking, closing=closing)
        if at_batch:
            stepped = getattr(self._trainer.fit_loop.epoch_loop, "_batches_that_stepped", capture.steps - 1)
            self._lead = capture.steps - stepped
        self._see_gradients(capture.micro_batches - before, counted)
        if not self._introduced and capture.steps:
            self._introduced = True
            self._replan()
            self.record.introduce(self.sizes, self._counts, engine, capture)
            self.record.foretell(engine)
            if self._mark:
                self.record.mark(self._mark, capture.steps, {"kind": RESUMED})
            self.past.introduce(engine, self.record)
            self.setup_seconds += self._clock() - begun
            begun = self._clock()
        self._flushing, self._made = begun, 0
        if self._introduced:
            self.past.learn(engine, self.record)
            if at_batch:
                self._note(updating=len(block) > 0 and block.step[-1] >= engine.next_update)
        if len(block):
            updates = engine.observe(
                block.step,
                block.loss,
                lr=block.lr,
                tokens=block.samples if block.tokens is None else block.tokens,
                flops=block.flops,
                seconds=block.seconds,
            )
            self.record.points(block)
            self._report(updates, block)
        if (error := self.sizes.error) is not None:
            self._console.once("flops", f"FLOPs are left out from here: {type(error).__name__}: {error}")
        if capture.lossless:
            self._console.once(
                "lossless",
                "No loss has been seen, because `training_step` returns none: return it (a tensor, or a dict with the "
                "key 'loss'), or name a logged metric with `monitor=`.",
            )
        self._flushing = None
        self._unbooked = self._clock() - begun + self._per_batch * (capture.micro_batches - before)
        capture.aim(None if self.over_budget(engine.next_update) else engine.next_look)

    def _see_gradients(self, batches: int, counted: int | None) -> None:
        """Learn what was seen of gradients, and read no more of them while too much time has been taken."""
        capture, gradients = self.capture, self.gradients
        known = batches and counted is not None and self._counted is not None
        size = ((self._counted or 0) - (counted or 0)) / (batches * gradients.world) if known else None
        gradients.learn(capture.ridden, size)
        gradients.rest(capture.own_seconds > max(_FREE_SECONDS, _MARGIN * self.share * capture.seconds))
        if gradients.error is not None:
            self._console.once(
                "gradients", f"Gradients could not be read: {type(gradients.error).__name__}: {gradients.error}"
            )

    @property
    def _counted(self) -> int | None:
        """Samples or tokens of all ranks so far, whichever is counted."""
        return self.capture.samples if self.sizes.unit == "samples" else self.capture.tokens

    def over_budget(self, step: int) -> bool:
        """Whether an update now would take more of the training time than the monitor may use.

        Several ranks have to answer alike, so they reckon with rank zero's time and a usual cost of an update.
        """
        capture = self.capture
        spent = capture.own_seconds + self._unbooked
        if self._flushing is not None:
            spent += self._clock() - self._flushing if capture.alone else self._made * _UPDATE_SECONDS
            self._made += 1
        return spent > max(_FREE_SECONDS, _MARGIN * self._settings.max_overhead * capture.seconds)

    @property
    def overhead(self) -> float:
        """Own time as a fraction of the training time, setup not included; up to date at flushes."""
        return self.capture.own_seconds / max(self.capture.seconds, 1e-9)

    def _report(self, updates: list[Update], block: Block | None) -> None:
        assert self.engine is not None
        seen = self.gradients.counters() if updates else {}
        for update in updates:
            found = {} if block is None else block.at(update.step)
            counters = {**(found or self.capture.counters()), **seen, "overhead": self.overhead}
            self.record.update(update, counters, update.step - self._lead, self.engine)
            if update.advice.topic != self._topic:
                self._topic = update.advice.topic
                self.record.advice(update.advice)
        for watcher in list(self.watchers) if updates else ():
            watcher(self)

    # ------------------------------------------------------------------ the rest

    def validated(self) -> None:
        """A validation within the fit has ended."""
        self._validated = True
        if self.capture.metric is not None or self.capture.pending:
            self.flush(looking=True)

    def mark(self, reason: str, *, follow_rates: bool) -> None:
        """A change was announced; several ranks do not meet here: what they have pending counts as coming after it."""
        assert self.engine is not None
        if self.capture.alone and self.capture.pending:
            self.flush()
        self.engine.mark(reason, follow_rates=follow_rates)
        self._facts.reset()
        self.gradients.reset()
        self.record.mark(reason, self.capture.steps, {"kind": ANNOUNCED, "follow_rates": follow_rates})

    def epoch(self, *, ended: bool) -> None:
        """An epoch has begun or ended: the two moments at which metrics of whole epochs turn up."""
        capture = self.capture
        self.sizes.end(failed=True)
        if capture.metric is not None or (ended and capture.stepless):
            self.flush(looking=True, closing=ended)
        if not ended and capture.micro_batches:
            self._replan()
            if self.sizes.refresh():
                self.capture.intake.forget()
            self._miss_metric(final=False)

    def _miss_metric(self, *, final: bool) -> None:
        metric = self.capture.metric
        if metric is None or self.capture.intake.metric_seen:
            return
        if not final and not self._validated and getattr(self._trainer, "enable_validation", False):
            return
        names = ", ".join(sorted(self._trainer.callback_metrics)) or "none at all"
        self._console.once(
            "metric",
            f"The metric `{metric}` that `monitor=` names has not been logged; available: {names}. Nothing can be "
            "forecast until it is.",
        )

    def finish(self) -> None:
        """Training has ended in order."""
        assert self.engine is not None
        self.flush(looking=True, closing=True)
        self._miss_metric(final=True)
        self._conclude()

    def abort(self) -> None:
        """Training was interrupted, on this rank at least: keep what can be had without the others."""
        if self.capture.alone:
            self.flush(closing=True)
            self._conclude()

    def _conclude(self) -> None:
        assert self.engine is not None
        self.capture.own_seconds += self._unbooked
        self._unbooked = 0.0
        self._report(self.engine.finish(), None)
        self.past.give_up()

    def close(self, deadline: float) -> None:
        """Write the artifacts, send what waits for at most ``deadline`` seconds, and let go of the Trainer."""
        if self._closed:
            return
        self._closed = True
        try:
            if self.engine is not None:
                self.record.close(self.engine, self.known(), self.overhead, self.setup_seconds, deadline)
        finally:
            self._console.close()
            self._trainer = None
            self.capture.detach()
            self.gradients.detach()
            self.sizes.detach()
            self._facts.detach()

    def stopping(self, decision: Mapping[str, Any], *, stopped: bool) -> None:
        """The run is stopped, or would have been."""
        self.record.stop(decision, stopped)
        done = "Stopping" if stopped else "Dry run, would stop"
        self._console.line(f"Scaling monitor: {done} at step {decision['step']:,}. {decision['reason']}")

    @property
    def share(self) -> float:
        """Fraction of the training time that may be used."""
        return self._settings.max_overhead

    @property
    def counts(self) -> ParamCounts | None:
        """Parameters counted before the model was sharded."""
        return self._counts

    @property
    def steps(self) -> int:
        """Optimizer steps seen, up to date at flushes."""
        return self.capture.steps

    def known(self) -> dict[str, Any]:
        """What is known of the run besides its curve, as arguments of :class:`~lightning_scaling.runs.run.Run`."""
        capture = self.capture
        seen = self._counted
        return {
            "name": self._settings.name,
            "tokens_per_step": seen / capture.steps if seen and capture.steps else None,
            "flops_per_step": capture.flops / capture.steps if capture.flops and capture.steps else None,
            "meta": {"unit": self.sizes.unit, "flops": self.sizes.provenance},
        }

    def state_dict(self, *, flush: bool) -> dict[str, Any]:
        """Everything needed to go on, as builtins."""
        assert self.engine is not None
        if flush and self.capture.pending:
            self.flush()
        return {
            "capture": self.capture.state_dict(),
            "sizes": self.sizes.state_dict(),
            "engine": self.engine.state_dict(),
            "gradients": self.gradients.state_dict(),
            "record": self.record.state_dict(),
        }


class _Budget:
    """Asks a session whether to leave an update out, without keeping it alive or being pickled with it."""

    def __init__(self, session: Session) -> None:
        self._session = ref(session)

    def __call__(self, step: int) -> bool:
        session = self._session()
        return session is not None and session.over_budget(step)

    def __reduce__(self) -> tuple[Any, ...]:
        return (_unlimited, ())


def _unlimited() -> None:
    """What becomes of a budget in another process: none."""
