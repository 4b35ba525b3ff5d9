"""The record of a followed run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from lightning_scaling.engine.metric import FollowedMetric
from lightning_scaling.runs.curve import Curve
from lightning_scaling.runs.run import Run
from lightning_scaling.schedule.plan import Plan


def record_of(curve: Curve, plan: Plan, metric: FollowedMetric, known: Mapping[str, Any]) -> Run:
    """The run recorded so far, one point per bin of the curve.

    Args:
        curve: The curve.
        plan: The plan in force.
        metric: The metric followed; its settings go into the ``meta`` of the run.
        known: Further arguments of :class:`Run`.

    Raises:
        ValueError: If the curve holds no finite loss.
    """
    points = curve.points
    steps = np.maximum(np.rint(points.step), 1)
    keep = np.concatenate([np.diff(steps) > 0, [True]]) if steps.size else np.empty(0, dtype=bool)
    lr = points.lr[keep]
    fields: dict[str, Any] = {
        "total_steps": plan.total_steps or max(curve.last_step, 1),
        "planned_lr": (plan.steps, plan.lr),
        **known,
    }
    settings = dict(metric.settings)
    name = settings.pop("monitor")
    if name is not None or not metric.plain:
        fields["meta"] = {**(fields.get("meta") or {}), "metric": name, **settings}
    return Run(steps[keep], points.loss[keep], lr if np.isfinite(lr).all() and lr.size else None, **fields)
