"""The callback that stops a run when stopping is right, on all ranks at once, and says why."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from lightning_scaling.advice.stopping import Decision, StopRule
from lightning_scaling.callbacks._compat import CallbackBase
from lightning_scaling.callbacks.competitors import Competitors
from lightning_scaling.callbacks.console import warn
from lightning_scaling.callbacks.scaling_law_monitor import ScalingLawMonitor
from lightning_scaling.callbacks.session import Session

__all__ = ["ScalingEarlyStopping"]

_VERSION = 1
_RESULTS = ("decision", "stopped_at", "checkpoint_path")
HISTORY = "history"


class ScalingEarlyStopping(CallbackBase):
    """Stops a run that has diverged for good, will miss what it is to reach, or is not worth going on with.

    Acts on the findings of a :class:`ScalingLawMonitor` among the Trainer's callbacks:

    * the loss has diverged for good, or is no longer finite;
    * the final loss will miss ``target``, or not beat ``best``, with at least ``probability``;
    * with ``best="history"``, the run will not be the best of its experiment with at least ``probability``, compared
      at equal progress with the other runs there, finished or still running;
    * what is still to be gained is worth less than it costs, where ``value`` and a price are given.

    Only a divergence counts without further ado. Nothing else stops a run while the verdict on it is "undecidable", and
    nothing that rests on its forecast while the trust in that is below "ok" or before it has said so three times on
    end. Rank zero decides, and all ranks learn of
    it at the same batch. The decision is made anew at every update of the monitor until the run may stop, so that a run
    that recovers before its minimum of steps or epochs goes on. A checkpoint is written first.

    Args:
        monitor: Which monitor to act on, by the metric it follows; needed only where there are several.
        target: Loss that the run is to reach (at least, for a metric that is to be high). Left out, the monitor's own.
        best: A value that the run is to beat, or ``"history"`` for the other runs of the monitor's history.
        probability: Least probability of missing them at which to stop, at least 0.5.
        value: What one unit of loss is worth, in any currency; needs a price.
        price_per_hour: What an hour of training costs, in the same currency.
        price_per_flop: What a training FLOP costs, in the same currency.
        min_steps: Optimizer steps to train at least; the Trainer's own minimum counts as well.
        min_epochs: Epochs to train at least; the Trainer's own minimum counts as well.
        checkpoint: Whether to write a checkpoint before stopping, or the folder for it. ``True`` puts it beside those
            of the Trainer's checkpoint callback, else into its ``default_root_dir``; none is written where a checkpoint
            callback has just saved the same step.
        dry_run: Only say and record when the run would have been stopped.

    Attributes:
        decision: The latest decision; ``None`` as long as there is no reason to stop.
        stopped_at: Step at which the run was stopped; ``None`` if it was not.
        checkpoint_path: The checkpoint written before stopping, if one was.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If an argument has a value that it cannot have, or there is no monitor to act on.

    Example::

        >>> from lightning.pytorch import Trainer  # doctest: +SKIP
        >>> stopping = ScalingEarlyStopping(target=2.9)  # doctest: +SKIP
        >>> Trainer(max_steps=20_000, callbacks=[ScalingLawMonitor(), stopping]).fit(model)  # doctest: +SKIP
        >>> stopping.stopped_at, stopping.decision.reason  # doctest: +SKIP
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
        self._rule = StopRule(
            target=target,
            best=None if isinstance(best, str) else best,
            probability=probability,
            value=value,
            price_per_hour=price_per_hour,
            price_per_flop=price_per_flop,
        )
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
        self._forget()

    def _forget(self) -> None:
        self._session: Session | None = None
        self._rivals: Competitors | None = None
        self._flushes = 0
        self._updates = -1
        self._noted = ""
        self._failed = False

    # -------------------------------------------------------------------- hooks

    def setup(self, trainer: Any, pl_module: Any, stage: Any) -> None:
        """Find the monitor."""
        if getattr(stage, "value", stage) == "fit":
            self._monitor = self._find(trainer)

    def _find(self, trainer: Any) -> ScalingLawMonitor:
        there = [one for one in trainer.callbacks if isinstance(one, ScalingLawMonitor)]
        if not there:
            raise ValueError(
                "ScalingEarlyStopping acts on what a ScalingLawMonitor finds, but the Trainer has none; add one: "
                "`Trainer(callbacks=[ScalingLawMonitor(), ScalingEarlyStopping()])`."
            )
        if len(there) == 1 and self._metric is None:
            return there[0]
        chosen = [one for one in there if one.followed == self._metric]
        if len(chosen) == 1 and (self._metric is not None or len(there) == 1):
            return chosen[0]
        names = ", ".join(repr(one.followed) if one.followed else "the training loss" for one in there)
        raise ValueError(
            f"ScalingEarlyStopping cannot tell which ScalingLawMonitor to act on: they follow {names}; name the metric "
            "of one of them with `monitor=`."
        )

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Begin anew; a decision of an earlier fit or of a checkpoint stays until the next update."""
        self._forget()
        self.stopped_at = None

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Decide after each flush of the monitor, and stop at the end of a group of accumulated batches."""
        monitor = self._monitor
        session = None if monitor is None else monitor.session
        if session is not None and (session is not self._session or session.capture.flushes != self._flushes):
            self._decide(trainer, session)
        if self.decision is not None and session is not None and self._whole_step(trainer, pl_module, batch_idx):
            self._stop(trainer, session)

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Look at metrics of whole epochs, and stop a run whose minimum of epochs is over."""
        session = None if self._monitor is None else self._monitor.session
        if session is not None:
            if session is not self._session or session.capture.flushes != self._flushes:
                self._decide(trainer, session)
            if self.decision is not None:
                self._stop(trainer, session)

    def on_fit_end(self, trainer: Any, pl_module: Any) -> None:
        """Let go of the monitor."""
        self._session = self._rivals = None

    def teardown(self, trainer: Any, pl_module: Any, stage: Any) -> None:
        """Let go of the monitor, should it not have been done."""
        self._session = self._rivals = self._monitor = None

    # ----------------------------------------------------------------- decision

    def _decide(self, trainer: Any, session: Session) -> None:
        """Rank zero decides; the others hear of it. All ranks flush at the same batches, so all meet here."""
        if session is not self._session:
            self._session, self._updates, self._rivals = session, -1, None
        self._flushes = session.capture.flushes
        found: dict[str, Any] | None = None if self.decision is None else self.decision.to_dict()
        if trainer.is_global_zero and not self._failed:
            try:
                found = self._judge(session, found)
            except Exception as error:
                self._failed, found = True, None
                warn(f"ScalingEarlyStopping failed ({type(error).__name__}: {error}); it stops nothing any more.")
        if trainer.world_size > 1:
            found = trainer.strategy.broadcast(found)
        self.decision = None if found is None else Decision.from_dict(found)

    def _judge(self, session: Session, before: dict[str, Any] | None) -> dict[str, Any] | None:
        engine = session.engine
        state = None if engine is None else engine.state
        if engine is None or state is None or state.step == self._updates:
            return before if self._updates >= 0 else None
        self._updates = state.step
        if self._given_target is None:
            self._rule.target = engine.config.target
        if self._compares and self._rivals is None:
            self._rivals = Competitors(session, reading=True, share=session.share)
        standings = None if self._rivals is None else self._rivals.look()
        decision = self._rule.decide(replace(state, ranking=standings))
        return None if decision is None else decision.to_dict()

    @staticmethod
    def _whole_step(trainer: Any, module: Any, batch_idx: int) -> bool:
        """Whether no gradients are waiting to be stepped on."""
        if not module.automatic_optimization or trainer.is_last_batch:
            return True
        return bool((batch_idx + 1) % int(trainer.accumulate_grad_batches) == 0)

    def _may_stop(self, trainer: Any) -> bool:
        """Whether the minimum of steps and epochs is behind; before, `should_stop` would latch and log every step."""
        steps = max(self._least[0], trainer.min_steps or 0)
        epochs = max(self._least[1], trainer.min_epochs or 0)
        done = trainer.fit_loop.epoch_progress.current.processed
        over = trainer.max_steps is not None and 0 <= trainer.max_steps <= trainer.global_step
        return trainer.global_step >= steps and done >= epochs and not over and not trainer.should_stop

    def _stop(self, trainer: Any, session: Session) -> None:
        """Stop on all ranks, or say that it would have been done; what decides is known alike to all of them."""
        decision = self.decision
        assert decision is not None
        if not self._may_stop(trainer) or (self._dry_run and self._noted == decision.kind):
            return
        self._noted = decision.kind
        if not self._dry_run:
            self.stopped_at = int(trainer.global_step)
        try:
            session.stopping(decision.to_dict(), stopped=not self._dry_run)
        except Exception as error:
            warn(f"The decision to stop could not be recorded ({type(error).__name__}: {error}).")
        if self._dry_run:
            return
        self._save(trainer)
        trainer.should_stop = True

    def _save(self, trainer: Any) -> None:
        """Write a checkpoint of this step, unless a checkpoint callback just has."""
        savers = list(trainer.checkpoint_callbacks)
        saved = any(getattr(one, "_last_global_step_saved", -1) == trainer.global_step for one in savers)
        if self._checkpoint is False or saved:
            return
        if self._checkpoint is True:
            folders = [folder for one in savers if (folder := getattr(one, "dirpath", None))]
            folder = Path(folders[0] if folders else trainer.default_root_dir)
        else:
            folder = Path(self._checkpoint)
        path = folder / f"scaling-stop-step={trainer.global_step}.ckpt"
        self.checkpoint_path = str(path)
        try:
            trainer.save_checkpoint(path, weights_only=False)
        except Exception as error:
            self.checkpoint_path = None
            warn(f"No checkpoint could be written before stopping ({type(error).__name__}: {error}).")
            trainer.strategy.barrier("Trainer.save_checkpoint")  # where the others are waiting

    # -------------------------------------------------------------------- state

    @property
    def state_key(self) -> str:
        """Tells this callback's part of a checkpoint from that of another one."""
        return self._key

    def state_dict(self) -> dict[str, Any]:
        """What was decided, as builtins."""
        decision = None if self.decision is None else self.decision.to_dict()
        return {
            "version": _VERSION,
            "decision": decision,
            "stopped_at": self.stopped_at,
            "held": dict(self._rule.held),
        }

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Know of the decision of the run that goes on."""
        decision = state_dict.get("decision")
        self.decision = None if decision is None else Decision.from_dict(decision)
        self.stopped_at = state_dict.get("stopped_at")
        self._rule.held = dict(state_dict.get("held") or {})

    def __getstate__(self) -> dict[str, Any]:
        """Everything of our own but the training under way; Lightning lends callbacks the module's ``log``."""
        own = {name: value for name, value in self.__dict__.items() if name.startswith("_") or name in _RESULTS}
        return {**own, "_session": None, "_rivals": None, "_monitor": None}
