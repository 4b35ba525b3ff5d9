"""The plan of a training, and changes of it while the training goes on."""

from __future__ import annotations

from typing import Any

from lightning_scaling.callbacks.guard import Guard
from lightning_scaling.schedule import Plan
from lightning_scaling.schedule.from_trainer import plan_from_trainer, read_horizon

_SETTINGS = ("num_training_batches", "max_epochs", "max_steps", "accumulate_grad_batches")


class PlanChanges:
    """Looks whether a Trainer still goes by the plan of the start.

    Args:
        trainer: The Trainer, about to train.
        resumed: Whether it goes on from a checkpoint: Lightning then still holds the epoch of the checkpoint, and the
            plan is looked at once more after the first batch.

    Attributes:
        due: Whether to look at the end of the next batch.
    """

    def __init__(self, trainer: Any, *, resumed: bool) -> None:
        self.due = resumed
        self._trainer = trainer
        self._settings = None if resumed else self._now()

    def detach(self) -> None:
        """Let go of the Trainer and its schedulers."""
        self._trainer = self._settings = None

    def _now(self) -> tuple[tuple[Any, ...], ...]:
        """The schedulers, which compare as objects, and the settings that Lightning works the end of a run out from."""
        schedulers = (config.scheduler for config in self._trainer.lr_scheduler_configs)
        return tuple(schedulers), tuple(getattr(self._trainer, name) for name in _SETTINGS)

    def look(self, plan: Plan, steps: int) -> Plan | None:
        """The new plan where schedulers were exchanged, or settings that move the end of the run have changed.

        The end alone says nothing: every batch without a step, such as one whose ``training_step`` returns none, moves
        it a little. Call it after the first batches of an epoch, when Lightning has laid it out; all ranks see the same
        changes.

        Args:
            plan: The plan so far.
            steps: Steps done.
        """
        self.due = False
        before, self._settings = self._settings, self._now()
        exchanged = before is not None and before[0] != self._settings[0]
        moved = before is None or before[1] != self._settings[1]
        if not exchanged and not (moved and read_horizon(self._trainer, step=steps).total_steps != plan.total_steps):
            return None
        return plan.then(plan_from_trainer(self._trainer, step=steps), steps)


def plan_of(trainer: Any, step: int, guard: Guard) -> Plan:
    """The plan of a run, as rank zero sees it; constant rates where the schedule cannot be worked out."""
    sentence = (
        "The learning-rate schedule could not be worked out ({cause}); it is taken as constant, and the forecasts are "
        "to be trusted little."
    )
    plan = guard.run("plan", sentence, plan_from_trainer, trainer, step=step)
    if plan is None:
        total = trainer.max_steps if isinstance(trainer.max_steps, int) and trainer.max_steps > 0 else None
        plan = Plan.constant(total_steps=total, known=False, why="the schedule could not be worked out")
    return plan if trainer.world_size == 1 else Plan.from_dict(trainer.strategy.broadcast(plan.to_dict()))
