"""Repeated data: passes made, and the value of another one."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from lightning_scaling._utils.formatting import count as quantity
from lightning_scaling._utils.state import AttributeState
from lightning_scaling.advice.config import DEFAULT, RepeatsConfig
from lightning_scaling.allocation.tradeoff import effective_tokens
from lightning_scaling.runs.curve import Curve, Points
from lightning_scaling.schedule.plan import Plan

TOKENS, SAMPLES = "tokens", "samples"


@dataclass(frozen=True)
class Repeats:
    """Where a run is in its data.

    Attributes:
        passes: Passes made so far, begun ones in part.
        length: Optimizer steps of one.
        unique: Distinct tokens (or samples) there are; ``None`` if they were not counted.
        unit: ``"tokens"`` or ``"samples"``.
        planned: Passes of the whole plan; ``None`` without a planned end.
        boundary: Step at which a pass began right where the run left its path; ``None`` if none did.
    """

    passes: float
    length: float
    unique: float | None = None
    unit: str = TOKENS
    planned: float | None = None
    boundary: int | None = None

    @property
    def repeated(self) -> bool:
        """Whether data come a second time."""
        return self.passes > 1

    @property
    def number(self) -> int:
        """The pass under way, from 1."""
        return max(math.ceil(self.passes - 1e-9), 1)

    @property
    def next_pass(self) -> float | None:
        """Value of one more pass, as a share of as many new tokens; ``None`` unless tokens were counted.

        By the data-constrained law, :func:`~lightning_scaling.allocation.tradeoff.effective_tokens`, whose constants
        come from language models.
        """
        if self.unique is None or self.unit != TOKENS:
            return None
        return float(effective_tokens(self.number + 1, 1.0) - effective_tokens(self.number, 1.0))

    @property
    def data(self) -> str:
        """The data as the object of a sentence."""
        if self.unique is None:
            return "the data"
        return f"the {quantity(self.unique)} {'unique tokens' if self.unit == TOKENS else SAMPLES}"

    @property
    def clause(self) -> str:
        """The pass under way and the value of another, as a clause."""
        here = f"this is pass {self.number:,} over {self.data}"
        if self.next_pass is None:
            return here
        value = f"one more is worth {self.next_pass:.0%} of as many new ones"
        return f"{here}, and by the data-constrained law of language models {value}"

    @property
    def evidence(self) -> dict[str, Any]:
        """The numbers behind it, as builtins."""
        found = {"passes": self.passes, "unique": self.unique, "next_pass": self.next_pass, "pass_began": self.boundary}
        return {key: value for key, value in found.items() if value is not None}

    def hint(self, config: RepeatsConfig = DEFAULT.repeats) -> str:
        """A hint for the start of a run whose plan loses a tenth of its tokens or more to repeats, else nothing."""
        if self.unique is None or self.unit != TOKENS or self.planned is None:
            return ""
        tokens = self.planned * self.unique
        new = float(effective_tokens(tokens, self.unique))
        if new >= config.min_token_value * tokens:
            return ""
        return (
            f"A hint: the plan goes {self.planned:.3g} times over {self.data}; by the data-constrained law its "
            f"{quantity(tokens)} tokens are worth {quantity(new)} new ones ({new / tokens:.0%}). The law's constants "
            "come from language models, and it knows nothing of overfitting: watch a held-out loss."
        )


class Passes(AttributeState):
    """Counts the passes of a run over its data.

    Args:
        unique: Distinct tokens (or samples) there are; ``None`` works them out from the length of a pass.
        config: Tuned numbers.

    Raises:
        ValueError: If that is no positive number.
    """

    STATE = ("_length", "_begun")

    def __init__(self, unique: float | None = None, config: RepeatsConfig = DEFAULT.repeats) -> None:
        if unique is not None and not 0 < unique < math.inf:
            raise ValueError(f"`unique_tokens` must be a positive number or None, but got {unique!r}.")
        self._unique = unique
        self._config = config
        self._length: int | None = None
        self._begun = 0

    def note(self, length: int | None, step: int) -> None:
        """Set the optimizer steps of a pass; another length than before means other data, counted from here.

        Args:
            length: Steps of a pass; ``None`` if not known.
            step: The present step.
        """
        if self._length is not None and length != self._length:
            self._begun = step
        self._length = length

    def count(self, curve: Curve, points: Points, plan: Plan, unit: str | None, since: int | None) -> Repeats | None:
        """Where the run is in its data; ``None`` where that is not known.

        Args:
            curve: The curve so far.
            points: Its points.
            plan: What the run intends to do.
            unit: What is counted, if that is known.
            since: Step from which the run has been in trouble; ``None`` if it is not.
        """
        begun = self._begun if self._unique is None else 0
        tokens = _tokens_per_step(points, begun)
        if self._unique is not None:
            length, unique, unit = self._unique / tokens, float(self._unique), unit or TOKENS
        else:
            length = float(self._length or math.nan)
            unique = tokens * length
        if not (math.isfinite(length) and length > 0):
            return None
        total = plan.total_steps
        return Repeats(
            passes=max(curve.last_step - begun, 0) / length,
            length=length,
            unique=unique if math.isfinite(unique) else None,
            unit=unit or SAMPLES,
            planned=None if total is None or begun else total / length,
            boundary=None if since is None else _boundary(since, begun, length, points, plan, self._config),
        )


def _tokens_per_step(points: Points, begun: int) -> float:
    """Tokens (or samples) of a step since one; a run that resumes without its state counts its own only."""
    counted = np.isfinite(points.tokens) & (points.last >= begun)
    last, tokens = points.last[counted], points.tokens[counted]
    if last.size == 0:
        return math.nan
    each = (tokens[-1] - tokens[0]) / (last[-1] - last[0]) if last.size > 1 else tokens[-1] / last[-1]
    return float(each) if each > 0 else math.nan


def _boundary(since: int, begun: int, length: float, points: Points, plan: Plan, config: RepeatsConfig) -> int | None:
    """Step at which a later pass began right before or after another step, if that is too unlikely to be chance.

    A pass that begins with a higher learning rate says nothing of the data.
    """
    total = float(plan.total_steps or points.last[-1])
    recent = points.last[-config.recent_points :]
    gap = max(config.boundary_gap * total, float(np.median(np.diff(recent))) if recent.size > 1 else 0.0)
    if 4 * gap > config.boundary_chance * length:
        return None
    number = round((since - begun) / length)
    at = begun + number * length
    if number < 1 or abs(at - since) > 2 * gap or at > points.last[-1]:
        return None
    before, after = plan.at(np.array([max(at - 1.0, 1.0), at + 2.0]))
    return None if after > config.rate_rise * before else round(at)
