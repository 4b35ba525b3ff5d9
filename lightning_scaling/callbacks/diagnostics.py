"""Diagnostics of a module and its optimizer that need no read from the device."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import astuple, dataclass
from typing import Any

from lightning_scaling.callbacks.batch_size_meter import BatchSizeMeter
from lightning_scaling.callbacks.epoch_length import steps_per_epoch

_LOOKS = 3  # in a row without a gradient: a layer may be left out of some steps
_RARE = 1e-5  # probability below which so many looks in a row are no chance, at any of the looks of a run
_MIN_HAVING = 10  # looks with a gradient before a tensor can stop having one
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
        self._looks: dict[str, _Looks] = {}
        self._reported = {key: value for key, value in self._reported.items() if not key.startswith("idle")}

    def state_dict(self) -> dict[str, Any]:
        """The looks at the gradients, and what was reported, as builtins."""
        return {"looks": {name: list(astuple(one)) for name, one in self._looks.items()}, "reported": self._reported}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from what :meth:`state_dict` returned."""
        self._looks = {name: _Looks(*counts) for name, counts in state["looks"].items()}
        self._reported = dict(state["reported"])

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
        """Tensors that have stopped having a gradient, where Lightning runs one optimizer.

        Experts, layers dropped at random and heads used in turns have one at some looks only: a tensor counts as idle
        where its looks without one in a row would be rare for the share of looks that it had one at before.
        """
        if not (self._whole and self._module.automatic_optimization and len(self._trainer.optimizers) == 1):
            return {}
        idle: dict[str, int] = {}
        total = 0
        for name, parameter in self._module.named_parameters():
            total += parameter.numel()
            if parameter.requires_grad and parameter.grad is not None:
                looks = self._looks.setdefault(name, _Looks())
                looks.having, looks.before, looks.missed = looks.having + 1, looks.before + looks.missed, 0
            elif name in self._looks:
                looks = self._looks[name]
                looks.since = looks.since if looks.missed else step
                looks.missed += 1
                if looks.unusual:
                    idle[name] = parameter.numel()
        names = ("idle", "idle_share", "idle_names", "idle_since")
        share = sum(idle.values()) / max(total, 1)
        since = min((self._looks[name].since for name in idle), default=0)
        values = (len(idle), share, _named(set(idle)), since) if idle and share >= _MIN_SHARE else (None,) * 4
        return {"tensors": len(self._looks) or None, **dict(zip(names, values, strict=True))}


@dataclass
class _Looks:
    """Looks at which a tensor had a gradient, had none before the last with one, and has had none since."""

    having: int = 0
    before: int = 0
    missed: int = 0
    since: int = 0

    @property
    def unusual(self) -> bool:
        """Whether so many looks without a gradient are rare, by the share with one (rule of succession)."""
        without = (self.before + 1) / (self.having + self.before + 2)
        return self.having >= _MIN_HAVING and self.missed >= _LOOKS and without**self.missed < _RARE


def _named(names: set[str]) -> str:
    """The parts of the module that hold most of some parameters."""
    parts = Counter(".".join(name.split(".")[:-1][:3]) or name for name in sorted(names))
    first = [f"`{part}`" for part, _ in parts.most_common(_NAMES)]
    more = len(parts) - len(first)
    return ", ".join(first) + (f" and {more} more" if more > 0 else "")
