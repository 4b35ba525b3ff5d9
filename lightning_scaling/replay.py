"""What the monitor would have said of a recorded run."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lightning_scaling.monitor import Monitor, Update
from lightning_scaling.run import Run, RunHistory


def replay(
    run: Run,
    *,
    history: RunHistory | None = None,
    at: Sequence[float] | None = None,
    alpha: float = 0.01,
    target: float | None = None,
) -> list[Update]:
    """Drive the engine of the callback over a recorded run; it sees the losses one by one and never looks ahead.

    Args:
        run: The recorded run; its plan (``total_steps`` and planned rates) is known from the start.
        history: Finished runs of the same family.
        at: Fractions of ``total_steps``, each in ``(0, 1]``, at which an update is asked for. Left out, the updates are
            those the callback would have made, every 1 % of the plan.
        alpha: Probability of a false alarm over the whole run.
        target: Loss the user wants to reach.

    Returns:
        The updates in order: one for each fraction of ``at``, or all of them.

    Raises:
        ValueError: If ``at`` holds something other than fractions, or an argument is out of its range.

    Example:
        >>> steps = list(range(1, 201))
        >>> run = Run(steps, [3 + s ** -0.5 for s in steps], [1e-3] * 200, total_steps=200)
        >>> [update.step for update in replay(run, at=[0.25, 0.5])]
        [50, 100]
    """
    fractions = None if at is None else [float(f) for f in at]
    if fractions is not None and not all(0 < f <= 1 for f in fractions):
        raise ValueError(
            f"`at` must hold fractions of the run, each above 0 and at most 1, but got {list(at or [])!r}."
        )
    monitor = Monitor(run.plan, alpha=alpha, target=target, history=history, params=run.params)
    recorded = ~np.isnan(run.loss)
    step, loss = run.step[recorded], run.loss[recorded]
    lr = None if run.lr is None else run.lr[recorded]
    tokens = None if run.tokens_per_step is None else step * run.tokens_per_step
    flops = None if run.flops_per_step is None else step * run.flops_per_step

    def feed(begin: int, end: int) -> list[Update]:
        part = slice(begin, end)
        return monitor.observe(
            step[part],
            loss[part],
            lr=None if lr is None else lr[part],
            tokens=None if tokens is None else tokens[part],
            flops=None if flops is None else flops[part],
        )

    if fractions is None:
        updates = feed(0, step.size)
        return updates + monitor.finish()
    asked: dict[float, Update] = {}
    done = 0
    for fraction in sorted(set(fractions)):
        limit = int(np.floor(fraction * run.total_steps + 1e-9))
        reached = int(np.searchsorted(step, limit, side="right"))
        feed(done, reached)
        asked[fraction] = monitor.update(limit)
        done = reached
    return [asked[fraction] for fraction in fractions]
