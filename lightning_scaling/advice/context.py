"""What advice rests on beside the losses: earlier runs of the recipe, announced changes, facts that were seen."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from lightning_scaling.advice.batch_size import batch_size_hint
from lightning_scaling.advice.change_shape import is_abrupt
from lightning_scaling.advice.learning_rate import learning_rate_hint
from lightning_scaling.advice.matched_runs import BestRate, MatchedRuns, best_rate
from lightning_scaling.advice.repeats import Passes, Repeats
from lightning_scaling.detection import Deviation, Divergence
from lightning_scaling.runs.curve import Curve, Points
from lightning_scaling.runs.run import Run
from lightning_scaling.schedule.plan import Plan

RESUMED = "resumed"
_HELD_OUT = ("val", "test", "eval", "dev", "heldout", "held_out")


class AdviceContext:
    """Keeps what a :class:`Situation` tells beside the losses, the forecast and the verdict on it.

    Args:
        plan: Plan of the run.
        params: Its number of parameters.
        unique_tokens: Distinct tokens (or samples) there are; left out, worked out from the length of a pass.
        metric: Name of the metric followed; ``None`` is the training loss.
        rising: Whether that is to be high.

    Attributes:
        facts: What was seen beside the losses.
        repeats: Where the run was in its data at the last update; ``None`` where that cannot be told.
    """

    def __init__(
        self,
        plan: Plan,
        params: int | None,
        unique_tokens: float | None = None,
        *,
        metric: str | None = None,
        rising: bool = False,
    ) -> None:
        self.facts: dict[str, Any] = {}
        self.repeats: Repeats | None = None
        self._passes = Passes(unique_tokens)
        self._plan, self._params, self._metric, self._rising = plan, params, metric, rising
        self._runs: list[Run] = []
        self._changed = False
        self._last = 0
        self._memory: Mapping[str, Any] | None = None
        self._learn()

    def teach(self, runs: Iterable[Run]) -> None:
        """Take earlier runs of the family; those of another metric are left out."""
        self._runs = [run for run in runs if (run.meta.get("metric") or None) == self._metric]
        self._learn()

    def replan(self, plan: Plan) -> None:
        """Take a new plan from here on."""
        self._plan = plan
        self._learn()

    def _learn(self) -> None:
        self._twins = MatchedRuns([] if self._changed else self._runs, self._plan, self._params, rising=self._rising)
        if self._memory is not None:
            self._twins.load_state_dict(self._memory)
        self._best: BestRate | None = best_rate(self._runs, self._plan, self._params, rising=self._rising)

    def note(self, facts: Mapping[str, Any], step: int = 0) -> None:
        """Take facts by name, seen at a step; ``None`` takes one back."""
        if "epoch_steps" in facts:
            self._passes.note(facts["epoch_steps"], step)
        self.facts = {key: value for key, value in {**self.facts, **facts}.items() if value is not None}

    def mark(self, reason: str) -> None:
        """A change was announced: earlier runs are no measure any more, and layers may be idle on purpose."""
        if not reason.startswith(RESUMED):
            self._changed = True
            self._memory = None
            self._learn()
        self.note({"idle": None, "idle_share": None, "idle_names": None, "idle_since": None})

    def told(
        self, step: int, loss: float, curve: Curve, deviation: Deviation, divergence: Divergence | None
    ) -> dict[str, Any]:
        """Fields of the situation at an update; to be called once for each, in order.

        Args:
            step: The present step.
            loss: Mean loss since the last update.
            curve: The curve so far.
            deviation: The verdict against earlier forecasts.
            divergence: A blow-up under way.
        """
        troubled = deviation.alarm or divergence is not None
        since = deviation.since_step if divergence is None else divergence.since_step
        points = curve.points
        held_out = (self._metric or "").lower().startswith(_HELD_OUT)
        self.repeats = self._passes.count(curve, points, self._plan, self.facts.get("unit"), since)
        tokens = float(points.tokens[-1] / points.last[-1]) if len(curve) and points.last[-1] > 0 else math.nan
        behind = self._twins.compare(self._last, step, loss, tokens) if len(self._twins) else None
        self._last = step
        self._memory = self._twins.state_dict()
        marked = curve.segments[-1] if curve.segments else None
        return {
            "nonfinite_before": curve.nonfinite,
            "last_nonfinite": curve.last_nonfinite_step,
            "sudden": is_abrupt(points.loss, rising=self._rising) if troubled else None,
            "marked": marked,
            "facts": self.facts,
            "behind": behind,
            "best_rate": self._best,
            "hint": self._hint(tokens),
            "remark": batch_size_hint(self.facts, step / self._plan.total_steps if self._plan.total_steps else None),
            "held_out": held_out,
            "repeats": self.repeats,
            "best": self._best_point(points) if troubled and held_out else None,
        }

    def _hint(self, tokens_per_step: float) -> str:
        total = self._plan.total_steps
        counted = self.facts.get("unit") == "tokens" and total is not None and math.isfinite(tokens_per_step)
        rate = learning_rate_hint(self._plan.peak, self._params, tokens_per_step * (total or 0)) if counted else ""
        again = "" if self.repeats is None else self.repeats.hint()
        return " ".join(hint for hint in (rate, again) if hint)

    def _best_point(self, points: Points) -> tuple[int, float]:
        at = int(np.argmax(points.loss) if self._rising else np.argmin(points.loss))
        return round(float(points.step[at])), float(points.loss[at])

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs, as builtins."""
        return {
            "facts": dict(self.facts),
            "changed": self._changed,
            "last": self._last,
            "twins": self._twins.state_dict(),
            "passes": self._passes.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from what :meth:`state_dict` returned."""
        self.facts, self._changed, self._last = dict(state["facts"]), bool(state["changed"]), int(state["last"])
        self._memory = dict(state["twins"])
        if "passes" in state:
            self._passes.load_state_dict(state["passes"])
        self._learn()
