"""Fit of the forecasting law to one recorded run as a whole."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from lightning_scaling.laws.arrays import Array
from lightning_scaling.laws.catalogue.schedules.relative_multi_power import RelativeMultiPower
from lightning_scaling.laws.extrapolation import RECENCY
from lightning_scaling.laws.results import Fit
from lightning_scaling.schedule.plan import Plan
from lightning_scaling.schedule.progress import ANNEAL_RATES, Progress

BURN_IN_SHARE = 0.04
"""Share of a run left out at the start, in addition to the warm-up; forecasts leave out the same share of the plan.
Choshen et al. 2024 (arXiv 2410.11840) drop a tenth."""

_LEAST_DECAY = 0.05
_KAPPA = next(p.prior[0] for p in RelativeMultiPower.parameters if p.name == "kappa" and p.prior)


class RecordedCurve(Protocol):
    """Attributes of a :class:`~lightning_scaling.Run` that are used here; laws do not depend on the records."""

    @property
    def step(self) -> NDArray[np.int64]:
        """Optimizer steps of the losses, shape ``(n,)``."""

    @property
    def loss(self) -> Array:
        """Losses, shape ``(n,)``."""

    @property
    def name(self) -> str | None:
        """Name of the run."""

    @property
    def plan(self) -> Plan:
        """The learning rate of every step."""


def fit_run(run: RecordedCurve) -> Fit:
    """Fit ``relative_multi_power`` to a recorded run under its plan.

    The end of the run counts most and its warm-up not at all, as in the monitor's forecasts; of the four speeds of
    annealing the best is kept. A run whose rate has not fallen does not determine the gain of annealing: ``kappa`` is
    then fixed at the centre of its prior.

    Args:
        run: The run.

    Returns:
        The fit; ``laws.load`` reads what its ``save`` writes.

    Raises:
        ValueError: Fewer losses after the warm-up than the law has parameters.
    """
    plan = run.plan
    end = plan.total_steps or int(run.step[-1])
    progress = Progress(plan, float(end))
    first = max(plan.warmup_end, BURN_IN_SHARE * float(run.step[-1]))
    used = np.isfinite(run.loss) & (run.step > first) & (run.step <= end)
    table = {"steps": run.step[used].astype(np.float64), "loss": run.loss[used]}
    if not used.any():
        raise ValueError(f"Run {run.name or ''} has no losses after its warm-up.".replace("  ", " "))
    reach = progress.progress(table["steps"])
    fixed = {"kappa": _KAPPA} if progress.fallen(float(table["steps"][-1])) < _LEAST_DECAY else None
    space = "log" if np.all(table["loss"] > 0) else "linear"
    fits = [
        RelativeMultiPower(plan, speed).fit(
            table, delta="auto", weights=(reach / reach[-1]) ** RECENCY, priors="default", fixed=fixed, space=space
        )
        for speed in ANNEAL_RATES
    ]
    return min(fits, key=lambda fit: float(fit.diagnostics["rms_residual"]))
