"""Past runs as a table of sizes, data and the losses they would have ended at under one schedule."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lightning_scaling.allocation.task import TRAINING_FLOPS
from lightning_scaling.allocation.tradeoff import Tradeoff, fit_tradeoff
from lightning_scaling.forecast.priors.final_loss import FinalLossPrior
from lightning_scaling.forecast.priors.past_run import PastRun
from lightning_scaling.runs.history import RunHistory
from lightning_scaling.runs.run import Run
from lightning_scaling.schedule.plan import Plan

Array = NDArray[np.float64]

_STARTED = 0.25
_WILD = 0.1
_WORTH_A_CHANGE = 0.001
_MOST = 100


@dataclass(frozen=True)
class LadderTable:
    """Past runs, one row each.

    Attributes:
        params: Sizes: the active ones where a run tells them, in ``meta["active_params"]``.
        total: All parameters.
        tokens: Training tokens (or samples) of the whole plan.
        loss: Where each ended, or is forecast to end, under the schedule asked for.
        error: Relative error of that.
        flops: Training FLOPs where all runs tell them, else reckoned.
        rate: Peak learning rate, nan where not known.
        batch: Tokens (or samples) a step.
        unfinished: How many are forecasts.
        moved: How many ended under another schedule.
        left_out: How many could not be used.
    """

    params: Array
    total: Array
    tokens: Array
    loss: Array
    error: Array
    flops: Array
    rate: Array
    batch: Array
    unfinished: int
    moved: int
    left_out: int

    def __len__(self) -> int:
        return len(self.loss)

    def tradeoff(self) -> Tradeoff:
        """Size against data; see :func:`~lightning_scaling.allocation.fit_tradeoff`."""
        return fit_tradeoff(self.params, self.tokens, self.loss, flops=self.flops, error=self.error)

    def take(self, rows: NDArray[np.bool_]) -> LadderTable:
        """Some of them."""
        kept: dict[str, Any] = {name: v[rows] for name, v in vars(self).items() if isinstance(v, np.ndarray)}
        return replace(self, **kept)

    def source(self) -> str:
        """What they are, for a sentence."""
        others = f" ({self.unfinished} of them forecast)" if self.unfinished else ""
        return f"{len(self)} runs of the family{others}"


def ladder_table(history: Iterable[Run], plan: Plan | None = None, each: float = TRAINING_FLOPS) -> LadderTable:
    """Read past runs.

    A run that is unfinished counts by the forecast of its landing, with its error; one that was annealed differently is
    moved by the difference that ``FinalLossPrior`` sees between its own schedule
    and that of `plan`, stretched to its length. Runs without a size or tokens, that ended before a quarter of their
    plan, or whose forecast is wilder than 10 % are left out; of many the latest 100 count.

    Args:
        history: The runs, of one family.
        plan: The schedule under which losses are compared; left out, each run's own.
        each: FLOPs per parameter and token, for runs that do not tell theirs.
    """
    runs = list(history)[-_MOST:]
    rows: list[tuple[Run, float, float, bool]] = []
    for run in runs:
        if not (run.params and run.tokens_per_step):
            continue
        relative = PastRun(run)
        if not relative.is_usable or relative.reached < _STARTED * run.total_steps:
            continue
        landing, spread = relative.log_final_loss
        if math.isfinite(landing) and spread < _WILD:
            rows.append((run, landing, spread, relative.finished))
    moved = 0
    logs = [landing for _, landing, _, _ in rows]
    prior = FinalLossPrior.from_history(RunHistory(row[0] for row in rows)) if plan is not None and plan.known else None
    if prior is not None and plan is not None:
        for place, (run, landing, _, _) in enumerate(rows):
            shift = _shift(prior, run, plan)
            logs[place] = landing + shift
            moved += abs(shift) > _WORTH_A_CHANGE
    active = [float(run.meta.get("active_params") or run.params or 0) for run, *_ in rows]
    tokens = [float(run.total_steps * (run.tokens_per_step or 0)) for run, *_ in rows]
    flops = np.array([run.total_steps * (run.flops_per_step or math.nan) for run, *_ in rows])
    if not np.all(np.isfinite(flops)):
        flops = each * np.array(active) * np.array(tokens)
    return LadderTable(
        params=np.array(active),
        total=np.array([float(run.params or 0) for run, *_ in rows]),
        tokens=np.array(tokens),
        loss=np.exp(np.array(logs)),
        error=np.array([spread for _, _, spread, _ in rows]),
        flops=flops,
        rate=np.array([_peak(run) for run, *_ in rows]),
        batch=np.array([float(run.tokens_per_step or 0) for run, *_ in rows]),
        unfinished=sum(not finished for *_, finished in rows),
        moved=int(moved),
        left_out=len(runs) - len(rows),
    )


def _shift(prior: FinalLossPrior, run: Run, plan: Plan) -> float:
    own = run.plan
    if not own.known or not own.peak > 0 or not plan.peak > 0 or not plan.total_steps:
        return 0.0
    tokens = run.total_steps * (run.tokens_per_step or 0.0)
    stretched = np.maximum(plan.steps * (run.total_steps / plan.total_steps), 0.0)
    kept = np.concatenate([[True], np.diff(stretched) > 0])
    wanted = Plan(stretched[kept], plan.lr[kept] * (own.peak / plan.peak), total_steps=run.total_steps)
    there, here = (prior.predict(run.params, tokens, one) for one in (wanted, own))
    shift = math.log(there / here) if there > 0 and here > 0 else 0.0
    return shift if math.isfinite(shift) else 0.0


def _peak(run: Run) -> float:
    known = run.planned_lr is not None or run.lr is not None
    return float(run.plan.peak) if known and run.plan.peak > 0 else math.nan
