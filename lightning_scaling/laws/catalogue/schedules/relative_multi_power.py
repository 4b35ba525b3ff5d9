"""Loss along a run under its plan, free of units: the law that follows live runs."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import numpy as np

from lightning_scaling.laws.base import Law, Parameter, Source
from lightning_scaling.schedule.plan import Plan
from lightning_scaling.schedule.progress import ANNEAL_RATES, Progress


class RelativeMultiPower(Law):
    """``loss = L0 + A * (P^-alpha - kappa * alpha * LD)``.

    ``P`` is the progress made by the learning rate, relative to the whole plan, and ``LD`` how much its falls have
    taken effect; both follow from the plan alone (:class:`lightning_scaling.schedule.Progress`), with rates relative to
    the peak, so that all shape parameters are free of units and carry over between recipes. ``kappa`` is the gain of a
    full fall of the rate in units of the slope of the loss per unit of log progress at the end. The Multi-Power Law
    of Luo et al. 2025 (arXiv 2503.12811), its gain tied to that slope; it is the law of
    :class:`lightning_scaling.Monitor`, which averages over these shapes.

    Args:
        plan: What the run intends to do, as a :class:`Plan` or its dictionary. Left out, the law can be looked at but
            not evaluated.
        speed: How fast a fall of the rate takes effect, per step at the peak rate.
    """

    name = "relative_multi_power"
    title = "Relative Multi-Power: loss of a live run under its plan"
    formula = "loss = L0 + A*(P^-alpha - kappa*alpha*LD)"
    source = Source("Luo et al.", 2025, "2503.12811", "relative to the peak rate and the plan")
    inputs = ("steps",)
    units = MappingProxyType({"steps": "optimizer steps of the run, up to the end of the plan"})
    parameters = (
        Parameter("L0", "loss at the end of progress", (-1.0, 1.0), lower=-np.inf, of="loss"),
        Parameter("A", "size of what progress takes away", (1e-3, 10.0), of="loss"),
        Parameter("alpha", "exponent of progress", (0.08, 1.2), upper=4.0, prior=(0.3, 0.6)),
        Parameter("kappa", "gain of annealing over the slope of the loss", (0.2, 4.0), upper=20.0, prior=(1.2, 0.45)),
    )
    linear = ("L0", "A")
    tags = frozenset({"single run", "schedule"})
    pitfalls = (
        "Before the rate has fallen nothing is known of kappa: give it, or use priors.",
        "Losses of the warm-up are outside the law.",
        "L0 and A depend on the length of the plan; compare alpha and kappa between runs.",
    )

    def __init__(self, plan: Plan | Mapping[str, Any] | None = None, speed: float = ANNEAL_RATES[2]) -> None:
        if not speed > 0:
            raise ValueError(f"{self.name}: `speed` must be positive, but got {speed!r}.")
        self.plan = Plan.from_dict(plan) if isinstance(plan, Mapping) else plan
        self.speed = float(speed)
        self._progress: Progress | None = None
        if self.plan is not None:
            end = self.plan.total_steps or float(self.plan.steps[-1])
            self._progress = Progress(self.plan, max(float(end), 1.0))

    def options(self) -> dict[str, Any]:
        """The plan and the speed."""
        return {"plan": None if self.plan is None else self.plan.to_dict(), "speed": self.speed}

    def features(self, x: Mapping[str, Any]) -> Mapping[str, Any]:
        """Adds ``log_progress`` and ``annealing`` at every step.

        Raises:
            ValueError: The law has no plan, or a step lies beyond its end.
        """
        if self._progress is None:
            raise ValueError(f"{self.name} needs the plan of the run: make it with laws.get({self.name!r}, plan=...).")
        steps = np.asarray(x["steps"], dtype=np.float64)
        if steps.size and float(steps.max()) > self._progress.horizon:
            raise ValueError(
                f"{self.name}: step {float(steps.max()):g} lies beyond the plan, which ends at "
                f"{self._progress.horizon:g}."
            )
        return {
            **x,
            "log_progress": np.log(self._progress.progress(steps)),
            "annealing": self._progress.anneal(steps, self.speed),
        }

    def value(self, p: Any, x: Any) -> Any:
        """``L0 + A (P^-alpha - kappa alpha LD)``."""
        return p.L0 + p.A * (np.exp(-p.alpha * x.log_progress) - p.kappa * p.alpha * x.annealing)
