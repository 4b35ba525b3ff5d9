"""The callback that forecasts the final loss of a run while it trains."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from time import perf_counter
from typing import Any, Literal

from lightning_scaling.callbacks.console import ScalingAdviceWarning, warn
from lightning_scaling.callbacks.guard import Guard, SetupError, guarded, is_fitting, is_new_run
from lightning_scaling.callbacks.monitor_results import MonitorResults
from lightning_scaling.callbacks.session import Session
from lightning_scaling.callbacks.settings import Settings
from lightning_scaling.callbacks.spawned import SpawnedResults
from lightning_scaling.compute import BatchCounter, FlopMeter, ParamCounts, count_params
from lightning_scaling.runs.history import RunHistory
from lightning_scaling.schedule.from_trainer import in_statistics_pass

__all__ = ["ScalingAdviceWarning", "ScalingLawMonitor"]

_STATE_VERSION = 1
_END_SECONDS = 8.0  # given to artifacts and servers at the end of a run
_INTERRUPTED_END_SECONDS = 1.0  # given to journal and servers after an exception, before the user's own code goes on


class ScalingLawMonitor(MonitorResults):
    r"""Forecasts the final loss of a run while it trains, tests whether the run keeps to the forecast, and advises.

    Follows the loss that ``training_step`` returns, undoing the division by ``accumulate_grad_batches``; counts
    samples, tokens and FLOPs; works out the learning rate of every future step from the optimizers and schedulers; and
    writes to MLflow, to the Trainer's other loggers and to a journal, waiting for none of them. Between flushes, a few
    seconds apart, nothing is read from the device. Advice never stops a run, and neither does a failure of the
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
    optimizers the first one's learning rate counts, of its largest parameter group. A Trainer may have several
    monitors of different metrics; those after the first write their names as ``scaling/METRIC/...``.

    Args:
        monitor: Name of a logged metric to follow instead of the training loss: one logged on every step, one of whole
            epochs, or one of validation, distinguished by when it turns up.
        mode: Whether that metric is to be low (``"min"``) or high (``"max"``). ``"auto"`` is ``"max"`` for the usual
            names of accuracies and scores, such as ``val_acc``, ``f1`` or ``mean_iou``, and ``"min"`` for all others.
        bounds: The lowest and the highest value the metric can have, ``None`` for one there is not, as in ``(0, 1)`` or
            ``(0, None)``. Left out, a loss has none; accuracies, error rates and metrics that are to be high lie
            between 0 and 1, or between 0 and 100 once a value above 1 has been seen. Forecasts stay inside the bounds.
        history: Past runs of the same family, whose shapes replace the published prior: a
            ``RunHistory``, a folder of CSV files, or ``"mlflow:EXPERIMENT"``. ``None`` or
            ``"auto"`` is the experiment of the run's own MLflow run, without that run; ``False`` is none. All but a
            ``RunHistory`` are read in the background, while training goes on, and used from the next update on.
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
        unique_tokens: Distinct training tokens (or samples) there are; more than these are repeats. ``None`` works them
            out from the length of the dataloader; of data without a length nothing is said.
        max_overhead: Fraction of the training time that the monitor may use, beyond the first hundredths of a second;
            updates that would take more are left out. 1 sets no limit.
        journal: Folder for the journals; ``True`` puts them into ``scaling_journals`` under the Trainer's
            ``default_root_dir``, ``False`` or ``None`` writes none.
        name: Name of the run, in its journal and its record.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If an argument has a value that it cannot have.

    Example:
        >>> from lightning.pytorch import Trainer
        >>> from lightning.pytorch.demos.boring_classes import BoringModel
        >>> monitor = ScalingLawMonitor(journal=False)
        >>> quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
        >>> trainer = Trainer(max_steps=32, callbacks=monitor, enable_model_summary=False, **quiet)
        >>> trainer.fit(BoringModel())
        >>> monitor.run.total_steps
        32
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
        self._latest = self._session = self._last_session = self._ended = None
        self._spawned = SpawnedResults()
        self._counts: ParamCounts | None = None
        self._loaded: dict[str, Any] | None = None
        self._saved: dict[str, Any] = {}
        self._scope = ""
        self._resting: Session | None = None
        self._watchers: list[Callable[[Session], None]] = []
        self._guard = Guard()

    @property
    def session(self) -> Session | None:
        """The fit under observation, for callbacks that act on it; ``None`` while there is none."""
        return self._session

    @property
    def watchers(self) -> list[Callable[[Session], None]]:
        """Functions called after the updates of this rank; they must not raise."""
        return self._watchers

    @guarded
    def mark(self, reason: str, *, follow_rates: bool = False) -> None:
        """Announce a change made on purpose, such as new data: the test against earlier forecasts begins anew.

        Call it on every rank alike. Without a run in training it does nothing.

        Args:
            reason: What has changed; it is kept in the journal.
            follow_rates: Whether the learning rate leaves the plan from now on: the rates used are then the plan.
        """
        if self._session is not None:
            self._session.mark(reason, follow_rates=follow_rates)

    # ------------------------------------------------------- hooks of each batch

    # Called at every batch, these catch their failures themselves: a decorator would cost another call.

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """Watch some of the steps, to count their FLOPs."""
        session = self._session
        if session is not None and session.batch_started is not None:
            try:
                session.batch_started(batch)
            except Exception as error:
                self._failed(error)

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        """Record the learning rate: at the end of the batch, schedulers have set that of the next step."""
        session = self._session
        if session is not None:
            try:
                session.hooks.before_step(optimizer)
            except Exception as error:
                self._failed(error)

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Record the loss and the size of the batch."""
        session = self._session
        if session is not None:
            try:
                if session.hooks.take(outputs, batch):
                    session.flush_batch()
            except Exception as error:
                self._failed(error)

    # -------------------------------------------------------------- other hooks

    @guarded
    def setup(self, trainer: Any, pl_module: Any, stage: Any) -> None:
        """Count the parameters before the model is sharded."""
        if is_fitting(stage):
            monitors = [one for one in trainer.callbacks if isinstance(one, ScalingLawMonitor)]
            # Two of the same metric are refused by Lightning: their state in a checkpoint would be one.
            self._scope = "" if self in monitors[:1] else self.followed or "training_loss"
            self._guard = Guard()
            self._counts = None
            self._count(pl_module)

    @guarded
    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        """Count parameters made since then."""
        self._count(pl_module)

    @guarded
    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Begin to observe; the checkpoint, if any, has been restored."""
        state = self._state_for(trainer)
        self._loaded, self._saved = None, state or {}
        self._latest = self._session = self._resting = self._last_session = self._ended = None
        if trainer.fast_dev_run:
            return
        session = Session(self._settings, trainer, pl_module, self._counts, state, scope=self._scope)
        session.watchers = self._watchers
        self._last_session = self._session = session
        self._latest = session.engine

    @guarded
    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        """Look for metrics that the module logged at the very end of the epoch before."""
        session = self._session
        if session is None:
            return
        if session.optimized_others():
            self._count(pl_module)
            session.recount(self._counts)
        session.epoch(ended=False)
        if in_statistics_pass(trainer):
            self._session, self._resting = None, session

    @guarded
    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Look for metrics of the epoch."""
        if self._session is not None:
            self._session.epoch(ended=True)

    @guarded
    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        """Look for metrics of the validation."""
        if self._session is not None and not trainer.sanity_checking:
            self._session.validated()

    @guarded
    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """Make the last update."""
        self._session, self._resting = self._session or self._resting, None
        if self._session is not None:
            self._session.finish()

    @guarded
    def on_fit_end(self, trainer: Any, pl_module: Any) -> None:
        """Write the artifacts and send what waits."""
        session, self._session = self._session, None
        loaded, self._loaded = self._loaded, None
        if loaded is not None and session is None:  # of a run that had ended: Lightning trains no batch
            self._restore(loaded)
        if session is not None:
            self._keep(session)
            self._spawned.send(trainer, self._saved)
            if not session.close(_END_SECONDS):
                warn(
                    f"The end of the run was not recorded in full within {_END_SECONDS:.0f} s; what had not ended by "
                    "then was left behind. The journal holds the curve and the forecasts."
                )

    @guarded
    def teardown(self, trainer: Any, pl_module: Any, stage: Any) -> None:
        """Let go of everything, should it not have been done."""
        self.on_fit_end(trainer, pl_module)

    @guarded
    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """Put what has been seen into the journal, without waiting for ranks that may be gone."""
        until = perf_counter() + _INTERRUPTED_END_SECONDS
        session, self._session, self._resting = self._session or self._resting, None, None
        if session is not None:
            try:
                session.interrupt(_INTERRUPTED_END_SECONDS)
                self._keep(session)  # while the journal is open: a resume goes on in it
            finally:
                session.close(until - perf_counter())

    # -------------------------------------------------------------------- state

    def state_dict(self) -> dict[str, Any]:
        """Counters, curve, forecasts and advice, as builtins."""
        self._save()
        return self._saved

    @guarded
    def on_save_checkpoint(self, trainer: Any, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        """Put in the state of all ranks together: Lightning has every rank wait for the others at a checkpoint."""
        session = self._session
        if session is not None and not session.capture.alone:
            self._keep(session, flush=True, together=True)
            checkpoint.setdefault("callbacks", {})[self.state_key] = self._saved

    @guarded
    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go on from a checkpoint at the next fit."""
        self._loaded = self._saved = dict(state_dict)

    @guarded
    def _save(self) -> None:
        session = self._session or self._resting
        if session is not None:
            self._keep(session, flush=True)

    def _keep(self, session: Session, **options: bool) -> None:
        params = None if session.counts is None else session.counts.total
        self._saved = {"version": _STATE_VERSION, "params": params, **session.state_dict(**options)}

    def _state_for(self, trainer: Any) -> dict[str, Any] | None:
        """The state that this fit goes on from; ``None`` for a new run.

        A fit from the first batch on is a new run, whatever this callback or a checkpoint restored by a search for a
        learning rate has seen before. A fit that goes on where the latest one of this callback ended goes on with it.
        """
        if is_new_run(trainer):
            return None
        last = self._last_session
        if last is not None and last.capture.optimizer_steps == trainer.global_step and trainer.ckpt_path is None:
            return self._saved or None
        return self._loaded

    # ------------------------------------------------------------------ private

    _failure = "The scaling monitor failed ({cause}). Monitoring is off; training continues."

    def _transient(self) -> dict[str, Any]:
        return {"_session": None, "_resting": None, "_last_session": None, "_watchers": []}

    def _count(self, module: Any) -> None:
        """Keep the larger count: a module may make its layers late, and a sharded one shows only a part of them."""
        sentence = "The parameters could not be counted ({cause}); training continues."
        counts = self._guard.run("params", sentence, count_params, module)
        if counts is not None and (self._counts is None or counts.total > self._counts.total):
            self._counts = counts

    def _switch_off(self, error: Exception) -> None:
        session = self._session
        if session is None or session.count_only(error):
            return
        self._session = None
        session.close(_INTERRUPTED_END_SECONDS)


def find_monitors(trainer: Any, callback: str) -> list[ScalingLawMonitor]:
    """The monitors among the Trainer's callbacks.

    Raises:
        SetupError: If there is none; the sentence names the callback that needs one.
    """
    found = [one for one in trainer.callbacks if isinstance(one, ScalingLawMonitor)]
    if not found:
        raise SetupError(
            f"{callback} needs a ScalingLawMonitor among the Trainer's callbacks: "
            f"Trainer(callbacks=[ScalingLawMonitor(), {callback}()])."
        )
    return found
