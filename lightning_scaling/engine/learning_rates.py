"""Comparison of the learning rates used with the planned ones."""

from __future__ import annotations

import numpy as np

from lightning_scaling.runs.curve import LossBlock, Points
from lightning_scaling.schedule.plan import Plan

_MIN_SHARE_OF_PEAK = 0.01
"""Planned rates below this fraction of the peak are not compared: near zero any ratio is possible."""


def rate_ratios(plan: Plan, block: LossBlock) -> list[float]:
    """Median ratio of the rates used in a block to the planned ones; empty where none can be compared."""
    if block.lr is None:
        return []
    planned = plan.at(block.step)
    usable = np.isfinite(block.lr) & (planned > _MIN_SHARE_OF_PEAK * plan.peak)
    return [float(np.median(block.lr[usable] / planned[usable]))] if usable.any() else []


def is_binding(plan: Plan) -> bool:
    """Whether a plan says what the rates will be, so that other rates are worth reporting."""
    return plan.known and plan.source != "constant"


def plan_of_used_rates(plan: Plan, points: Points) -> Plan | None:
    """The plan that follows the rates used: what they were, and constant from here; ``None`` if none is known."""
    known = np.isfinite(points.lr)
    if not known.any():
        return None
    reason = "the learning rate is set by hand or by what happens, so its future is not known"
    return Plan(points.last[known], points.lr[known], total_steps=plan.total_steps, known=False, why=reason)
