"""Diagnostics of a module and its optimizer that need no read from the device."""

from __future__ import annotations

from collections import Counter
from typing import Any

from lightning_scaling.callbacks.batch_size_meter import BatchSizeMeter
from lightning_scaling.callbacks.epoch_length import steps_per_epoch

_LOOKS = 3  # in a row without a gradient: a layer may be left out of some steps
_NAMES = 3  # parts of the module that a sentence can hold
_MIN_SHARE = 0.01  # of the parameters: fewer explain no change of the loss
_WHOLE = ("SingleDevice", "DDP")  # strategies under which parameters and optimizers are not cut into shards


class Diagnostics:
    """Diagnostics from which likely causes of a deviation are ranked.

    Whether the optimizer has its state after a resume, which parameters have lost their gradient, the precision, and
    how many steps a pass over the data takes. Used at flushes only; nothing is computed on tensors.

    Args:
        trainer: The Trainer, about to train.
        module: The module in training.
        sizes: Counts the batches; its unit is known from the first one on.
    """

    def __init__(self, trainer: Any, module: Any, sizes: BatchSizeMeter) -> None:
        self._trainer, self._module, self._sizes = trainer, module, sizes
        self._resumed_at = int(trainer.global_step)
        self._whole = type(trainer.strategy).__name__.startswith(_WHOLE)
        self._stateless = self._whole and self._resumed_at > 0 and not self._has_state()
        self._reported: dict[str, Any] = {}
        self.reset()

    def reset(self) -> None:
        """Begin anew with what parameters have a gradient, as after an announced change."""
        self._trained: set[str] = set()
        self._idle: set[str] = set()
        self._looks = self._since = 0
        self._reported = {key: value for key, value in self._reported.items() if not key.startswith("idle")}

    def detach(self) -> None:
        """Let go of the Trainer and of all that belongs to it."""
        del self._trainer, self._module, self._sizes

    def look(self, step: int, **seen: Any) -> dict[str, Any]:
        """Diagnostics that are new since the last call; a value of ``None`` withdraws one.

        Args:
            step: Optimizer steps done.
            **seen: Further diagnostics, found elsewhere.
        """
        found: dict[str, Any] = {"unit": self._sizes.unit, "precision": str(self._trainer.precision)}
        found["epoch_steps"] = steps_per_epoch(self._trainer)
        if self._stateless and step > self._resumed_at:
            self._stateless = False
            if self._has_state():
                found["state_lost"] = self._resumed_at
        found |= self._gradients(step) | seen
        news = {key: value for key, value in found.items() if self._reported.get(key) != value}
        self._reported |= news
        return news

    def _has_state(self) -> bool:
        """Whether an optimizer keeps any state; one without a `state` counts as if it did."""
        return any(len(getattr(optimizer, "state", "?")) > 0 for optimizer in self._trainer.optimizers)

    def _gradients(self, step: int) -> dict[str, Any]:
        """Tensors that had a gradient and had none at three looks in a row, where Lightning runs one optimizer."""
        if not (self._whole and self._module.automatic_optimization and len(self._trainer.optimizers) == 1):
            return {}
        parameters = dict(self._module.named_parameters())
        sizes = {name: one.numel() for name, one in parameters.items()}
        having = {name for name, one in parameters.items() if one.requires_grad and one.grad is not None}
        idle = self._trained - having
        self._trained |= having
        idle = idle & self._idle if self._looks else idle
        self._since = step if self._looks == 0 else self._since
        self._idle, self._looks = idle, self._looks + 1 if idle else 0
        share = sum(sizes.get(name, 0) for name in idle) / max(sum(sizes.values()), 1)
        names = ("idle", "idle_share", "idle_names", "idle_since")
        clear = self._looks >= _LOOKS and share >= _MIN_SHARE
        values = (len(idle), share, _named(idle), self._since) if clear else (None,) * 4
        return {"tensors": len(self._trained) or None, **dict(zip(names, values, strict=True))}


def _named(names: set[str]) -> str:
    """The parts of the module that hold most of some parameters."""
    parts = Counter(".".join(name.split(".")[:-1][:3]) or name for name in sorted(names))
    first = [f"`{part}`" for part, _ in parts.most_common(_NAMES)]
    more = len(parts) - len(first)
    return ", ".join(first) + (f" and {more} more" if more > 0 else "")
