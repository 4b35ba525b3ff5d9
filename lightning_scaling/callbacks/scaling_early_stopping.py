"""The callback that stops a run when stopping is right, on all ranks at once, and gives the reason."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from lightning_scaling.advice.stopping import Decision, StopRule
from lightning_scaling.callbacks.competitors import Competitors
from lightning_scaling.callbacks.guard import Guard, GuardedCallback, SetupError, guarded, is_fitting, is_new_run
from lightning_scaling.callbacks.scaling_law_monitor import ScalingLawMonitor, find_monitors
from lightning_scaling.callbacks.session import Session

__all__ = ["ScalingEarlyStopping"]

_STATE_VERSION = 1
HISTORY = "history"


class ScalingEarlyStopping(GuardedCallback):
    """Stops a run that has diverged for good, will miss what it is to reach, or gains less than it costs.

    Acts on the findings of a :class:`ScalingLawMonitor` among the Trainer's callbacks:

    * the loss has diverged for good, or is no longer finite;
    * the final loss will miss ``target``, or not beat ``best``, with at least ``probability``;
    * with ``best="history"``, the run will not be the best of its experiment with at least ``probability``, compared
      at equal progress with the other runs there, finished or still running;
    * the value of what is still to be gained is less than its cost, where ``value`` and a price are given.

    Only a divergence counts without further ado. Nothing else stops a run while the verdict on it is "undecidable", and
    nothing that rests on its forecast while the trust in that is below "ok" or before three updates in a row have
    agreed. Rank zero decides, and all ranks stop at the same batch. The decision is made anew at every update of the
    monitor until the run may stop, so that a run that recovers before its minimum of steps or epochs goes on. A
    checkpoint is written first.

    Args:
        monitor: Which monitor to act on, by the metric it follows; needed only where there are several.
        target: Loss that the run is to reach (at least, for a metric that is to be high). Left out, the monitor's own.
        best: A value that the run is to beat, or ``"history"`` for the other runs of the monitor's history.
        probability: Least probability of missing them at which to stop, at least 0.5.
        value: Value of one unit of loss, in any currency; needs a price.
        price_per_hour: What an hour of training costs, in the same currency.
        price_per_flop: What a training FLOP costs, in the same currency.
        min_steps: Optimizer steps to train at least; the Trainer's own minimum counts as well.
        min_epochs: Epochs to train at least; the Trainer's own minimum counts as well.
        checkpoint: Whether to write a checkpoint before stopping, or the folder for it. ``True`` puts it next to
            those of the Trainer's checkpoint callback, else into its ``default_root_dir``; none is written where a
            checkpoint callback has just saved the same step.
        dry_run: Only say and record when the run would have been stopped.

    Attributes:
        decision: The latest decision; ``None`` as long as there is no reason to stop.
        stopped_at: Step at which the run was stopped; ``None`` if it was not.
        checkpoint_path: The checkpoint written before stopping, if one was.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If an argument has a value that it cannot have, or there is no monitor to act on.

    Example:
        >>> from lightning.pytorch import Trainer
        >>> callbacks = [ScalingLawMonitor(), ScalingEarlyStopping(target=2.9)]
        >>> trainer = Trainer(max_steps=32, callbacks=callbacks, logger=False)
        >>> callbacks[1].stopped_at is None
        True
    """

    def __init__(
        self,
        monitor: str | None = None,
        *,
        target: float | None = None,
        best: float | str | None = None,
        probability: float = 0.95,
        value: float | None = None,
        price_per_hour: float | None = None,
        price_per_flop: float | None = None,
        min_steps: int = 0,
        min_epochs: int = 0,
        checkpoint: bool | str | Path = True,
        dry_run: bool = False,
    ) -> None:
        super().__init__()
        if monitor is not None and not isinstance(monitor, str):
            raise TypeError(f"`monitor` must be the name of a metric or None, but got {monitor!r}.")
        if isinstance(best, str) and best != HISTORY:
            raise ValueError(f'`best` must be a number, "history" or None, but got {best!r}.')
        for name, count in (("min_steps", min_steps), ("min_epochs", min_epochs)):
            if isinstance(count, bool) or not isinstance(count, int) or count < 0:
                raise ValueError(f"`{name}` must be a whole number of at least 0, but got {count!r}.")
        if not isinstance(checkpoint, bool | str | Path):
            raise TypeError(f"`checkpoint` must be True, False or a folder, but got {checkpoint!r}.")
        self._metric = monitor
        prices: dict[str, Any] = {"value": value, "price_per_hour": price_per_hour, "price_per_flop": price_per_flop}
        beaten = None if isinstance(best, str) else best
        self._rule = StopRule(target=target, best=beaten, probability=probability, **prices)
        self._given_target = target
        self._compares = best == HISTORY
        self._least = (min_steps, min_epochs)
        self._checkpoint = checkpoint
        self._dry_run = bool(dry_run)
        self._key = self._generate_state_key(monitor=monitor)
        self.decision: Decision | None = None
        self.stopped_at: int | None = None
        self.checkpoint_path: str | None = None
        self._monitor: ScalingLawMonitor | None = None
        self._reset()

    def _reset(self) -> None:
        self._guard = Guard()
        self._session: Session | None = None
        self._competitors: Competitors | None = None
        self._flushes = 0
        self._last_update = -1
        self._reported = ""

    # -------------------------------------------------------------------- hooks

    @guarded
    def setup(self, trainer: Any, pl_module: Any, stage: Any) -> None:
        """Find the monitor.

        Raises:
            SetupError: If there is none, or it is not clear which of several to act on.
        """
        if not is_fitting(stage):
            return
        monitors = find_monitors(trainer, "ScalingEarlyStopping")
        chosen = [one for one in monitors if self._metric is None or one.followed == self._metric]
        if len(chosen) != 1:
            names = ", ".join(repr(one.followed) if one.followed else "the training loss" for one in monitors)
            raise SetupError(
                f"ScalingEarlyStopping cannot decide which ScalingLawMonitor to act on: they follow {names}; name the "
                "metric of one of them with `monitor=`."
            )
        self._monitor = chosen[0]

    @guarded
    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Begin anew; a decision of an earlier fit or of a checkpoint stays until the next update."""
        self._reset()
        self.stopped_at = None
        if is_new_run(trainer):
            self.decision, self._rule.held = None, {}

    @guarded
    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Decide after each flush of the monitor, and stop at the end of a group of accumulated batches."""
        self._decide(trainer)
        whole = trainer.is_last_batch or (batch_idx + 1) % int(trainer.accumulate_grad_batches) == 0
        if self.decision is not None and (whole or not pl_module.automatic_optimization):
            self._stop(trainer)

    @guarded
    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Decide on metrics of whole epochs, and stop a run whose minimum of epochs is over."""
        session = None if self._monitor is None else self._monitor.session
        if session is not None and session.capture.between_epochs:
            self._decide(trainer)
        if self.decision is not None:
            self._stop(trainer)

    @guarded
    def on_fit_end(self, trainer: Any, pl_module: Any) -> None:
        """Let go of the session."""
        self._session = self._competitors = None

    @guarded
    def teardown(self, trainer: Any, pl_module: Any, stage: Any) -> None:
        """Let go of the monitor."""
        self._session = self._competitors = self._monitor = None

    # ----------------------------------------------------------------- decision

    def _decide(self, trainer: Any) -> None:
        """Rank zero decides after a flush, and the others follow: all flush at the same batches, so all meet here."""
        session = None if self._monitor is None else self._monitor.session
        if session is None or (session is self._session and session.capture.flushes == self._flushes):
            return
        if session is not self._session:
            self._session, self._last_update, self._competitors = session, -1, None
        self._flushes = session.capture.flushes
        found: dict[str, Any] | None = None if self.decision is None else self.decision.to_dict()
        if trainer.is_global_zero:
            sentence = "ScalingEarlyStopping failed ({cause}); it does not stop the run any more."
            found = self._guard.run("decision", sentence, self._evaluate, session, found)
        if trainer.world_size > 1:
            found = trainer.strategy.broadcast(found)
        self.decision = None if found is None else Decision.from_dict(found)

    def _evaluate(self, session: Session, before: dict[str, Any] | None) -> dict[str, Any] | None:
        """The decision at the latest update, or the one before where there is no new update."""
        engine = session.engine
        state = engine.state
        if state is None or state.step == self._last_update:
            return before if self._last_update >= 0 else None
        self._last_update = state.step
        if self._given_target is None:
            self._rule.target = engine.config.target
        if self._compares and self._competitors is None:
            self._competitors = Competitors(session)
        ranking = None if self._competitors is None else self._competitors.ranking()
        decision = self._rule.decide(replace(state, ranking=ranking))
        return None if decision is None else decision.to_dict()

    def _may_stop(self, trainer: Any) -> bool:
        """Whether the minimum of steps and epochs is behind; before, `should_stop` would latch and log every step."""
        steps = max(self._least[0], trainer.min_steps or 0)
        epochs = max(self._least[1], trainer.min_epochs or 0)
        done = trainer.fit_loop.epoch_progress.current.processed
        over = trainer.max_steps is not None and 0 <= trainer.max_steps <= trainer.global_step
        return trainer.global_step >= steps and done >= epochs and not over and not trainer.should_stop

    def _stop(self, trainer: Any) -> None:
        """Stop on all ranks, or report that it would have been done; all of them know what decides."""
        decision, session = self.decision, self._session
        assert decision is not None
        if session is None or not self._may_stop(trainer) or (self._dry_run and self._reported == decision.kind):
            return
        self._reported = decision.kind
        if not self._dry_run:
            self.stopped_at = int(trainer.global_step)
        sentence = "The decision to stop could not be recorded ({cause})."
        self._guard.run("record", sentence, session.logger.stop, decision.to_dict(), stopped=not self._dry_run)
        if not self._dry_run:
            self._save(trainer)
            trainer.should_stop = True

    def _save(self, trainer: Any) -> None:
        """Write a checkpoint of this step, unless a checkpoint callback just has."""
        savers = list(trainer.checkpoint_callbacks)
        saved = any(getattr(one, "_last_global_step_saved", -1) == trainer.global_step for one in savers)
        if self._checkpoint is False or saved:
            return
        folders = [folder for one in savers if (folder := getattr(one, "dirpath", None))]
        folder = [*folders, trainer.default_root_dir][0] if self._checkpoint is True else self._checkpoint
        path = Path(folder) / f"scaling-stop-step={trainer.global_step}.ckpt"
        self.checkpoint_path = str(path)
        try:
            trainer.save_checkpoint(path, weights_only=False)
        except Exception as error:
            self.checkpoint_path = None
            self._guard.failed("checkpoint", "No checkpoint could be written before stopping ({cause}).", error)
            trainer.strategy.barrier("Trainer.save_checkpoint")  # where the others are waiting

    # -------------------------------------------------------------------- state

    def state_dict(self) -> dict[str, Any]:
        """What was decided, as builtins."""
        decision = None if self.decision is None else self.decision.to_dict()
        state = {"decision": decision, "stopped_at": self.stopped_at, "held": dict(self._rule.held)}
        return {"version": _STATE_VERSION, **state}

    @guarded
    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Take over the decision of the run that goes on."""
        decision = state_dict.get("decision")
        self.decision = None if decision is None else Decision.from_dict(decision)
        self.stopped_at = state_dict.get("stopped_at")
        self._rule.held = dict(state_dict.get("held") or {})

    _failure = "ScalingEarlyStopping failed ({cause}); it does not stop the run any more."
    _results = ("decision", "stopped_at", "checkpoint_path")

    def _transient(self) -> dict[str, Any]:
        return {"_monitor": None, "_session": None, "_competitors": None}

    def _switch_off(self, error: Exception) -> None:
        self._monitor = self._session = self._competitors = self.decision = None
