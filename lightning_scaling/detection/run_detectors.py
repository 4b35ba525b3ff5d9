"""All detectors of one run, and the verdict that follows from their evidence."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from lightning_scaling.detection.base import Block, Detector, Evidence, References
from lightning_scaling.detection.config import DEFAULT, DetectionConfig
from lightning_scaling.detection.divergence import Divergence, DivergenceDetector
from lightning_scaling.detection.path import PathDetector
from lightning_scaling.detection.result import UNDECIDABLE, Deviation, Direction
from lightning_scaling.detection.variance import VarianceDetector

_MAX_LOG_E = 700.0  # the largest exponent a float holds is 709


def default_detectors(config: DetectionConfig = DEFAULT) -> list[Detector]:
    """The detectors of a run; their shares of the alpha budget add up to 1."""
    return [PathDetector(config.path), VarianceDetector(config.variance), DivergenceDetector(config.divergence)]


class RunDetectors:
    """Holds the detectors of a run and adds up their evidence.

    Each detector's e-value is weighted by its share of the alpha budget; the sum is an e-value, and there is an alarm
    when it reaches ``1 / alpha`` and the effect found by the detector with the most evidence is large enough to matter.
    The alarm stays on until that detector finds that the run has recovered; then everything begins anew, after a quiet
    time of 5 % of the plan.

    Args:
        alpha: Probability of a false alarm over the whole run.
        detectors: The detectors; left out, :func:`default_detectors`. Shares must not exceed 1 in sum.
        config: Tuned numbers.

    Attributes:
        deviation: The latest verdict.

    Raises:
        ValueError: If the shares of the alpha budget exceed 1.
    """

    def __init__(
        self, alpha: float = 0.01, detectors: Sequence[Detector] | None = None, config: DetectionConfig = DEFAULT
    ) -> None:
        self.alpha = alpha
        self.detectors = list(default_detectors(config) if detectors is None else detectors)
        total = sum(one.alpha_share for one in self.detectors)
        if total > 1 + 1e-9:
            raise ValueError(f"The detectors' shares of the alpha budget must not exceed 1 in sum, but got {total:g}.")
        self._quiet_share = config.quiet_share
        self._begin()

    def _begin(self) -> None:
        self._raised_by: Detector | None = None
        self._alarm: Evidence | None = None
        self._log_e = 0.0
        self._quiet_until = 0.0
        self.deviation = UNDECIDABLE
        for detector in self.detectors:
            detector.held = False

    @property
    def divergence(self) -> Divergence | None:
        """A blow-up under way."""
        return next((d.divergence for d in self.detectors if isinstance(d, DivergenceDetector)), None)

    def limit(self, noise: float) -> float:
        """The loss that a single one must exceed to be a blow-up by itself; see :meth:`DivergenceDetector.limit`."""
        limits = (d.limit(noise) for d in self.detectors if isinstance(d, DivergenceDetector))
        return next(limits, math.inf)

    @property
    def suspicious(self) -> bool:
        """Whether the next losses should be looked at before the next update is due."""
        return self._alarm is None and any(detector.suspicious for detector in self.detectors)

    def update(self, block: Block | None, forecast: References) -> Deviation:
        """Judge the losses since the last update, then freeze the forecasts made after them.

        Args:
            block: The losses since the last update; ``None`` when none was finite. An alarm then stays as it is.
            forecast: The forecasts made after them; they are references for later blocks only.

        Returns:
            The verdict.
        """
        found = [detector.update(block, forecast) for detector in self.detectors]
        if self._raised_by is None or self._alarm is None:
            if block is not None and all(one.decidable for one in found):
                self._test(found)
        elif block is None:
            return self.deviation
        else:
            self._alarm = self._raised_by.follow(block, self._alarm)
            if self._alarm is None:
                self._begin_anew(block.step + self._quiet_share * forecast.own.horizon)
                return self.deviation
        self.deviation = self._verdict(found, block)
        if self._alarm is None and block is not None and forecast.own.step >= self._quiet_until:
            for detector in self.detectors:
                detector.freeze(block, forecast)
        return self.deviation

    def peek(self, block: Block) -> bool:
        """Whether an update made now would raise an alarm; nothing is changed."""
        if self._alarm is not None:
            return False
        found = [detector.peek(block) for detector in self.detectors]
        return all(one.decidable for one in found) and self._leading(found) is not None

    def _leading(self, found: Sequence[Evidence]) -> int | None:
        """The detector with the most evidence, if all evidence together is enough and the effect matters."""
        logs = [one.log_e for one in found]
        if float(np.logaddexp.reduce(logs)) < -math.log(self.alpha):
            return None
        most = int(np.argmax(logs))
        return None if found[most].kind is None else most

    def _test(self, found: Sequence[Evidence]) -> None:
        self._log_e = float(np.logaddexp.reduce([one.log_e for one in found]))
        most = self._leading(found)
        if most is None:
            return
        # A detector that knows no forecast takes the one that the run has left most clearly.
        left = next((one for one in (found[most], *found) if one.reference is not None), found[most])
        self._alarm = replace(found[most], reference=left.reference, basis=left.basis, excess=left.excess)
        self._raised_by = self.detectors[most]
        for detector in self.detectors:
            detector.held = True

    def _verdict(self, found: Sequence[Evidence], block: Block | None) -> Deviation:
        ratio = next((one.noise_ratio for one in found if not math.isnan(one.noise_ratio)), math.nan)
        e_value = math.exp(min(self._log_e, _MAX_LOG_E))
        alarm = self._alarm
        if alarm is None and not all(one.decidable for one in found):
            return UNDECIDABLE
        if alarm is None or block is None:
            expected = next((one.expected for one in found if not math.isnan(one.expected)), math.nan)
        else:
            expected = math.nan if alarm.reference is None else alarm.reference.at(block.step)
        excess = math.nan if block is None else block.loss - expected
        if alarm is None:
            return Deviation(False, e_value, None, None, "on track", excess, expected, None, ratio)
        direction: Direction | None = None if alarm.direction is None else "below" if excess < 0 else "above"
        return Deviation(
            True, e_value, direction, alarm.since, "deviating", excess, expected, alarm.kind, ratio, alarm.basis
        )

    def _begin_anew(self, step: float) -> None:
        """Take the whole budget again from a step on: an alarm has ended, and a false one is counted once."""
        self._begin()
        self._quiet_until = step
        self.deviation = Deviation(False, 1.0, None, None, "on track")
        for detector in self.detectors:
            if detector.alpha_share:
                detector.reset()

    def restart(self, *, keep_verdict: bool = False) -> None:
        """Forget all forecasts, as after an announced change; the budget spent so far stays spent.

        Args:
            keep_verdict: Whether the present verdict stays until the next update, as after a change of the plan.
        """
        verdict = self.deviation
        self._begin()
        for detector in self.detectors:
            detector.restart()
        if keep_verdict:
            self.deviation = verdict

    def reset(self) -> None:
        """Forget everything."""
        self._begin()
        for detector in self.detectors:
            detector.reset()

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs, as builtins: the state of each detector, the verdict and the alarm behind it."""
        return {
            "detectors": [detector.state_dict() for detector in self.detectors],
            "raised_by": None if self._raised_by is None else self.detectors.index(self._raised_by),
            "alarm": None if self._alarm is None else self._alarm.to_dict(),
            "log_e": self._log_e,
            "quiet_until": self._quiet_until,
            "verdict": self.deviation.to_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from what :meth:`state_dict` returned."""
        alarm, raised_by = state["alarm"], state["raised_by"]
        self._alarm = None if alarm is None else Evidence.from_dict(alarm)
        self._raised_by = None if raised_by is None else self.detectors[raised_by]
        self._log_e, self._quiet_until = state["log_e"], state["quiet_until"]
        self.deviation = Deviation.from_dict(state["verdict"])
        for detector, part in zip(self.detectors, state["detectors"], strict=True):
            detector.load_state_dict(part)
            detector.held = self._alarm is not None
