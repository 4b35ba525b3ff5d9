"""Protocol of the detectors: blocks of losses in, evidence out."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lightning_scaling._utils.stats import MAD_TO_STD
from lightning_scaling.detection.config import BlockConfig
from lightning_scaling.detection.result import DeviationBasis, DeviationKind, Direction

Array = NDArray[np.float64]

MAX_EXPONENT = 600.0
"""Largest exponent of a single e-value: their sum must not overflow."""


class ReferenceForecast(Protocol):
    """The part of a forecast that detectors use."""

    @property
    def step(self) -> int:
        """Step at which it was made."""

    @property
    def horizon(self) -> int:
        """Its last step."""

    @property
    def at_plan_end(self) -> bool:
        """Whether the horizon is the end of the plan."""

    @property
    def valid_until(self) -> float:
        """Step up to which a run may be tested against it."""

    @property
    def path(self) -> object | None:
        """``None`` where nothing is forecast."""

    def curve(self, steps: ArrayLike) -> tuple[Array, Array]:
        """Medians and scales of the loss at steps of shape ``(n,)``."""


@dataclass(frozen=True)
class FrozenForecast:
    """A forecast as it was when it was made, kept at a few steps between which it is interpolated.

    Attributes:
        step: Step at which it was made.
        horizon: Its last step.
        steps: Steps at which the medians are kept, shape ``(n,)``.
        medians: Medians of the loss there, shape ``(n,)``.
    """

    step: int
    horizon: int
    steps: Array = field(repr=False, compare=False)
    medians: Array = field(repr=False, compare=False)

    def at(self, step: float) -> float:
        """Median of the loss at a step."""
        return float(np.interp(step, self.steps, self.medians))

    def to_dict(self) -> dict[str, Any]:
        """The forecast as builtins."""
        return {**vars(self), "steps": self.steps.tolist(), "medians": self.medians.tolist()}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> FrozenForecast:
        """Read back what :meth:`to_dict` gave."""
        steps, medians = (np.array(data[name], dtype=np.float64) for name in ("steps", "medians"))
        return cls(data["step"], data["horizon"], steps, medians)


@dataclass(frozen=True)
class References:
    """The forecasts made after a block, against which later blocks may be tested.

    Attributes:
        own: The forecast by the run's own losses.
        past_runs: The forecast by the curves of past runs; ``None`` without any.
        settled: Whether the start of the run is over, so that its own forecast and its noise are usable.
    """

    own: ReferenceForecast
    past_runs: ReferenceForecast | None = None
    settled: bool = True


@dataclass(frozen=True)
class Block:
    """The losses between two updates.

    Attributes:
        step: Mean step.
        loss: Mean loss, outliers clipped.
        sd: Standard deviation of that mean.
        losses: The losses in order, shape ``(n,)``, each possibly a mean of several; empty where they are not kept.
        rate: Learning rate planned at the end of the block; ``nan`` if unknown.
        blown: Whether the last loss was above :meth:`DivergenceDetector.limit`.
    """

    step: float
    loss: float
    sd: float
    losses: Array = field(default_factory=lambda: np.empty(0), repr=False, compare=False)
    rate: float = math.nan
    blown: bool = False

    @classmethod
    def of(cls, steps: Array, losses: Array, noise: float, config: BlockConfig) -> Block | None:
        """Summarize losses.

        Args:
            steps: Optimizer steps, shape ``(n,)``.
            losses: Losses, shape ``(n,)``; those not finite are left out.
            noise: Standard deviation of the mean of so many losses around earlier fits; 0 if unknown.
            config: Tuned numbers.

        Returns:
            The block, or ``None`` without a finite loss.
        """
        finite = np.isfinite(losses)
        steps, losses = steps[finite], losses[finite]
        if losses.size == 0:
            return None
        clipped = losses
        if losses.size >= config.min_losses_to_clip:
            middle = float(np.median(losses))
            reach = config.clip_stds * MAD_TO_STD * float(np.median(np.abs(losses - middle)))
            clipped = np.clip(losses, middle - reach, middle + reach)
        within = config.autocorrelation_factor * float(clipped.var(ddof=1)) / losses.size if losses.size > 1 else 0.0
        own, known = losses.size - 1, config.prior_losses if noise > 0 else 0.0
        variance = (own * within + known * noise**2) / max(own + known, 1)
        mean = float(clipped.mean())
        sd = math.sqrt(variance + (config.model_error * mean) ** 2)
        return cls(float(steps.mean()), mean, sd, losses)


@dataclass(frozen=True)
class Evidence:
    """The result of one detector at one update.

    Attributes:
        log_e: Logarithm of its e-value times its share of the alpha budget; e-values of a budget add.
        kind: Form of the deviation; ``None`` while the effect is too small to matter.
        direction: ``"above"`` or ``"below"`` the forecast, ``None`` where the level has not changed.
        reference: The frozen forecast that the run has left most clearly.
        basis: Where that forecast came from.
        excess: Loss minus the loss expected by :attr:`reference`.
        expected: The loss expected by the latest frozen forecast.
        decidable: Whether the detector has something to test against. Without it there is no alarm of any detector.
        noise_ratio: Noise of the last losses over the usual noise; ``nan`` where it is not measured.
    """

    log_e: float = -math.inf
    kind: DeviationKind | None = None
    direction: Direction | None = None
    reference: FrozenForecast | None = None
    basis: DeviationBasis = DeviationBasis.OWN
    excess: float = math.nan
    expected: float = math.nan
    decidable: bool = True
    noise_ratio: float = math.nan

    @property
    def since(self) -> int | None:
        """Step of the forecast that the run has left."""
        return None if self.reference is None else self.reference.step

    def to_dict(self) -> dict[str, Any]:
        """The evidence as builtins."""
        reference = None if self.reference is None else self.reference.to_dict()
        return {**vars(self), "kind": self.kind and str(self.kind), "reference": reference, "basis": str(self.basis)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Evidence:
        """Read back what :meth:`to_dict` gave."""
        reference = data["reference"] and FrozenForecast.from_dict(data["reference"])
        kind, basis = data["kind"] and DeviationKind(data["kind"]), DeviationBasis(data["basis"])
        return cls(**{**data, "reference": reference, "kind": kind, "basis": basis})


NO_EVIDENCE = Evidence()


class Detector(ABC):
    """One test of a run; a new one is one subclass and one line in the list of :class:`RunDetectors`.

    Attributes:
        alpha_share: Share of the alpha budget of the run; 0 for a detector that raises no alarm.
        suspicious: Whether the next losses should be looked at before the next update is due.
        held: Whether an alarm of any detector is on: references stay what they were when it was raised.
    """

    alpha_share: float = 0.0
    suspicious: bool = False
    held: bool = False

    @abstractmethod
    def update(self, block: Block | None, forecast: References) -> Evidence:
        """Judge a block of losses.

        Args:
            block: The losses since the last update; ``None`` when none was finite.
            forecast: The forecasts made after them.
        """

    def freeze(self, block: Block, forecast: References) -> None:  # noqa: B027
        """Keep the forecasts made after a block as references for later ones; called while no alarm is on."""

    def peek(self, block: Block) -> Evidence:
        """The evidence if an update were made now; nothing is changed."""
        return NO_EVIDENCE

    def follow(self, block: Block, alarm: Evidence) -> Evidence | None:
        """An alarm of this detector after one more block; ``None`` once the deviation that it has found is over."""
        return alarm

    @abstractmethod
    def reset(self) -> None:
        """Forget everything, the spent budget included."""

    def restart(self) -> None:  # noqa: B027
        """Drop the references, as after an announced change; what was spent of the budget stays spent."""

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs to go on as the uninterrupted one, as builtins."""

    @abstractmethod
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from what :meth:`state_dict` returned."""
