"""The callback that knows, while a run is still training, where its loss is going to land."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from time import perf_counter
from typing import Any, Literal

from lightning_scaling.advice import Advice
from lightning_scaling.callbacks._compat import CallbackBase
from lightning_scaling.callbacks.batch_size_meter import BatchSizeMeter
from lightning_scaling.callbacks.console import Console, ScalingAdviceWarning, warn
from lightning_scaling.callbacks.session import Session
from lightning_scaling.callbacks.settings import Settings
from lightning_scaling.compute import BatchCounter, FlopMeter, ParamCounts, count_params
from lightning_scaling.detection import Deviation
from lightning_scaling.engine.monitor import Monitor
from lightning_scaling.forecast import Forecast, WhatIf
from lightning_scaling.runs.history import RunHistory
from lightning_scaling.runs.run import Run
from lightning_scaling.schedule import Plan

__all__ = ["ScalingAdviceWarning", "ScalingLawMonitor"]

_VERSION = 1
_DEADLINE = 8.0
_SETTLED = 8


class ScalingLawMonitor(CallbackBase):
    r"""Forecasts the final loss of a run while it trains, tests whether the run keeps to the forecast, and advises.

    Follows the loss that ``training_step`` returns, undoing the division by ``accumulate_grad_batches``; counts
    samples, tokens and FLOPs; works out the learning rate of every future step from the optimizers and schedulers; and
    writes to MLflow, to the Trainer's other loggers and to a journal, waiting for none of them. Between flushes, at
    most 256 steps apart, nothing is read from the device. Advice never stops a run, and neither does a failure of the
    monitor: it is reported once, and the monitor falls silent.

    =================================  ======================================================================
    metric                             meaning
    =================================  ======================================================================
    ``scaling/loss``                   loss since the update before
    ``scaling/forecast/final``         median of the loss at the end of the plan
    ``scaling/forecast/lower, upper``  its 90 % interval
    ``scaling/deviation/e_value``      evidence that the run has left its forecast; an alarm at ``1 / alpha``
    ``scaling/tokens, samples``        seen so far, all ranks together
    ``scaling/flops, log10_flops``     training FLOPs so far, forward and backward, all ranks together
    ``scaling/seconds``                training time so far, earlier fits of the run included
    ``scaling/lr``                     learning rate used
    ``scaling/gradient_norm``          norm of the gradient before clipping, at one step in 50 or fewer
    ``scaling/gradient_noise_scale``   batch, in samples or tokens, beyond which more of it buys ever less
    ``scaling/overhead``               time taken by the monitor as a fraction of the training time
    =================================  ======================================================================

    One step is one batch, or one group of accumulated batches, after which at least one optimizer stepped. With several
    optimizers the first one's learning rate counts, of its largest parameter group.

    Args:
        monitor: Name of a logged metric to follow instead of the training loss: one logged on every step, one of whole
            epochs, or one of validation, told apart by when it turns up.
        mode: Whether that metric is to be low (``"min"``) or high (``"max"``). ``"auto"`` is ``"max"`` for the usual
            names of accuracies and scores, such as ``val_acc``, ``f1`` or ``mean_iou``, and ``"min"`` for all others.
        bounds: The lowest and the highest value the metric can have, ``None`` for one there is not, as in ``(0, 1)`` or
            ``(0, None)``. Left out, a loss has none; accuracies, error rates and metrics that are to be high lie
            between 0 and 1, or between 0 and 100 once a value above 1 has been seen. Forecasts stay inside the bounds.
        history: Past runs of the same family, whose shapes replace the published prior: a
            ``RunHistory``, a folder of CSV files, or ``"mlflow:EXPERIMENT"``. ``None`` or
            ``"auto"`` is the experiment of the run's own MLflow run, without that run; ``False`` is none. All but a
            ``RunHistory`` are read beside the training, which does not wait, and used from the next update on.
        law: Law of the curve: ``"auto"`` or ``"relative_multi_power"``.
        target: Loss that the run is meant to reach, or value of the metric followed: at most, at least for ``"max"``.
        alpha: Probability of a false alarm over the whole run, in (0, 1).
        on_advice: What to do when the advised action changes, on rank zero: ``"warn"`` (one Python warning, of category
            :class:`ScalingAdviceWarning`), ``"log"``, ``"ignore"`` or ``None``, or a function called with the
            :class:`~lightning_scaling.advice.Advice`.
        count: What to count: ``"auto"``, ``"samples"``, ``"tokens"``, the tokens per sample, or a function of the
            batch; see :class:`~lightning_scaling.compute.BatchCounter`.
        flops: Where the training FLOPs of a batch on one rank come from: ``"auto"``, ``"6ND"``, a number, a function of
            the batch, or ``None`` for nowhere; see :class:`~lightning_scaling.compute.FlopMeter`.
        params: Number of parameters, where counting the module's would be wrong.
        unique_tokens: Distinct training tokens (or samples) there are, by which repeats are told. ``None`` works them
            out from the length of the dataloader; of data without a length nothing is said.
        max_overhead: Fraction of the training time that the monitor may use, beyond the first hundredths of a second;
            updates that would take more are left out. 1 sets no limit.
        journal: Folder for the journals; ``True`` puts them into ``scaling_journals`` under the Trainer's
            ``default_root_dir``, ``False`` or ``None`` writes none.
        name: Name of the run, in its journal and its record.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If an argument has a value that it cannot have.

    Example::

        >>> from lightning.pytorch import Trainer  # doctest: +SKIP
        >>> trainer = Trainer(max_steps=20_000, callbacks=ScalingLawMonitor())  # doctest: +SKIP
        >>> trainer.fit(model)  # doctest: +SKIP
        >>> monitor = trainer.callbacks[0]  # doctest: +SKIP
        >>> monitor.forecast.final, monitor.forecast.interval(0.9), monitor.advice.action  # doctest: +SKIP
    """

    def __init__(
        self,
        monitor: str | None = None,
        *,
        mode: Literal["auto", "min", "max"] = "auto",
        bounds: Sequence[float | None] | None = None,
        history: RunHistory | str | Path | bool | None = None,
        law: str = "auto",
        target: float | None = None,
        alpha: float = 0.01,
        on_advice: Literal["warn", "log", "ignore"] | Callable[[Any], Any] | None = "warn",
        count: Literal["auto", "samples", "tokens"] | int | Callable[[Any], Any] = "auto",
        flops: Literal["auto", "6ND"] | float | Callable[[Any], Any] | None = "auto",
        params: int | None = None,
        unique_tokens: float | None = None,
        max_overhead: float = 0.01,
        journal: bool | str | Path | None = True,
        name: str | None = None,
    ) -> None:
        super().__init__()
        self._settings = Settings(
            monitor=monitor,
            mode=mode,
            bounds=bounds,
            history=history,
            law=law,
            target=target,
            alpha=alpha,
            on_advice=on_advice,
            count=count,
            flops=flops,
            params=params,
            unique_tokens=unique_tokens,
            max_overhead=max_overhead,
            journal=journal,
            name=name,
        )
        self._key = self._generate_state_key(monitor=monitor)
        BatchCounter(count)
        FlopMeter(flops)
        self._engine: Monitor | None = None
        self._session: Session | None = None
        self._past: Session | None = None
        self._counts: ParamCounts | None = None
        self._loaded: dict[str, Any] | None = None
        self._saved: dict[str, Any] = {}
        self._interrupted = False
        self._watchers: list[Callable[[Session], None]] = []
        self._begin: Callable[[Any], None] | None = None
        self._sizes: BatchSizeMeter | None = None
        self._take: Callable[[Any, Any], bool] = _take_nothing
        self._before_step: Callable[[Any], None] = _note_nothing

    # ------------------------------------------------------------------ results

    @property
    def followed(self) -> str | None:
        """Name of the metric followed; ``None`` for the training loss."""
        return self._settings.monitor

    @property
    def session(self) -> Session | None:
        """The fit under observation, for callbacks that act on it; ``None`` while there is none."""
        return self._session

    @property
    def run(self) -> Run | None:
        """The run recorded so far; ``None`` before the first finite loss."""
        if self._engine is None or len(self._engine.curve) == 0:
            return None
        session = self._session or self._past
        return self._engine.run(**({} if session is None else session.known()))

    @property
    def forecast(self) -> Forecast | None:
        """The latest forecast; ``None`` before training."""
        return None if self._engine is None else self._engine.forecast

    @property
    def deviation(self) -> Deviation | None:
        """The latest verdict on the run; ``None`` before training."""
        return None if self._engine is None else self._engine.deviation

    @property
    def advice(self) -> Advice | None:
        """The latest advice; ``None`` before training."""
        return None if self._engine is None else self._engine.advice

    @property
    def advice_log(self) -> list[Advice]:
        """Every advice that differed from the one before, oldest first."""
        return [] if self._engine is None else list(self._engine.advice_log)

    @property
    def counters(self) -> dict[str, Any]:
        """What has been counted, up to the last flush; empty before training.

        ``steps``, ``optimizer_steps`` (of all optimizers), ``micro_batches`` (of each rank), ``skipped`` (micro-batches
        without a loss), ``samples``, ``tokens`` and ``flops`` (of all ranks; ``None`` if unknown), ``seconds``.
        """
        session = self._session or self._past
        return {} if session is None or session.engine is None else session.capture.totals()

    @property
    def overhead(self) -> float:
        """Time the monitor has taken during training, as a fraction of the training time; 0 before training.

        Counted are its own calls in the training loop, those of single steps by sampling. Not counted are what
        Lightning spends on calling any callback, the threads that write to MLflow, and what is done once: measuring
        FLOPs, working out the plan, drawing the figures.
        """
        session = self._session or self._past
        return 0.0 if session is None or session.engine is None else session.overhead

    @property
    def forecast_log(self) -> list[dict[str, Any]]:
        """Every forecast made, and what came of it where that is known; builtins."""
        return [] if self._engine is None else [dict(row) for row in self._engine.forecast_log]

    def what_if(self, change: str | Plan, **options: Any) -> WhatIf | None:
        """Where the run would land under another plan from here; ``None`` before training.

        Args:
            change: ``"stop"``, ``"decay"``, ``"longer"``, ``"wsd"`` or another plan.
            **options: Its options, as of :func:`~lightning_scaling.forecast.what_if`.

        Raises:
            ValueError: If the rates of the plan are not known, or the change or an option is none that can be made.
            TypeError: If the change has no such option.
        """
        return None if self._engine is None else self._engine.what_if(change, **options)

    def what_ifs(self, changes: Iterable[str | Plan | tuple[str, Mapping[str, Any]]] | None = None) -> list[WhatIf]:
        """Carrying on, then several changes, by default the usual ones; empty before training."""
        return [] if self._engine is None else self._engine.what_ifs(changes)

    @property
    def watchers(self) -> list[Callable[[Session], None]]:
        """Functions called after the updates of this rank; they must not raise."""
        return self._watchers

    def mark(self, reason: str, *, follow_rates: bool = False) -> None:
        """Announce a change made on purpose, such as new data: the test against earlier forecasts begins anew.

        Call it on every rank alike. Without a run in training it does nothing.

        Args:
            reason: What has changed; it is kept in the journal.
            follow_rates: Whether the learning rate leaves the plan from now on: the rates used are then the plan.
        """
        if self._session is not None:
            self._guard(self._session.mark, reason, follow_rates=follow_rates)

    # ------------------------------------------------------- hooks of each batch

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """Watch some of the steps, to count their FLOPs."""
        if self._begin is not None:
            self._guard(self._begin, batch)

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        """Note the learning rate."""
        try:
            if self._sizes is not None and self._sizes.watch is not None:
                self._sizes.watch.updating()
            self._before_step(optimizer)
        except Exception as error:
            self._fail(error)

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Take the loss and the size of the batch."""
        try:
            if self._sizes is not None and self._sizes.watch is not None:
                self._sizes.end()
            due = self._take(outputs, batch)
        except Exception as error:
            self._fail(error, in_batch=True)
            return
        if due:
            self._flush()

    def _flush(self) -> None:
        session = self._session
        if session is not None:
            self._guard(session.flush, at_batch=True)
            if self._session is session and session.calls(self._take, self._before_step):
                self._time_next(session)

    def _time_next(self, session: Session) -> None:
        """Time a batch soon, as a sample of all; not the next one, which the flush has slowed down."""
        (taking, noting), gradients = session.hooks(), session.gradients
        spent, ahead, reading = 0.0, _SETTLED, 0.0

        def before_step(optimizer: Any) -> None:
            nonlocal spent
            begun = perf_counter()
            noting(optimizer)
            spent = perf_counter() - begun

        def take(outputs: Any, batch: Any) -> bool:
            nonlocal ahead, reading
            begun = perf_counter()
            due = taking(outputs, batch)
            ahead -= 1
            if ahead <= 0 and gradients.seconds == reading:  # not a step whose gradients were read: that is booked
                session.sample(perf_counter() - begun + spent)
                self._take, self._before_step = taking, gradients.once(noting, release) or noting
            reading = gradients.seconds
            return due

        def release() -> None:
            self._before_step = noting

        self._take, self._before_step = take, before_step

    # -------------------------------------------------------------- other hooks

    def setup(self, trainer: Any, pl_module: Any, stage: Any) -> None:
        """Count the parameters before the model is sharded."""
        if _value(stage) == "fit":
            self._counts = None
            self._count(pl_module)

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        """Count parameters made since then."""
        self._count(pl_module)

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Begin to observe; the checkpoint, if any, has been restored."""
        self._interrupted = False
        self._session = None
        if not trainer.fast_dev_run:
            self._guard(self._start, trainer, pl_module)

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        """Look for metrics that the module logged at the very end of the epoch before."""
        if self._session is not None:
            self._guard(self._session.epoch, ended=False)

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Look for metrics of the epoch."""
        if self._session is not None:
            self._guard(self._session.epoch, ended=True)

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        """Look for metrics of the validation."""
        if self._session is not None and not trainer.sanity_checking:
            self._guard(self._session.validated)

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """Make the last update."""
        if self._session is not None:
            self._guard(self._session.finish)

    def on_fit_end(self, trainer: Any, pl_module: Any) -> None:
        """Write the artifacts and send what waits."""
        self._close()

    def teardown(self, trainer: Any, pl_module: Any, stage: Any) -> None:
        """Let go of everything, should it not have been done."""
        self._close()

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """Keep what has been seen, without waiting for ranks that may be gone."""
        self._interrupted = True
        if self._sizes is not None:
            self._sizes.end(failed=True)
        if self._session is not None:
            self._guard(self._session.abort)
        self._close()

    # -------------------------------------------------------------------- state

    @property
    def state_key(self) -> str:
        """Tells this monitor's part of a checkpoint from that of one following another metric."""
        return self._key  # Lightning asks at every call of every hook

    def state_dict(self) -> dict[str, Any]:
        """Counters, curve, forecasts and advice, as builtins."""
        if self._session is not None:
            self._guard(self._save)
        return self._saved

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go on from a checkpoint at the next fit."""
        self._saved = self._loaded = dict(state_dict)

    def _save(self) -> None:
        assert self._session is not None
        self._saved = {"version": _VERSION, **self._session.state_dict(flush=not self._interrupted)}

    def __getstate__(self) -> dict[str, Any]:
        """Everything of our own but the training under way; Lightning lends callbacks the module's ``log``."""
        own = {name: value for name, value in self.__dict__.items() if name.startswith("_")}
        return {
            **own,
            "_session": None,
            "_past": None,
            "_watchers": [],
            "_begin": None,
            "_sizes": None,
            "_take": _take_nothing,
            "_before_step": _note_nothing,
        }

    def __deepcopy__(self, memo: dict[int, Any]) -> ScalingLawMonitor:
        """A copy that takes no part in the training under way."""
        made = type(self).__new__(type(self))
        memo[id(self)] = made
        made.__dict__.update(copy.deepcopy(self.__getstate__(), memo))
        return made

    # ------------------------------------------------------------------ private

    def _count(self, module: Any) -> None:
        """Keep the larger count: a module may make its layers late, and a sharded one shows only a part of them."""
        try:
            counts = count_params(module)
        except Exception as error:
            warn(f"The parameters could not be counted ({type(error).__name__}: {error}); training continues.")
            return
        if self._counts is None or counts.total > self._counts.total:
            self._counts = counts

    def _start(self, trainer: Any, module: Any) -> None:
        state, self._loaded = self._loaded, None
        past = self._past
        if state is None and past is not None and past.steps == trainer.global_step > 0:
            state = self._saved
        session = Session(self._settings, Console(bool(trainer.is_global_zero)), self._counts)
        self._past = self._session = session
        session.watchers = self.watchers
        session.start(trainer, module, state)
        self._engine = session.engine
        self._take, self._before_step = session.hooks()
        self._sizes, self._begin = session.sizes, session.sizes.begin

    def _rest(self) -> None:
        """Do nothing at each batch."""
        if self._sizes is not None:
            self._sizes.end(failed=True)
        self._begin = self._sizes = None
        self._take, self._before_step = _take_nothing, _note_nothing

    def _guard(self, function: Callable[..., None], *args: Any, **kwargs: Any) -> None:
        """Call something of ours; an error in it must not reach the training."""
        try:
            function(*args, **kwargs)
        except Exception as error:
            self._fail(error)

    def _fail(self, error: Exception, *, in_batch: bool = False) -> None:
        session = self._session
        try:
            Console(True).once("failed", _farewell(error))
            self._rest()
            if session is not None and session.broken(error, in_batch=in_batch):
                self._take = lambda outputs, batch: session.capture.intake.limp()
                return
            self._session = None
            if session is not None:
                session.close(deadline=2.0)
        except Exception:
            self._session = None

    def _close(self) -> None:
        session, self._session = self._session, None
        self._rest()
        if session is not None:
            try:
                self._saved = {"version": _VERSION, **session.state_dict(flush=False)}
                session.close(_DEADLINE)
            except Exception as error:
                self._fail(error)


def _take_nothing(outputs: Any, batch: Any) -> bool:
    return False


def _note_nothing(optimizer: Any) -> None:
    return


def _farewell(error: Exception) -> str:
    what = f"{type(error).__name__}: {str(error).rstrip('.')}"
    return f"The scaling monitor failed ({what}). Monitoring is off; training continues."


def _value(enum: Any) -> Any:
    return getattr(enum, "value", enum)
